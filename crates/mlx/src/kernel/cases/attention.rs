//! Launches of the kernels of attention.

use mlxr_compute::Backend;
use mlxr_compute::conformance::Random;
use mlxr_compute::op::{Attention, KvSpec, KvType, LayerState, Rope, RopePairs, SeqRow, Seqs, Window};
use mlxr_compute::scalar::{Scalar, Store, Tensor};

use super::{Case, Finish, HALF, Limit, SINGLE, bytes, sizes};
use crate::kernel::Instance;
use crate::kernel::source::Launch;
use crate::own::table;

const PAGE_TOKENS: usize = 16;

/// What attention computes besides dot products.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    pub window: Window,
    pub softcap: Option<f32>,
    pub sinks: bool,
}

/// Joins shares of attention: `parts` `[n, n_share, d]`, `sums` `[n, n_share, 2]`, `sinks` of the heads, which recur.
pub(super) fn merge(parts: &[f32], sums: &[f32], sinks: &[f32], [n_share, d]: [usize; 2]) -> Vec<f32> {
    let mut out = Vec::with_capacity(parts.len() / n_share);
    for (i, (parts, sums)) in parts.chunks(n_share * d).zip(sums.chunks(2 * n_share)).enumerate() {
        let sink = f64::from(sinks[i % sinks.len()]);
        let top = sums.chunks(2).map(|s| f64::from(s[0])).fold(sink, f64::max);
        let keep = |share: usize| (f64::from(sums[2 * share]) - top).exp();
        let mass = (sink - top).exp() + (0..n_share).map(|s| f64::from(sums[2 * s + 1]) * keep(s)).sum::<f64>();
        let sum = |j: usize| (0..n_share).map(|s| f64::from(parts[s * d + j]) * keep(s)).sum::<f64>();
        out.extend((0..d).map(|j| (sum(j) / mass) as f32));
    }
    out
}

/// Sequences whose keys and values are stored.
struct Sequences {
    store: Store,
    /// Keys and values of all pages as kernels read them, then their scales if they have such.
    stored: Vec<Vec<u8>>,
    pages: Vec<u32>,
    /// Pages of each sequence.
    n_page: usize,
}

/// Sequences of these lengths.
fn sequences(random: &mut Random, [d, n_kv_head]: [usize; 2], dtype: KvType, lengths: &[usize]) -> Sequences {
    let width = n_kv_head * d;
    let max_page = lengths.iter().map(|n| n.div_ceil(PAGE_TOKENS)).max().unwrap_or(1);
    let n_page = lengths.len() * max_page;
    let pages = random.shuffled(n_page);
    let layer = LayerState::Kv { n_kv_head, d_k: d, d_v: d, d_latent: 0 };
    let spec = KvSpec { layers: vec![layer], page_tokens: PAGE_TOKENS, n_page, n_slot: 0, dtype };
    let mut store = Scalar.kv(&spec).expect("a small store");
    let mut all = [(); 2].map(|()| vec![0f32; n_page * PAGE_TOKENS * width]);
    for (i, &length) in lengths.iter().enumerate() {
        let range = (i * max_page, (i + 1) * max_page);
        let row = SeqRow { first: 0, n_tok: length, start: 0, pages: range, slot: 0, tree: false };
        let positions: Vec<i32> = (0..length as i32).collect();
        let seqs = Seqs { rows: &[row], pages: &pages, positions: &positions, parents: &[] };
        let both = [(); 2].map(|()| Tensor { shape: [length, width], data: random.normals(length * width) });
        Scalar.kv_append(&mut store, 0, &both[0], Some(&both[1]), &seqs);
        for slot in 0..length {
            let page = pages[i * max_page + slot / PAGE_TOKENS] as usize;
            let at = (page * PAGE_TOKENS + slot % PAGE_TOKENS) * width;
            for (stored, numbers) in all.iter_mut().zip(&both) {
                stored[at..at + width].copy_from_slice(numbers.row(slot));
            }
        }
    }
    let stored = match dtype {
        KvType::Q8 => {
            let [(k, k_scales), (v, v_scales)] = all.map(|numbers| codes(&numbers, d));
            vec![bytes(&k), bytes(&v), bytes(&k_scales), bytes(&v_scales)]
        }
        _ => all.iter().map(|numbers| bytes(&numbers.iter().map(|x| f16(*x)).collect::<Vec<u16>>())).collect(),
    };
    Sequences { store, stored, pages, n_page: max_page }
}

fn f16(x: f32) -> u16 {
    half::f16::from_f32(x).to_bits()
}

