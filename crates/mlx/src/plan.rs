//! Where a batch's keys lie and what its tokens see: arrays that all layers of a step share.

use mlxr_compute::op::{SeqRow, Seqs, Window};
use mlxr_compute::scalar::sees;

use crate::ffi::{Array, Device, Dtype};
use crate::own::table;

/// The arrays of the last batch.
#[derive(Default)]
pub(crate) struct Plan {
    rows: Vec<SeqRow>,
    pages: Vec<u32>,
    positions: Vec<i32>,
    parents: Vec<i32>,
    places: Option<Array>,
    table: Option<Table>,
    /// By first row, end and tokens of a tile.
    tiles: Vec<([usize; 3], Array)>,
    /// By row, KV slots and how many are taken.
    gathers: Vec<([usize; 4], Array)>,
    /// By row and [`Padded`].
    queries: Vec<((usize, Padded), Array)>,
    masks: Vec<(MaskKey, Option<Array>)>,
}

/// What our kernels know of a batch, with room for more pages.
#[derive(Clone)]
pub(crate) struct Table {
    array: Array,
    n: usize,
    page_tokens: usize,
}

/// Numbers in multiples of which a table has room.
const TABLE_GRANULE: usize = 64;

impl Table {
    fn new(device: &Device, seqs: &Seqs<'_>, page_tokens: usize) -> Table {
        let mut table = table::table(seqs, page_tokens);
        table.resize((table.len() + seqs.rows.len()).next_multiple_of(TABLE_GRANULE), 0);
        let n = table.len();
        Table { array: device.from_slice(&table, &[n], Dtype::I32), n, page_tokens }
    }

    /// Makes it that of another batch before anything has read it; false where there is no room.
    pub(crate) fn overwrite(&self, device: &Device, seqs: &Seqs<'_>) -> bool {
        let table = table::table(seqs, self.page_tokens);
        let fits = table.len() <= self.n;
        if fits {
            device.overwrite(&self.array, &table);
        }
        fits
    }
}

/// Row, window, causality and shape.
type MaskKey = (usize, Window, bool, [usize; 2]);

/// How many queries and keys are computed for a row: its own, then repetitions that no query of its own sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Padded {
    /// Queries before the row's own.
    pub front: usize,
    /// Queries in all.
    pub n_query: usize,
    /// Keys in all.
    pub n_key: usize,
}

impl Padded {
    /// As many as the row has.
    pub(crate) fn exact(row: &SeqRow, [from, to]: Span) -> Padded {
        Padded { front: 0, n_query: row.n_tok, n_key: to - from }
    }

    /// Multiples of `granule`, for causal attention that goes by a mask.
    pub(crate) fn masked(row: &SeqRow, [from, to]: Span, granule: usize) -> Padded {
        Padded { front: 0, n_query: row.n_tok.next_multiple_of(granule), n_key: (to - from).next_multiple_of(granule) }
    }

    /// Multiples of `granule`, for attention to all slots up to a query's own. The last query sees the last key, and each
    /// one before it a key less: queries before the row's own make their slot a multiple, as many queries as keys come
    /// after them.
    pub(crate) fn lower(row: &SeqRow, granule: usize) -> Padded {
        let n_key = (row.start + row.n_tok).next_multiple_of(granule);
        let front = row.start % granule;
        Padded { front, n_query: n_key - (row.start - front), n_key }
    }
}

/// KV slots that some token of a row may see, from and to.
pub(crate) type Span = [usize; 2];

impl Plan {
    /// Forgets the arrays if the batch is another one.
    pub(crate) fn update(&mut self, seqs: &Seqs<'_>) {
        let same = self.rows == seqs.rows && self.pages == seqs.pages && self.positions == seqs.positions;
        if same && self.parents == seqs.parents {
            return;
        }
        *self = Plan {
            rows: seqs.rows.to_vec(),
            pages: seqs.pages.to_vec(),
            positions: seqs.positions.to_vec(),
            parents: seqs.parents.to_vec(),
            ..Plan::default()
        };
    }

