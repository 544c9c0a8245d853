//! Rotation, append and attention over the pages, by our kernels.
//!
//! Tokens of rows with a few of them read their sequence's pages each for itself. Of rows with many `prompt_attention` takes
//! tiles on CUDA; on Metal, where its matrix products are no gain, MLX's attention over gathered keys and values does.

use mlxr_compute::check::KvHeads;
use mlxr_compute::op::{Attention, KvType, Rope, RopePairs, Seqs};

use super::Own;
use super::form::Form;
use super::product::{self, Rows, Three};
use super::table;
use crate::attention;
use crate::backend::Mlx;
use crate::ffi::{Array, Device, Dtype};
use crate::kernel::Instance;
use crate::kernel::source::Platform;
use crate::plan::Plan;
use crate::store::{Kv, Layer};
use crate::tensor::Tensor;

/// Tokens of a row from which reading its keys once is better than for each token.
const MANY: usize = 5;
/// Queries of a group of `prompt_attention`.
const TILE: usize = 64;
/// Groups of `paged_attention` that keep a large GPU busy, and of `paged_attention_tiles` that one has room for at once: three for
/// each of an H200's multiprocessors. More would wait for these to end.
const BUSY_GROUPS: usize = 528;
pub(super) const BUSY_TILES: usize = 396;
/// KV slots that make a share worth a group of these.
const SHARE_SLOTS: usize = 64;
const SHARE_TILES: usize = 128;
/// Slots that `paged_attention_tiles` takes at a time, of one page.
const TILE_PAGE: usize = 16;
/// Most shares, which `attention_merge` joins.
const MAX_SHARES: usize = 128;
/// Stands for no sink.
const NO_SINK: f32 = -1e30;

/// If our kernels compute this attention.
pub(crate) fn fits(
    kv: &Kv,
    layer: usize,
    rope: Option<&Rope>,
    attention: &Attention<'_, Mlx>,
    seqs: &Seqs<'_>,
) -> bool {
    let heads = KvHeads::of(&kv.spec, layer);
    let (d, n_kv_head) = (heads.d_k, heads.n_kv_head);
    let shape = [64, 96, 128, 256].contains(&d) && heads.d_v == d && heads.d_latent == 0;
    let grouped = n_kv_head > 0 && attention.n_head.is_multiple_of(n_kv_head) && attention.n_head / n_kv_head <= 8;
    let plain = attention.alibi.is_none() && attention.causal && seqs.rows.iter().all(|row| !row.tree);
    let turned = rope.is_none_or(|r| r.offset == 0 && r.scale == 1.0 && 2 * r.freqs.len() <= d);
    let stored = match kv.spec.dtype {
        KvType::F16 => true,
        KvType::Q8 => d != 96,
        _ => false,
    };
    stored && shape && grouped && plain && turned
}

/// What a layer keeps, as kernels take it: keys and values, then their scales if they are codes; and how kernels for that end.
fn stored(layer: &Layer) -> (Vec<&Array>, &'static str) {
    let Layer::Kv(keys, Some(values)) = layer else { unreachable!("`fits` has checked the layer") };
    let mut arrays = vec![&keys.data, &values.data];
    arrays.extend(keys.scales.iter().chain(&values.scales));
    let end = if arrays.len() > 2 { "_q8" } else { "" };
    (arrays, end)
}

/// Queries, keys and values: made, or what makes them of rows, which [`Three::rotates`].
#[derive(Clone, Copy)]
pub(crate) enum Qkv<'a> {
    Made([&'a Tensor; 3]),
    From(&'a Three<'a>, &'a Rows),
}

impl Qkv<'_> {
    fn shapes(&self) -> [[usize; 2]; 3] {
        match self {
            Qkv::Made(qkv) => qkv.map(|t| t.shape),
            Qkv::From(three, rows) => three.shapes(rows),
        }
    }
}

/// What a step's layers share.
pub(crate) struct Step<'a> {
    pub plan: &'a mut Plan,
    pub seqs: &'a Seqs<'a>,
    /// The `done` of the append before, if there was one.
    pub before: Option<Array>,
}