/// Codes and scales of heads of `d`, as `Scalar` rounds them.
fn codes(numbers: &[f32], d: usize) -> (Vec<i8>, Vec<f32>) {
    let scales: Vec<f32> =
        numbers.chunks(d).map(|head| head.iter().fold(0.0f32, |most, x| most.max(x.abs())) / 127.0).collect();
    let inverse = |scale: f32| if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let code = |(i, x): (usize, &f32)| (x * inverse(scales[i / d])).round_ties_even() as i8;
    (numbers.iter().enumerate().map(code).collect(), scales)
}

/// What kernels of a name keep keys and values in.
fn kv_type(name: &str) -> KvType {
    if name.ends_with("_q8") { KvType::Q8 } else { KvType::F16 }
}

/// Errors of attention by matrix products of f16. Keys and values of 8 bits are rounded to f16 on their way into them: as
/// much again.
fn half(name: &str) -> f32 {
    if kv_type(name) == KvType::Q8 { 2.0 * HALF } else { HALF }
}

impl Sequences {
    /// Rows of the last `n_toks` tokens of sequences of `lengths`, and the tokens' positions.
    fn rows(&self, lengths: &[usize], n_toks: &[usize]) -> (Vec<SeqRow>, Vec<i32>) {
        let mut first = 0;
        let row = |(i, (&length, &n_tok)): (usize, (&usize, &usize))| {
            let pages = (i * self.n_page, (i + 1) * self.n_page);
            let row = SeqRow { first, n_tok, start: length - n_tok, pages, slot: i, tree: false };
            first += n_tok;
            row
        };
        let rows: Vec<SeqRow> = lengths.iter().zip(n_toks).enumerate().map(row).collect();
        let positions = rows.iter().flat_map(|row| row.start..row.start + row.n_tok).map(|p| p as i32).collect();
        (rows, positions)
    }
}

/// What attention is asked, and the definition's answer.
struct Asked {
    table: Vec<i32>,
    q: Vec<f32>,
    factors: Vec<f32>,
    sinks: Vec<f32>,
    want: Vec<f32>,
}

/// Attention of random queries of the last `n_toks` tokens.
fn asked(
    random: &mut Random,
    sequences: &Sequences,
    [d, n_head]: [usize; 2],
    [lengths, n_toks]: [&[usize]; 2],
    how: How,
) -> Asked {
    let (rows, positions) = sequences.rows(lengths, n_toks);
    let seqs = Seqs { rows: &rows, pages: &sequences.pages, positions: &positions, parents: &[] };
    let n_tok = positions.len();
    let q = Tensor { shape: [n_tok, n_head * d], data: random.normals(n_tok * n_head * d) };
    let sinks = if how.sinks { random.normals(n_head) } else { vec![-1e30; n_head] };
    let sink_row = Tensor { shape: [1, n_head], data: sinks.clone() };
    let scale = 1.0 / (d as f32).sqrt();
    let How { window, softcap, .. } = how;
    let some = how.sinks.then_some(&sink_row);
    let asked = Attention { n_head, scale, window, softcap, sinks: some, alibi: None, causal: true };
    let want = Scalar.attention(&q, &sequences.store, 0, &asked, &seqs).data;
    let table = table::table(&seqs, PAGE_TOKENS);
    Asked { table, q: q.data, factors: vec![scale, softcap.unwrap_or(0.0)], sinks, want }
}