    /// Where the batch's tokens are stored, among the tokens of all pages: i32 `[n_tok]`.
    pub(crate) fn places(&mut self, device: &Device, seqs: &Seqs<'_>, page_tokens: usize) -> Array {
        let make = || {
            let row = |row: &SeqRow| slots(seqs, row, [row.start, row.start + row.n_tok], page_tokens);
            let places: Vec<i32> = seqs.rows.iter().flat_map(row).collect();
            device.from_slice(&places, &[places.len()], Dtype::I32)
        };
        self.places.get_or_insert_with(make).clone()
    }

    /// What our kernels know of the batch.
    pub(crate) fn table(&mut self, device: &Device, seqs: &Seqs<'_>, page_tokens: usize) -> Array {
        self.table.get_or_insert_with(|| Table::new(device, seqs, page_tokens)).array.clone()
    }

    /// That of [`Plan::table`], if the batch has had one.
    pub(crate) fn known_table(&self) -> Option<Table> {
        self.table.clone()
    }

    /// The tiles of rows `from..to`, of at most `n` tokens: i32 `[2 * n_tile]`.
    pub(crate) fn tiles(&mut self, device: &Device, seqs: &Seqs<'_>, [from, to]: [usize; 2], n: usize) -> Array {
        let key = [from, to, n];
        if let Some((_, array)) = self.tiles.iter().find(|(k, _)| *k == key) {
            return array.clone();
        }
        let tiles = table::tiles(&seqs.rows[from..to], n);
        let array = device.from_slice(&tiles, &[tiles.len()], Dtype::I32);
        self.tiles.push((key, array.clone()));
        array
    }

