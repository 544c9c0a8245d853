//! Random launches of every kernel with the definitions' results.

use mlxr_compute::conformance::{Random, random_matrix};
use mlxr_compute::op::{Attention, KvSpec, KvType, LayerState, Linear, SeqRow, Seqs, Window};
use mlxr_compute::scalar::{Scalar, Tensor};
use mlxr_compute::{Backend, DType, Encoding};

use super::Instance;
use super::source::Launch;

/// A launch, and what the definitions make of its inputs.
pub struct Case {
    /// What to run.
    pub launch: Launch,
    /// Its shapes, for messages.
    pub title: String,
    want: Vec<f32>,
    /// Numbers of a row of `want`, over which errors are relative.
    n_col: usize,
    finish: Finish,
}

/// How outputs become what the definition defines.
enum Finish {
    /// The first output is it.
    First,
    /// Shares of attention are joined: shares, dimensions.
    Merge(usize, usize),
}

/// Errors of sums in f32, relative to the largest number of a row.
const LIMIT: f32 = 2e-5;

impl Case {
    /// What is wrong with the outputs, if anything.
    pub fn judge(&self, outputs: &[Vec<f32>]) -> Option<String> {
        let joined;
        let got = match self.finish {
            Finish::First => &outputs[0],
            Finish::Merge(n_share, d) => {
                joined = merge(&outputs[0], &outputs[1], None, [n_share, d]);
                &joined
            }
        };
        if got.len() != self.want.len() {
            return Some(format!("{}: {} numbers, expected {}", self.title, got.len(), self.want.len()));
        }
        let rows = self.want.chunks(self.n_col).zip(got.chunks(self.n_col));
        for (i, (want, got)) in rows.enumerate() {
            let largest = want.iter().fold(1e-3f32, |m, x| m.max(x.abs()));
            for (j, (w, g)) in want.iter().zip(got).enumerate() {
                let off = (w - g).abs();
                if off.is_nan() || off > LIMIT * largest {
                    return Some(format!("{}: [{i}, {j}] is {g}, expected {w}", self.title));
                }
            }
        }
        None
    }
}

/// Joins shares of attention: `parts` `[n, n_share, d]`, `sums` `[n, n_share, 2]`, `sinks` one a row.
fn merge(parts: &[f32], sums: &[f32], sinks: Option<&[f32]>, [n_share, d]: [usize; 2]) -> Vec<f32> {
    let mut out = Vec::with_capacity(parts.len() / n_share);
    for (i, (parts, sums)) in parts.chunks(n_share * d).zip(sums.chunks(2 * n_share)).enumerate() {
        let sink = sinks.map_or(-1e30, |s| f64::from(s[i]));
        let top = sums.chunks(2).map(|s| f64::from(s[0])).fold(sink, f64::max);
        let keep = |share: usize| (f64::from(sums[2 * share]) - top).exp();
        let mass = (sink - top).exp() + (0..n_share).map(|s| f64::from(sums[2 * s + 1]) * keep(s)).sum::<f64>();
        let sum = |j: usize| (0..n_share).map(|s| f64::from(parts[s * d + j]) * keep(s)).sum::<f64>();
        out.extend((0..d).map(|j| (sum(j) / mass) as f32));
    }
    out
}

fn bytes<T: bytemuck::NoUninit>(numbers: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(numbers).to_vec()
}

/// Cases of every kernel.
pub fn all(seed: u64) -> Vec<Case> {
    let mut random = Random::new(seed);
    let mut cases = Vec::new();
    let heads = [[64, 1], [64, 4], [96, 2], [128, 4], [128, 8], [256, 2]];
    for (i, [d, group]) in heads.into_iter().enumerate() {
        let window = if i % 2 == 0 { Window::Full } else { Window::Sliding(20) };
        let cap = if i % 3 == 0 { Some(3.0) } else { None };
        let lengths: Vec<usize> = (0..1 + random.below(3)).map(|_| 1 + random.below(90)).collect();
        let [n_share, n_head] = [1 + random.below(5), 1 + random.below(9)];
        cases.push(attention(&mut random, [d, group, 1 + i % 3, n_share], &lengths, (window, cap)));
        cases.push(attention_merge(&mut random, [d, n_head, n_share]));
    }
    for (bits, group) in [(2, 32), (3, 64), (4, 32), (4, 64), (5, 32), (6, 128), (8, 64)] {
        for (i, m) in [1, 2, 5, 16].into_iter().enumerate() {
            let scale = if i % 2 == 0 { DType::F16 } else { DType::F32 };
            let shape = [1 + random.below(40), usize::from(group) * (1 + random.below(20))];
            cases.push(affine(&mut random, m, (bits, group, scale), shape));
        }
    }
    for m in [1, 3, 8, 16] {
        let shape = [1 + random.below(30), 256 * (1 + random.below(3))];
        cases.push(q6_k(&mut random, m, shape));
    }
    let shape = [1 + random.below(5), 512];
    cases.push(q6_k_decode(&mut random, shape));
    cases
}