/// Rotates, appends and attends; the caller has asked [`fits`]. Also returns the append's `done`, on which must depend whatever
/// is to see it.
pub(crate) fn attend(
    own: &Own,
    d: &Device,
    step: Step<'_>,
    qkv: Qkv<'_>,
    (kv, layer): (&mut Kv, usize),
    (rope, how): (Option<&Rope>, &Attention<'_, Mlx>),
) -> (Tensor, Array) {
    let Step { plan, seqs, before } = step;
    let heads = KvHeads::of(&kv.spec, layer);
    let [q, k, v] = qkv.shapes();
    heads.check_append(k, Some(v));
    heads.check_attention(q, how, |t| t.shape);
    seqs.check(q[0], &kv.spec);
    let table = plan.table(d, seqs, kv.spec.page_tokens);
    let before = before.unwrap_or_else(|| d.from_slice(&[0i32], &[1], Dtype::I32));
    let [q, done] = match (qkv, &stored(&kv.layers[layer]).0[..]) {
        (Qkv::From(three, rows), [keys, values]) => {
            three.append(own, d, rows, [keys, values], (rope, heads.d_k), (&table, &before))
        }
        (Qkv::From(..), _) => unreachable!("the caller has products apart from codes"),
        (Qkv::Made(qkv), _) => {
            let how = (rope, how.n_head, heads.d_k);
            rotate_append(own, d, qkv, &kv.layers[layer], how, (&table, &before))
        }
    };
    let q = Tensor::new(q, [seqs.positions.len(), how.n_head * heads.d_k]);
    let mut outputs = Vec::new();
    let many = |row: &usize| seqs.rows[*row].n_tok >= MANY;
    let gathered = |row: &usize| many(row) && own.platform == Platform::Metal;
    let mut row = 0;
    while row < seqs.rows.len() {
        let alike = |other: &usize| many(other) == many(&row) && !gathered(&row);
        let end = (row + 1..seqs.rows.len()).take_while(alike).last().map_or(row + 1, |last| last + 1);
        let n_tok: usize = seqs.rows[row..end].iter().map(|r| r.n_tok).sum();
        let longest = seqs.rows[row..end].iter().map(|r| r.start + r.n_tok).max().unwrap_or(1);
        let (number, n_batch) = (outputs.len(), q.shape[0]);
        let run = Run { rows: [row, end], first: seqs.rows[row].first, n_tok, longest, number, n_batch };
        if n_tok > 0 {
            outputs.push(if gathered(&row) {
                let array = attention::row(d, plan, (&q, Dtype::F16), (kv, layer), how, (seqs, row), Some(&done));
                Tensor::new(array, [n_tok, how.n_head * heads.d_out()])
            } else if many(&row) {
                let tiles = plan.tiles(d, seqs, run.rows, TILE / (how.n_head / heads.n_kv_head));
                prompts(own, d, &q, (kv, layer), how, (&table, &tiles, run))
            } else {
                paged(own, d, &q, (kv, layer), how, (&table, run))
            });
        }
        row = end;
    }
    let out = match outputs.len() {
        1 => outputs.pop().expect("one output"),
        _ => {
            let arrays: Vec<&Array> = outputs.iter().map(|output| &output.array).collect();
            Tensor::new(d.concatenate(&arrays, 0), [q.shape[0], how.n_head * heads.d_out()])
        }
    };
    (out, done)
}

/// The queries rotated, and the append's `done`; the store has the rotated keys and the values once they are computed.
fn rotate_append(
    own: &Own,
    d: &Device,
    [q, k, v]: [&Tensor; 3],
    layer: &Layer,
    (rope, n_head, d_head): (Option<&Rope>, usize, usize),
    (table, before): (&Array, &Array),
) -> [Array; 2] {
    let n_kv_head = k.shape[1] / d_head;
    let freqs = rope.map_or(&[][..], |rope| &rope.freqs);
    let paired = u32::from(rope.is_some_and(|rope| rope.pairs == RopePairs::Interleaved));
    let (stored, end) = stored(layer);
    let name = format!("rotate_append{end}");
    let instance = Instance::new(&name, &[d_head as u32, 2 * freqs.len() as u32, paired], "half");
    let (turns, sizes) = (own.floats(d, freqs), own.sizes(d, &[n_head, n_kv_head]));
    let inputs = [&[&q.array, &k.array, &v.array], &stored[..], &[table, &turns, &sizes, before]].concat();
    let shapes: [&[usize]; 2] = [&[q.shape[0], n_head * d_head], &[1]];
    own.launch(d, instance, &inputs, &shapes, [n_head + 2 * n_kv_head, q.shape[0], 1])
}

/// Neighbouring rows that are attended to alike.
#[derive(Clone, Copy)]
struct Run {
    /// From and to.
    rows: [usize; 2],
    /// Their first token, and tokens.
    first: usize,
    n_tok: usize,
    /// KV slots of the longest sequence.
    longest: usize,
    /// Runs before it, and tokens of all.
    number: usize,
    n_batch: usize,
}

/// Scale and cap, and the sinks of heads, as kernels take them.
fn parameters(own: &Own, d: &Device, how: &Attention<'_, Mlx>) -> [Array; 2] {
    let sinks = match how.sinks {
        Some(sinks) => d.reshape(&sinks.array, &[how.n_head]),
        None => own.floats(d, &vec![NO_SINK; how.n_head]),
    };
    [own.floats(d, &[how.scale, how.softcap.unwrap_or(0.0)]), sinks]
}

fn paged(
    own: &Own,
    d: &Device,
    q: &Tensor,
    (kv, layer): (&Kv, usize),
    how: &Attention<'_, Mlx>,
    (table, run): (&Array, Run),
) -> Tensor {
    let (stored, end) = stored(&kv.layers[layer]);
    let (n_head, d_head) = (how.n_head, q.shape[1] / how.n_head);
    let n_kv_head = KvHeads::of(&kv.spec, layer).n_kv_head;
    let window = table::window_sizes(how.window);
    let n_seen = if window[0] == 0 { run.longest } else { run.longest.min(window[1]) };
    // Matrix products are a gain on CUDA only.
    let fits = if end.is_empty() { [64, 128].contains(&d_head) } else { d_head == 128 };
    let tiles = own.platform == Platform::Cuda && fits && kv.spec.page_tokens.is_multiple_of(TILE_PAGE);
    let (busy, least) = if tiles { (BUSY_TILES, SHARE_TILES) } else { (BUSY_GROUPS, SHARE_SLOTS) };
    let n_share = (busy / (n_kv_head * run.n_tok)).min(n_seen / least).clamp(1, MAX_SHARES);
    let [factors, sinks] = parameters(own, d, how);
    let (shape, grid) = ([run.n_tok, n_head * d_head], [n_kv_head, run.n_tok, n_share]);
    let layout = product::layout(own, shape);
    let pairs = product::pairs_shape(layout, shape);
    let [parts, sums] = [[run.n_tok, n_head * n_share * d_head], [run.n_tok, 2 * n_head * n_share]];
    let made =
        |array, pairs| Tensor { form: Form::new(own, d, layout, (pairs, run.n_tok), 1.0), ..Tensor::new(array, shape) };
    if tiles {
        let alone = n_share > 1 && run.n_batch == 1;
        let constants = [d_head, n_head / n_kv_head, kv.spec.page_tokens, n_kv_head, usize::from(alone)];
        let constants = [&constants.map(|n| n as u32)[..], &[layout]].concat();
        let instance = Instance::new(&format!("paged_attention_tiles{end}"), &constants, "half");
        let sizes = own.sizes(d, &[n_share, window[0], window[1], run.first]);
        let arrived = own.counters(d, run.number);
        let inputs = [&[&q.array], &stored[..], &[table, &sizes, &factors, &sinks, &arrived]].concat();
        let none: &[usize] = &[1, 1];
        let shapes: [&[usize]; 4] =
            if n_share > 1 { [&shape, &pairs, &parts, &sums] } else { [&shape, &pairs, none, none] };
        let [array, pairs, _, _] = own.launch(d, instance, &inputs, &shapes, grid);
        return made(array, pairs);
    }
    let instance =
        Instance::new(&format!("paged_attention{end}"), &[d_head, n_head / n_kv_head].map(|n| n as u32), "half");
    let sizes = own.sizes(d, &[n_kv_head, n_share, kv.spec.page_tokens, window[0], window[1], run.first]);
    let inputs = [&[&q.array], &stored[..], &[table, &sizes, &factors, &sinks]].concat();
    let [parts, sums] = own.launch(d, instance, &inputs, &[&parts, &sums], grid);
    if n_share == 1 {
        return Tensor::new(parts, shape);
    }
    let instance = Instance::new("attention_merge", &[d_head as u32, layout], "float");
    let sizes = own.sizes(d, &[n_head, n_share]);
    let inputs = [&parts, &sums, &sinks, &sizes];
    let [array, pairs] = own.launch(d, instance, &inputs, &[&shape, &pairs], [n_head, run.n_tok, 1]);
    made(array, pairs)
}

fn prompts(
    own: &Own,
    d: &Device,
    q: &Tensor,
    (kv, layer): (&Kv, usize),
    how: &Attention<'_, Mlx>,
    (table, tiles, run): (&Array, &Array, Run),
) -> Tensor {
    let (stored, end) = stored(&kv.layers[layer]);
    let (n_head, n_kv_head) = (how.n_head, KvHeads::of(&kv.spec, layer).n_kv_head);
    let constants = [q.shape[1] / n_head, n_head / n_kv_head, kv.spec.page_tokens].map(|n| n as u32);
    let instance = Instance::new(&format!("prompt_attention{end}"), &constants, "half");
    let [kind, n_window] = table::window_sizes(how.window);
    let sizes = own.sizes(d, &[n_kv_head, kind, n_window, run.first]);
    let [factors, sinks] = parameters(own, d, how);
    let inputs = [&[&q.array], &stored[..], &[table, tiles, &sizes, &factors, &sinks]].concat();
    let shape = [run.n_tok, q.shape[1]];
    let [out] = own.launch(d, instance, &inputs, &[&shape], [n_kv_head, tiles.shape()[0] / 2, 1]);
    Tensor::new(out, shape)
}