/// Decoding tokens of sequences of these lengths, the token included, by one of the kernels for them.
pub(super) fn paged(
    random: &mut Random,
    name: &str,
    [d, group, n_kv_head, n_share]: [usize; 4],
    lengths: &[usize],
    how: How,
) -> Case {
    let (n_tok, n_head) = (lengths.len(), n_kv_head * group);
    let sequences = sequences(random, [d, n_kv_head], kv_type(name), lengths);
    let Asked { table, q, factors, sinks, want } =
        asked(random, &sequences, [d, n_head], [lengths, &vec![1; n_tok]], how);
    let [kind, n_seen] = table::window_sizes(how.window);
    let title = format!("{lengths:?} tokens, {n_share} shares, {how:?}");
    let grid = [n_kv_head as u32, n_tok as u32, n_share as u32];
    let (n_out, n) = (n_tok * n_head * d, n_tok * n_head * n_share);
    if name.starts_with("paged_attention_tiles") {
        let alone = n_tok == 1 && n_share > 1 && lengths[0] >= 64 * n_share;
        let layout = if (n_head * d).is_multiple_of(128) { [0, 4, 8][lengths[0] % 3] } else { 0 };
        let constants = [d as u32, group as u32, PAGE_TOKENS as u32, n_kv_head as u32, u32::from(alone), layout];
        let instance = Instance::new(name, &constants, "half");
        let rest = vec![
            bytes(&table),
            sizes(&[n_share, kind, n_seen, 0]),
            bytes(&factors),
            bytes(&sinks),
            bytes(&vec![0u32; n_tok * n_kv_head]),
        ];
        let inputs = [vec![bytes(&q)], sequences.stored, rest].concat();
        let n_pair = if layout > 0 { n_tok.next_multiple_of(8) * n_head * d / 2 } else { 1 };
        let title = format!("{}, {title}", instance.name());
        let launch = Launch { instance, grid, inputs, outputs: vec![n_out, n_pair, n * d, 2 * n] };
        let want = if layout > 0 { [&want[..], &want].concat() } else { want };
        let finish = Finish::Joined(layout, n_head * d);
        // Products round queries and weights to f16, and pairs are f16.
        return Case { launch, title, want, n_col: d, finish, limit: Limit::Row(2.0 * half(name)) };
    }
    let instance = Instance::new(name, &[d as u32, group as u32], "half");
    let title = format!("{}, {title}", instance.name());
    let sizes = sizes(&[n_kv_head, n_share, PAGE_TOKENS, kind, n_seen, 0]);
    let inputs =
        [vec![bytes(&q)], sequences.stored, vec![bytes(&table), sizes, bytes(&factors), bytes(&sinks)]].concat();
    let launch = Launch { instance, grid, inputs, outputs: vec![n * d, 2 * n] };
    let finish = if n_share == 1 { Finish::First } else { Finish::Merge(n_share, d, sinks) };
    // Keys are rounded to f16 in both; scores are sums in f32, exponentiated.
    Case { launch, title, want, n_col: d, finish, limit: Limit::Row(SINGLE) }
}

/// The last `n_toks` tokens of sequences of these lengths, after a token of another one.
pub(super) fn prompts(
    random: &mut Random,
    name: &str,
    [d, group, n_kv_head]: [usize; 3],
    [lengths, n_toks]: [&[usize]; 2],
    how: How,
) -> Case {
    let n_head = n_kv_head * group;
    let (lengths, n_toks) = ([&[1], lengths].concat(), [&[1], n_toks].concat());
    let sequences = sequences(random, [d, n_kv_head], kv_type(name), &lengths);
    let Asked { table, q, factors, sinks, want } = asked(random, &sequences, [d, n_head], [&lengths, &n_toks], how);
    let (rows, positions) = sequences.rows(&lengths, &n_toks);
    let tiles = table::tiles(&rows[1..], 64 / group);
    let [kind, n_seen] = table::window_sizes(how.window);
    let instance = Instance::new(name, &[d as u32, group as u32, PAGE_TOKENS as u32], "half");
    let title = format!("{}, {n_toks:?} tokens of {lengths:?}, {how:?}", instance.name());
    let rest = vec![bytes(&table), bytes(&tiles), sizes(&[n_kv_head, kind, n_seen, 1]), bytes(&factors), bytes(&sinks)];
    let inputs = [vec![bytes(&q)], sequences.stored, rest].concat();
    let grid = [n_kv_head as u32, (tiles.len() / 2) as u32, 1];
    let launch = Launch { instance, grid, inputs, outputs: vec![(positions.len() - 1) * n_head * d] };
    let want = want[n_head * d..].to_vec();
    Case { launch, title, want, n_col: d, finish: Finish::First, limit: Limit::Row(half(name)) }
}

/// Joins random shares of two tokens.
pub(super) fn joined(random: &mut Random, [d, n_head, n_share]: [usize; 3], layout: u32) -> Case {
    let n_tok = 2;
    let n = n_tok * n_head;
    let parts = random.normals(n * n_share * d);
    let sums: Vec<f32> = (0..n * n_share).flat_map(|_| [random.normal(), 0.1 + random.unit()]).collect();
    let sinks = random.normals(n_head);
    let mut want = merge(&parts, &sums, &sinks, [n_share, d]);
    let instance = Instance::new("attention_merge", &[d as u32, layout], "float");
    let title = format!("{}, {n_head} heads, {n_share} shares", instance.name());
    let inputs = vec![bytes(&parts), bytes(&sums), bytes(&sinks), sizes(&[n_head, n_share])];
    let (finish, part, n_pair) = match layout {
        0 => (Finish::First, SINGLE, 1),
        _ => (Finish::Beside(layout, n_head * d, 1.0), HALF, 8 * n_head * d / 2),
    };
    if layout > 0 {
        want = [&want[..], &want].concat();
    }
    let launch = Launch { instance, grid: [n_head as u32, n_tok as u32, 1], inputs, outputs: vec![n * d, n_pair] };
    Case { launch, title, want, n_col: d, finish, limit: Limit::Row(part) }
}

