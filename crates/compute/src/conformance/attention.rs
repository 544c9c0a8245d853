//! Attention over stored keys and values: heads, batches, features, lengths.

use super::{Bench, Limit, STORED};
use crate::op::{Attention, KvSpec, KvType, LayerState, Rope, RopePairs, SeqRow, Seqs, Window};
use crate::scalar::{Scalar, Store, Tensor};
use crate::{Backend, Error};

const PAGE_TOKENS: usize = 16;

/// KV heads, query heads of each, dimensions of key, value and latent.
#[derive(Debug, Clone, Copy)]
struct Heads(usize, usize, [usize; 3]);

/// One row of a batch: tokens stored before, tokens to compute, whether they are a tree.
type Part = (usize, usize, bool);

/// A batch that owns what [`Seqs`] borrows.
pub(super) struct Batch {
    pub(super) rows: Vec<SeqRow>,
    pub(super) pages: Vec<u32>,
    pub(super) positions: Vec<i32>,
    pub(super) parents: Vec<i32>,
}

impl Batch {
    pub(super) fn seqs(&self) -> Seqs<'_> {
        Seqs { rows: &self.rows, pages: &self.pages, positions: &self.positions, parents: &self.parents }
    }
}

/// What attention computes besides dot products; sinks and slopes are made when it runs.
#[derive(Debug, Clone, Copy)]
struct Features {
    window: Window,
    softcap: Option<f32>,
    sinks: bool,
    alibi: bool,
    causal: bool,
}

const PLAIN: Features = Features { window: Window::Full, softcap: None, sinks: false, alibi: false, causal: true };

const HEADS: [Heads; 12] = [
    Heads(1, 1, [16, 16, 0]),
    Heads(2, 1, [32, 32, 0]),
    Heads(2, 2, [64, 64, 0]),
    Heads(1, 4, [80, 80, 0]),
    Heads(2, 4, [96, 96, 0]),
    Heads(1, 8, [112, 112, 0]),
    Heads(1, 8, [128, 128, 0]),
    Heads(2, 2, [192, 128, 0]),
    Heads(1, 16, [576, 0, 512]),
    Heads(2, 2, [256, 256, 0]),
    Heads(1, 71, [64, 64, 0]),
    Heads(3, 2, [20, 12, 0]),
];

/// Batches: decodes, prompts of the edge lengths, continued prompts, trees, all of them mixed.
const BATCHES: [&[Part]; 8] = [
    &[(37, 1, false)],
    &[(0, 1, false)],
    &[(0, 33, false)],
    &[(19, 17, false)],
    &[(30, 7, true)],
    &[(0, 7, false), (15, 1, false), (16, 1, false), (47, 2, false)],
    &[(5, 3, false), (40, 1, false), (12, 6, true), (0, 16, false)],
    &[(33, 1, false), (1, 1, false), (64, 1, false)],
];

/// The batch after, and before it the batch that stores what `start` says; pages lie in random order.
fn batches<B: Backend>(bench: &mut Bench<'_, B>, parts: &[Part], n_page: usize) -> [Batch; 2] {
    let mut pages = bench.random.shuffled(n_page).into_iter();
    let empty = || Batch { rows: Vec::new(), pages: Vec::new(), positions: Vec::new(), parents: Vec::new() };
    let (mut past, mut now) = (empty(), empty());
    for (slot, &(start, n_tok, tree)) in parts.iter().enumerate() {
        let from = now.pages.len();
        now.pages.extend(pages.by_ref().take((start + n_tok).div_ceil(PAGE_TOKENS)));
        let range = (from, now.pages.len());
        let row = |first, n_tok, start, tree| SeqRow { first, n_tok, start, pages: range, slot, tree };
        past.rows.push(row(past.positions.len(), start, 0, false));
        past.positions.extend(0..start as i32);
        now.rows.push(row(now.positions.len(), n_tok, start, tree));
        let mut depths = Vec::new();
        for i in 0..n_tok {
            let parent = if tree { bench.random.below(i + 1) as i32 - 1 } else { i as i32 - 1 };
            depths.push(if parent < 0 { 0 } else { depths[parent as usize] + 1 });
            now.parents.push(parent);
        }
        now.positions.extend(depths.iter().map(|d| start as i32 + d));
    }
    if !now.rows.iter().any(|r| r.tree) {
        now.parents.clear();
    }
    past.pages.clone_from(&now.pages);
    [past, now]
}