/// Launches of an 8B Llama's shapes, to be timed.
pub fn large(seed: u64) -> Vec<Case> {
    let mut random = Random::new(seed);
    let mut cases = Vec::new();
    for m in [1, 4, 8, 16] {
        cases.push(affine(&mut random, m, (4, 64, DType::F16), [14336, 4096]));
        cases.push(q6_k(&mut random, m, [4096, 14336]));
    }
    for (n_seq, n_share) in [(1, 64), (8, 16)] {
        cases.push(attention(&mut random, [128, 4, 8, n_share], &vec![4096; n_seq], (Window::Full, None)));
    }
    cases
}

/// Decoding tokens of sequences of these lengths, the token included.
fn attention(
    random: &mut Random,
    [d, group, n_kv_head, n_share]: [usize; 4],
    lengths: &[usize],
    (window, softcap): (Window, Option<f32>),
) -> Case {
    const PAGE_TOKENS: usize = 16;
    let (n_tok, n_head) = (lengths.len(), n_kv_head * group);
    let max_page = lengths.iter().map(|n| n.div_ceil(PAGE_TOKENS)).max().unwrap_or(1);
    let n_page = n_tok * max_page;
    let pages = random.shuffled(n_page);
    let layer = LayerState::Kv { n_kv_head, d_k: d, d_v: d, d_latent: 0 };
    let spec = KvSpec { layers: vec![layer], page_tokens: PAGE_TOKENS, n_page, n_slot: 0, dtype: KvType::F16 };
    let mut store = Scalar.kv(&spec).expect("a small store");
    let (mut k, mut v) = (vec![0u16; n_page * PAGE_TOKENS * n_kv_head * d], Vec::new());
    v.resize(k.len(), 0u16);
    for (i, &length) in lengths.iter().enumerate() {
        let range = (i * max_page, (i + 1) * max_page);
        let row = SeqRow { first: 0, n_tok: length, start: 0, pages: range, slot: 0, tree: false };
        let positions: Vec<i32> = (0..length as i32).collect();
        let seqs = Seqs { rows: &[row], pages: &pages, positions: &positions, parents: &[] };
        let width = n_kv_head * d;
        let [keys, values] = [(); 2].map(|()| Tensor { shape: [length, width], data: random.normals(length * width) });
        Scalar.kv_append(&mut store, 0, &keys, Some(&values), &seqs);
        for slot in 0..length {
            let page = pages[i * max_page + slot / PAGE_TOKENS] as usize;
            let at = (page * PAGE_TOKENS + slot % PAGE_TOKENS) * width;
            for j in 0..width {
                k[at + j] = half::f16::from_f32(keys.row(slot)[j]).to_bits();
                v[at + j] = half::f16::from_f32(values.row(slot)[j]).to_bits();
            }
        }
    }
    let row = |(i, &n): (usize, &usize)| SeqRow {
        first: i,
        n_tok: 1,
        start: n - 1,
        pages: (i * max_page, (i + 1) * max_page),
        slot: i,
        tree: false,
    };
    let rows: Vec<SeqRow> = lengths.iter().enumerate().map(row).collect();
    let positions: Vec<i32> = lengths.iter().map(|&n| n as i32 - 1).collect();
    let seqs = Seqs { rows: &rows, pages: &pages, positions: &positions, parents: &[] };
    let q = Tensor { shape: [n_tok, n_head * d], data: random.normals(n_tok * n_head * d) };
    let scale = 1.0 / (d as f32).sqrt();
    let how = Attention { n_head, scale, window, softcap, sinks: None, alibi: None, causal: true };
    let want = Scalar.attention(&q, &store, 0, &how, &seqs).data;
    let spans: Vec<u32> = rows.iter().flat_map(|row| crate::plan::span(&seqs, row, window)).map(|n| n as u32).collect();
    let sizes = [n_kv_head, max_page, n_share, PAGE_TOKENS].map(|n| n as u32);
    let factors = [scale, softcap.unwrap_or(0.0)];
    let instance = Instance::new("paged_attention", &[d as u32, group as u32], "half");
    let title = format!("{}, {lengths:?} tokens, {n_share} shares, {window:?}, {softcap:?}", instance.name());
    let inputs =
        vec![bytes(&q.data), bytes(&k), bytes(&v), bytes(&pages), bytes(&spans), bytes(&sizes), bytes(&factors)];
    let n = n_tok * n_head * n_share;
    let launch = Launch {
        instance,
        grid: [n_kv_head as u32, n_tok as u32, n_share as u32],
        inputs,
        outputs: vec![n * d, 2 * n],
    };
    // Keys are rounded to f16 in both; scores are sums in f32, exponentiated.
    Case { launch, title, want, n_col: d, finish: Finish::Merge(n_share, d) }
}