/// The next tokens of a sequence, and what stores of their keys and values are.
pub(super) struct Next {
    pages: Vec<u32>,
    positions: Vec<i32>,
    pub table: Vec<i32>,
    /// Radians a position, at least eight.
    pub turns: Vec<f32>,
    rope: Rope,
    /// Numbers of each store.
    pub n: usize,
    n_kv_head: usize,
}

/// The next `n_tok` tokens of a sequence, of which `dims` dimensions turn.
pub(super) fn next(random: &mut Random, [d, n_kv_head, n_tok]: [usize; 3], (dims, pairs): (usize, RopePairs)) -> Next {
    let start = random.below(40);
    let n_page = (start + n_tok).div_ceil(PAGE_TOKENS) + 1;
    let pages = random.shuffled(n_page);
    let row = SeqRow { first: 0, n_tok, start, pages: (0, n_page), slot: 0, tree: false };
    let positions: Vec<i32> = (start..start + n_tok).map(|p| p as i32).collect();
    let table = table::table(&Seqs { rows: &[row], pages: &pages, positions: &positions, parents: &[] }, PAGE_TOKENS);
    let freqs: Vec<f32> = (0..dims / 2).map(|i| 1e4f32.powf(-(i as f32) * 2.0 / dims as f32)).collect();
    let mut turns = freqs.clone();
    turns.resize(turns.len().max(8), 0.0);
    let rope = Rope { freqs, scale: 1.0, pairs, offset: 0 };
    Next { pages, positions, table, turns, rope, n: n_page * PAGE_TOKENS * n_kv_head * d, n_kv_head }
}

impl Next {
    /// The queries rotated, then both stores.
    pub fn stored(&self, [q, k, v]: [Tensor; 3]) -> Vec<f32> {
        let width = k.shape[1];
        let n_head = q.shape[1] * self.n_kv_head / width;
        let keys = Scalar.rope(k, self.n_kv_head, &self.positions, &self.rope);
        let mut want = Scalar.rope(q, n_head, &self.positions, &self.rope).data;
        for numbers in [&keys, &v] {
            let mut store = vec![0.0; self.n];
            for (i, position) in self.positions.iter().enumerate() {
                let slot = *position as usize;
                let place = self.pages[slot / PAGE_TOKENS] as usize * PAGE_TOKENS + slot % PAGE_TOKENS;
                store[place * width..][..width].copy_from_slice(numbers.row(i));
            }
            want.extend(store);
        }
        want
    }
}

/// One sequence's next `n_tok` tokens, of which `dims` dimensions turn.
pub(super) fn rotate_append(
    random: &mut Random,
    name: &str,
    [d, group, n_kv_head, n_tok]: [usize; 4],
    (dims, pairs): (usize, RopePairs),
) -> Case {
    let n_head = n_kv_head * group;
    let next = next(random, [d, n_kv_head, n_tok], (dims, pairs));
    let mut tensor = |n: usize| Tensor { shape: [n_tok, n * d], data: random.normals(n_tok * n * d) };
    let qkv = [n_head, n_kv_head, n_kv_head].map(&mut tensor);
    let instance = Instance::new(name, &[d as u32, dims as u32, u32::from(pairs == RopePairs::Interleaved)], "half");
    let title = format!("{}, {n_head} heads, {n_tok} tokens from {}", instance.name(), next.positions[0]);
    let (store, finish, limit) = match kv_type(name) {
        // Half a step of the largest number's 127, and what a product that was rounded adds to it.
        KvType::Q8 => {
            let [codes, scales] = [next.n, next.n / d * 4].map(|n| vec![0u8; n]);
            (vec![codes.clone(), codes, scales.clone(), scales], Finish::Codes(d), 0.501 / 127.0)
        }
        _ => (vec![vec![0u8; 2 * next.n]; 2], Finish::Stores, HALF),
    };
    let rest = vec![bytes(&next.table), bytes(&next.turns), sizes(&[n_head, n_kv_head]), bytes(&[0i32])];
    let inputs = [qkv.each_ref().map(|x| bytes(&x.data)).to_vec(), store, rest].concat();
    let grid = [(n_head + 2 * n_kv_head) as u32, n_tok as u32, 1];
    let launch = Launch { instance, grid, inputs, outputs: vec![n_tok * n_head * d, 1] };
    let want = next.stored(qkv);
    Case { launch, title, want, n_col: d, finish, limit: Limit::Row(limit) }
}