/// Stores, computes and compares one case.
fn check<B: Backend>(bench: &mut Bench<'_, B>, heads: Heads, dtype: KvType, parts: &[Part], features: Features) {
    let Heads(n_kv_head, group, [d_k, d_v, d_latent]) = heads;
    let layer = LayerState::Kv { n_kv_head, d_k, d_v, d_latent };
    let n_page = 3 + parts.iter().map(|(start, n, _)| (start + n).div_ceil(PAGE_TOKENS)).sum::<usize>();
    // The layer beside it must not be touched.
    let spec = KvSpec { layers: vec![layer, layer], page_tokens: PAGE_TOKENS, n_page, n_slot: 0, dtype };
    let stores = Scalar.kv(&spec).and_then(|s| Ok((s, bench.backend.kv(&spec)?)));
    let (mut store, mut store_other): (Store, B::Kv) = match stores {
        Ok(stores) => stores,
        // A backend may say that it lacks a type.
        Err(Error::KvType { .. }) => return,
        Err(error) => return bench.fail(format!("{spec:?}: {error}")),
    };
    let [past, now] = batches(bench, parts, n_page);
    for (batch, layers) in [(&past, 0..2), (&now, 1..2)] {
        for layer in layers {
            let n_tok = batch.positions.len();
            let k = bench.tensor([n_tok, n_kv_head * d_k]);
            let v = bench.maybe(d_v > 0, [n_tok, n_kv_head * d_v]);
            let (v, v_other) = v.map(|v| (v.scalar, v.other)).unzip();
            Scalar.kv_append(&mut store, layer, &k.scalar, v.as_ref(), &batch.seqs());
            bench.backend.kv_append(&mut store_other, layer, &k.other, v_other.as_ref(), &batch.seqs());
        }
    }
    let n_head = n_kv_head * group;
    let q = bench.tensor([now.positions.len(), n_head * d_k]);
    let sinks = bench.maybe(features.sinks, [1, n_head]);
    let slopes: Vec<f32> = (0..n_head).map(|h| 0.5f32.powi(h as i32 + 1)).collect();
    let slopes = features.alibi.then(|| bench.given([1, n_head], &slopes));
    let Features { window, softcap, causal, .. } = features;
    let scale = 1.0 / (d_k as f32).sqrt();
    let (sinks, sinks_other) = sinks.map(|s| (s.scalar, s.other)).unzip();
    let (alibi, alibi_other) = slopes.map(|s| (s.scalar, s.other)).unzip();
    let (sinks, alibi) = (sinks.as_ref(), alibi.as_ref());
    let attention = Attention::<Scalar> { n_head, scale, window, softcap, sinks, alibi, causal };
    let (sinks, alibi) = (sinks_other.as_ref(), alibi_other.as_ref());
    let attention_other = Attention::<B> { n_head, scale, window, softcap, sinks, alibi, causal };
    let want: Tensor = Scalar.attention(&q.scalar, &store, 1, &attention, &now.seqs());
    let got = bench.backend.attention(&q.other, &store_other, 1, &attention_other, &now.seqs());
    let case = format_args!("{heads:?}, {dtype:?}, {parts:?}, {features:?}");
    bench.compare(case, STORED, &want, &got);
}

/// Every kind of head and of store over every batch.
pub(super) fn heads<B: Backend>(bench: &mut Bench<'_, B>) {
    for (i, heads) in HEADS.into_iter().enumerate() {
        for (j, parts) in BATCHES.into_iter().enumerate() {
            let dtypes = [KvType::F16, KvType::F32, KvType::Q8, KvType::BF16, KvType::Q4];
            check(bench, heads, dtypes[(i + j) % 5], parts, PLAIN);
        }
    }
    for n_tok in [2, 3, 7, 16, 17, 33] {
        check(bench, HEADS[6], KvType::F16, &[(0, n_tok, false)], PLAIN);
    }
}

/// Rotations whose last digits differ round a key to another number of the store's type.
const ROTATED: Limit = Limit { max: 2e-3, nmse: 1e-6 };

/// Rotation, append and attention in one.
pub(super) fn attend<B: Backend>(bench: &mut Bench<'_, B>) {
    let equal = HEADS.into_iter().filter(|Heads(_, group, [d_k, d_v, _])| d_k == d_v && *group <= 8 && d_k % 2 == 0);
    for (i, heads) in equal.enumerate() {
        for (j, parts) in BATCHES.into_iter().enumerate() {
            let pairs = [RopePairs::HalfSplit, RopePairs::Interleaved][(i + j) % 2];
            let n_pair = heads.2[0] / if (i + j) % 3 == 0 { 4 } else { 2 };
            let freqs = (0..n_pair).map(|p| 1e4f32.powf(-(p as f32) / n_pair as f32)).collect();
            let rope = Rope { freqs, scale: 1.0, pairs, offset: 0 };
            let window = [Window::Full, Window::Sliding(9), Window::Chunked(16)][j % 3];
            check_attend(bench, heads, parts, (i + j) % 4 > 0, (&rope, window));
        }
    }
}