fn attention_merge(random: &mut Random, [d, n_head, n_share]: [usize; 3]) -> Case {
    let n_tok = 2;
    let n = n_tok * n_head;
    let parts = random.normals(n * n_share * d);
    let sums: Vec<f32> = (0..n * n_share).flat_map(|_| [random.normal(), 0.1 + random.unit()]).collect();
    let sinks = random.normals(n_head);
    let each: Vec<f32> = sinks.iter().copied().cycle().take(n).collect();
    let want = merge(&parts, &sums, Some(&each), [n_share, d]);
    let instance = Instance::new("attention_merge", &[d as u32], "float");
    let title = format!("{}, {n_head} heads, {n_share} shares", instance.name());
    let sizes = [n_head, n_share].map(|n| n as u32);
    let inputs = vec![bytes(&parts), bytes(&sums), bytes(&sinks), bytes(&sizes)];
    let launch = Launch { instance, grid: [n_head as u32, n_tok as u32, 1], inputs, outputs: vec![n * d] };
    Case { launch, title, want, n_col: d, finish: Finish::First }
}

/// `m` random rows times a random matrix, with the definition's product.
fn product(random: &mut Random, m: usize, encoding: Encoding, shape: [usize; 2]) -> (Vec<f32>, Vec<Vec<u8>>, Vec<f32>) {
    let [n_out, n_in] = shape;
    let data = random_matrix(random, encoding, shape);
    let x = Tensor { shape: [m, n_in], data: random.normals(m * n_in) };
    let matrix = Scalar.matrix(std::slice::from_ref(&data)).expect("a random matrix is sound");
    let [y] = Scalar.linears(&x, None, [&Linear { matrix, bias: None, scale: 1.0 }]);
    debug_assert_eq!(y.shape, [m, n_out]);
    (x.data, data.parts.iter().map(|p| p.to_vec()).collect(), y.data)
}

fn affine(random: &mut Random, m: usize, (bits, group, scale): (u8, u16, DType), shape: [usize; 2]) -> Case {
    let [n_out, n_in] = shape;
    let (x, parts, want) = product(random, m, Encoding::MlxAffine { bits, group, scale }, shape);
    let parameter = if scale == DType::F16 { "half" } else { "float" };
    let constants = [m as u32, u32::from(bits), u32::from(group)];
    let instance = Instance::new("affine_matmul", &constants, parameter);
    let title = format!("{}, [{n_out}, {n_in}]", instance.name());
    let sizes = [n_in, n_out].map(|n| n as u32);
    let inputs = [vec![bytes(&x)], parts, vec![bytes(&sizes)]].concat();
    let launch = Launch { instance, grid: [n_out.div_ceil(16) as u32, 1, 1], inputs, outputs: vec![m * n_out] };
    Case { launch, title, want, n_col: n_out, finish: Finish::First }
}

fn q6_k(random: &mut Random, m: usize, shape: [usize; 2]) -> Case {
    let [n_out, n_in] = shape;
    let (x, parts, want) = product(random, m, Encoding::Blocks(DType::Q6_K), shape);
    let instance = Instance::new("q6_k_matmul", &[m as u32], "float");
    let title = format!("{}, [{n_out}, {n_in}]", instance.name());
    let sizes = [n_in, n_out].map(|n| n as u32);
    let inputs = [vec![bytes(&x)], parts, vec![bytes(&sizes)]].concat();
    let launch = Launch { instance, grid: [n_out.div_ceil(8) as u32, 1, 1], inputs, outputs: vec![m * n_out] };
    Case { launch, title, want, n_col: n_out, finish: Finish::First }
}

fn q6_k_decode(random: &mut Random, [n_out, n_in]: [usize; 2]) -> Case {
    let data = random_matrix(random, Encoding::Blocks(DType::Q6_K), [n_out, n_in]);
    let mut want = vec![0.0; n_out * n_in];
    data.decode_rows(0, n_out, &mut want);
    let instance = Instance::new("q6_k_decode", &[], "float");
    let title = format!("{}, [{n_out}, {n_in}]", instance.name());
    let grid = [(n_out * n_in / 256) as u32, 1, 1];
    let launch = Launch { instance, grid, inputs: vec![data.parts[0].to_vec()], outputs: vec![want.len()] };
    Case { launch, title, want, n_col: n_in, finish: Finish::First }
}