    /// Where the tokens of a span are stored, the last one as often as makes `n_key`: i32 `[n_key]`.
    pub(crate) fn gather(
        &mut self,
        device: &Device,
        (seqs, row): (&Seqs<'_>, usize),
        span: Span,
        n_key: usize,
        page_tokens: usize,
    ) -> Array {
        let key = [row, span[0], span[1], n_key];
        if let Some((_, array)) = self.gathers.iter().find(|(k, _)| *k == key) {
            return array.clone();
        }
        let mut places = slots(seqs, &seqs.rows[row], span, page_tokens);
        let last = *places.last().expect("a row has tokens");
        places.resize(n_key, last);
        let array = device.from_slice(&places, &[places.len()], Dtype::I32);
        self.gathers.push((key, array.clone()));
        array
    }

    /// Which of the batch's tokens are the padded queries of a row: i32 `[n_query]`.
    pub(crate) fn queries(&mut self, device: &Device, (seqs, row): (&Seqs<'_>, usize), padded: Padded) -> Array {
        let key = (row, padded);
        if let Some((_, array)) = self.queries.iter().find(|(k, _)| *k == key) {
            return array.clone();
        }
        let SeqRow { first, n_tok, .. } = seqs.rows[row];
        let token = |i: usize| (first + i.saturating_sub(padded.front).min(n_tok - 1)) as i32;
        let tokens: Vec<i32> = (0..padded.n_query).map(token).collect();
        let array = device.from_slice(&tokens, &[tokens.len()], Dtype::I32);
        self.queries.push((key, array.clone()));
        array
    }

    /// Which slots of a span each token of a row sees: bool `[n_query, n_key]`, or `None` where every token sees all. No
    /// token sees keys after the span's, which only causal attention may have.
    pub(crate) fn mask(
        &mut self,
        device: &Device,
        (seqs, row): (&Seqs<'_>, usize),
        (window, causal): (Window, bool),
        shape: [usize; 2],
    ) -> Option<Array> {
        let key = (row, window, causal, shape);
        if let Some((_, mask)) = self.masks.iter().find(|(k, _)| *k == key) {
            return mask.clone();
        }
        let mask = make_mask(device, (seqs, &seqs.rows[row]), (window, causal), shape);
        self.masks.push((key, mask.clone()));
        mask
    }
}

/// The KV slots of a row that some of its tokens may see. Slots before the row's tokens lie at their positions.
pub(crate) fn span(seqs: &Seqs<'_>, row: &SeqRow, window: Window) -> Span {
    let first = seqs.positions[row.first..][..row.n_tok].iter().copied().min().unwrap_or(0);
    let from = match window {
        Window::Full => 0,
        Window::Sliding(n) => i64::from(first) + 1 - i64::from(n),
        Window::Chunked(n) => i64::from(first).div_euclid(i64::from(n)) * i64::from(n),
    };
    [usize::try_from(from).unwrap_or(0).min(row.start), row.start + row.n_tok]
}

/// Places of the KV slots `from..to` of a row.
fn slots(seqs: &Seqs<'_>, row: &SeqRow, [from, to]: Span, page_tokens: usize) -> Vec<i32> {
    let place = |slot: usize| seqs.pages[row.pages.0 + slot / page_tokens] as usize * page_tokens + slot % page_tokens;
    (from..to).map(|slot| i32::try_from(place(slot)).expect("a store has fewer places than 2^31")).collect()
}

fn make_mask(
    device: &Device,
    (seqs, row): (&Seqs<'_>, &SeqRow),
    (window, causal): (Window, bool),
    [n_query, n_key]: [usize; 2],
) -> Option<Array> {
    let [from, to] = span(seqs, row, window);
    let one = row.n_tok == 1;
    if one || window == Window::Full && !causal && !row.tree {
        return None;
    }
    if row.tree {
        let seen = |i: usize| (from..to).map(move |slot| u8::from(sees(seqs, row, [i, slot], causal, window).0));
        let seen: Vec<u8> = (0..row.n_tok).flat_map(seen).collect();
        return Some(device.from_slice(&seen, &[row.n_tok, to - from], Dtype::Bool));
    }
    let column = |mut numbers: Vec<i32>| {
        numbers.resize(n_query, numbers[numbers.len() - 1]);
        device.from_slice(&numbers, &[n_query, 1], Dtype::I32)
    };
    let line = |mut numbers: Vec<i32>, after: i32| {
        numbers.resize(n_key, after);
        device.from_slice(&numbers, &[1, n_key], Dtype::I32)
    };
    let own = &seqs.positions[row.first..][..row.n_tok];
    let queries = column(own.to_vec());
    let keys = line((from..row.start).map(|slot| slot as i32).chain(own.iter().copied()).collect(), 0);
    let within = match window {
        Window::Full => None,
        Window::Sliding(n) => {
            let n = device.from_slice(&[i32::try_from(n).unwrap_or(i32::MAX)], &[], Dtype::I32);
            Some(device.less(&device.abs(&device.subtract(&queries, &keys)), &n))
        }
        Window::Chunked(n) => {
            let n = device.from_slice(&[i32::try_from(n).unwrap_or(i32::MAX)], &[], Dtype::I32);
            Some(device.equal(&device.floor_divide(&queries, &n), &device.floor_divide(&keys, &n)))
        }
    };
    let reached = causal.then(|| {
        let slot = |i: usize| i as i32;
        let queries = column((row.start..to).map(slot).collect());
        device.less_equal(&line((from..to).map(slot).collect(), i32::MAX), &queries)
    });
    match (reached, within) {
        (Some(a), Some(b)) => Some(device.logical_and(&a, &b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padded_queries_see_what_they_saw() {
        for start in 0..40 {
            for n_tok in 2..40 {
                let row = SeqRow { first: 0, n_tok, start, pages: (0, 0), slot: 0, tree: false };
                let Padded { front, n_query, n_key } = Padded::lower(&row, 16);
                assert!(n_query.is_multiple_of(16) && n_key.is_multiple_of(16), "{start} {n_tok}");
                assert!(front + n_tok <= n_query && n_query <= n_key && start + n_tok <= n_key, "{start} {n_tok}");
                // The last query sees all keys, the one before it one less.
                assert_eq!(n_key - n_query + front, start, "slot of the first token");
            }
        }
    }
}