fn check_attend<B: Backend>(
    bench: &mut Bench<'_, B>,
    heads: Heads,
    parts: &[Part],
    rotated: bool,
    (rope, window): (&Rope, Window),
) {
    let Heads(n_kv_head, group, [d, ..]) = heads;
    let layer = LayerState::Kv { n_kv_head, d_k: d, d_v: d, d_latent: 0 };
    let n_page = 3 + parts.iter().map(|(start, n, _)| (start + n).div_ceil(PAGE_TOKENS)).sum::<usize>();
    let spec = KvSpec { layers: vec![layer], page_tokens: PAGE_TOKENS, n_page, n_slot: 0, dtype: KvType::F16 };
    let stores = Scalar.kv(&spec).and_then(|s| Ok((s, bench.backend.kv(&spec)?)));
    let (mut store, mut store_other): (Store, B::Kv) = match stores {
        Ok(stores) => stores,
        Err(error) => return bench.fail(format!("{spec:?}: {error}")),
    };
    let n_head = n_kv_head * group;
    let attention = Attention::<Scalar> {
        n_head,
        scale: 1.0 / (d as f32).sqrt(),
        window,
        softcap: None,
        sinks: None,
        alibi: None,
        causal: true,
    };
    let scale = attention.scale;
    let attention_other =
        Attention::<B> { n_head, scale, window, softcap: None, sinks: None, alibi: None, causal: true };
    let rope = rotated.then_some(rope);
    for batch in batches(bench, parts, n_page).iter().filter(|batch| !batch.positions.is_empty()) {
        let n_tok = batch.positions.len();
        let [q, k, v] = [n_head, n_kv_head, n_kv_head].map(|n| bench.tensor([n_tok, n * d]));
        let want = Scalar.attend([q.scalar, k.scalar, v.scalar], &mut store, 0, rope, &attention, &batch.seqs());
        let qkv = [q.other, k.other, v.other];
        let got = bench.backend.attend(qkv, &mut store_other, 0, rope, &attention_other, &batch.seqs());
        bench.compare(format_args!("{heads:?}, {parts:?}, {rope:?}, {window:?}"), ROTATED, &want, &got);
    }
}

/// Windows, caps, sinks, slopes, encoders.
pub(super) fn features<B: Backend>(bench: &mut Bench<'_, B>) {
    let variants = [
        Features { window: Window::Sliding(5), ..PLAIN },
        Features { window: Window::Sliding(1), ..PLAIN },
        Features { window: Window::Sliding(20), sinks: true, ..PLAIN },
        Features { window: Window::Chunked(8), ..PLAIN },
        Features { window: Window::Chunked(1000), ..PLAIN },
        Features { softcap: Some(2.0), ..PLAIN },
        Features { sinks: true, ..PLAIN },
        Features { alibi: true, ..PLAIN },
        Features { softcap: Some(1.0), sinks: true, alibi: true, window: Window::Sliding(9), causal: true },
        Features { causal: false, ..PLAIN },
        Features { causal: false, window: Window::Sliding(4), alibi: true, ..PLAIN },
        Features { causal: false, window: Window::Chunked(16), ..PLAIN },
    ];
    for (i, features) in variants.into_iter().enumerate() {
        for (j, parts) in BATCHES.into_iter().enumerate() {
            let heads = [HEADS[2], HEADS[4], HEADS[6]][(i + j) % 3];
            check(bench, heads, [KvType::F16, KvType::Q8, KvType::Q4][(i + j) % 3], parts, features);
        }
    }
}

/// A long past, which backends split, alone, beside others, and through a window.
pub(super) fn long<B: Backend>(bench: &mut Bench<'_, B>) {
    let window = Features { window: Window::Sliding(300), ..PLAIN };
    let sinks = Features { sinks: true, softcap: Some(5.0), ..PLAIN };
    let cases: [(&[Part], Features); 6] = [
        (&[(1000, 1, false)], PLAIN),
        (&[(2047, 1, false)], sinks),
        (&[(900, 3, false), (3, 1, false)], PLAIN),
        (&[(777, 5, true)], PLAIN),
        (&[(1500, 1, false), (1200, 1, false)], window),
        (&[(600, 20, false), (10, 33, false)], window),
    ];
    for (parts, features) in cases {
        for (heads, dtype) in [(Heads(1, 4, [64, 64, 0]), KvType::F16), (Heads(2, 3, [32, 32, 0]), KvType::Q8)] {
            check(bench, heads, dtype, parts, features);
        }
    }
    check(bench, HEADS[8], KvType::F16, &[(600, 1, false)], PLAIN);
}
