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
    table: Option<Array>,
    /// By row and KV slots.
    gathers: Vec<([usize; 3], Array)>,
    /// By row, window and causality.
    masks: Vec<((usize, Window, bool), Option<Array>)>,
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
        let make = || {
            let table = table::table(seqs, page_tokens);
            device.from_slice(&table, &[table.len()], Dtype::I32)
        };
        self.table.get_or_insert_with(make).clone()
    }

    /// Where the tokens of a span are stored: i32 `[n]`.
    pub(crate) fn gather(
        &mut self,
        device: &Device,
        seqs: &Seqs<'_>,
        row: usize,
        span: Span,
        page_tokens: usize,
    ) -> Array {
        let key = [row, span[0], span[1]];
        if let Some((_, array)) = self.gathers.iter().find(|(k, _)| *k == key) {
            return array.clone();
        }
        let places = slots(seqs, &seqs.rows[row], span, page_tokens);
        let array = device.from_slice(&places, &[places.len()], Dtype::I32);
        self.gathers.push((key, array.clone()));
        array
    }

    /// Which slots of a span each token of a row sees: bool `[n_tok, n]`, or `None` where every token sees all.
    pub(crate) fn mask(
        &mut self,
        device: &Device,
        seqs: &Seqs<'_>,
        row: usize,
        (window, causal): (Window, bool),
    ) -> Option<Array> {
        let key = (row, window, causal);
        if let Some((_, mask)) = self.masks.iter().find(|(k, _)| *k == key) {
            return mask.clone();
        }
        let mask = make_mask(device, seqs, &seqs.rows[row], window, causal);
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

fn make_mask(device: &Device, seqs: &Seqs<'_>, row: &SeqRow, window: Window, causal: bool) -> Option<Array> {
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
    let column = |numbers: Vec<i32>| device.from_slice(&numbers, &[numbers.len(), 1], Dtype::I32);
    let line = |numbers: Vec<i32>| device.from_slice(&numbers, &[1, numbers.len()], Dtype::I32);
    let own = &seqs.positions[row.first..][..row.n_tok];
    let queries = column(own.to_vec());
    let keys = line((from..row.start).map(|slot| slot as i32).chain(own.iter().copied()).collect());
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
        device.less_equal(&line((from..to).map(slot).collect()), &queries)
    });
    match (reached, within) {
        (Some(a), Some(b)) => Some(device.logical_and(&a, &b)),
        (a, b) => a.or(b),
    }
}
