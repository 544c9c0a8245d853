//! The work on an item: scores, running softmax, weighted sums of values.

use std::ops::Range;

use super::super::elementwise::{load, put, some, store};
use super::super::kv::{Part, Parts, Source, Strips};
use super::super::math;
use super::super::vector::{Kernel, LANES, Vector};
use super::partial::{Partial, exp_one, merge};
use super::plan::Item;
use super::{BLOCK, Call, QUERIES, RANGE};
use crate::op::Window;
use crate::scalar::sees;

/// Computes `places` of an item into `total`.
pub(super) struct Tile<'a, 't> {
    pub call: &'a Call<'a>,
    pub item: &'a Item,
    pub places: Range<usize>,
    pub total: &'a mut Partial<'t>,
    pub scratch: &'a mut [f32],
}

/// A thread's memory.
struct Scratch<'a> {
    /// `[n_query, d_k]`, scaled.
    q: &'a mut [f32],
    /// `[d_k, BLOCK]`.
    keys: &'a mut [f32],
    /// `[BLOCK, width]`.
    values: &'a mut [f32],
    /// `[n_query, BLOCK]`.
    scores: &'a mut [f32],
    /// Of each query: factor on what was summed before this block.
    factors: &'a mut [f32],
    /// Of each token: -1 where it does not see a place, else 0. `[n_tok, BLOCK]`.
    hidden: &'a mut [f32],
    /// Of each token: distance to each place. `[n_tok, BLOCK]`.
    distances: &'a mut [f32],
    /// This range.
    partial: Partial<'a>,
}

impl Tile<'_, '_> {
    /// Floats that a thread needs: a partial for the total, and what [`Scratch`] holds.
    pub(super) fn scratch(call: &Call<'_>) -> usize {
        let partial = QUERIES * (2 + call.width());
        let (d_k, width) = (call.heads.d_k, call.width());
        2 * partial + (QUERIES + BLOCK) * d_k + BLOCK * width + QUERIES * (3 * BLOCK + 1)
    }
}

impl<'a> Scratch<'a> {
    fn new(call: &Call<'_>, all: &'a mut [f32]) -> Scratch<'a> {
        let (d_k, width) = (call.heads.d_k, call.width());
        let (partial, all) = all.split_at_mut(QUERIES * (2 + width));
        let (keys, all) = all.split_at_mut(d_k * BLOCK);
        let (values, all) = all.split_at_mut(BLOCK * width);
        let (scores, all) = all.split_at_mut(QUERIES * BLOCK);
        let (hidden, all) = all.split_at_mut(QUERIES * BLOCK);
        let (distances, all) = all.split_at_mut(QUERIES * BLOCK);
        let (factors, all) = all.split_at_mut(QUERIES);
        let q = &mut all[..QUERIES * d_k];
        Scratch { q, keys, values, scores, factors, hidden, distances, partial: Partial::of(partial) }
    }
}

/// How much of a block the tokens of an item see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    Nothing,
    Part,
    All,
}

impl Kernel for Tile<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Tile { call, item, places, total, scratch } = self;
        let mut scratch = Scratch::new(call, scratch);
        let n = item.n_query();
        let (heads, keys, values) = call.kv.layer(call.layer);
        let direct = n <= V::ROWS && heads.d_v > 0 && keys.is_direct() && values.is_direct();
        total.clear(n);
        take_queries(v, call, item, scratch.q);
        for range in places.clone().step_by(RANGE) {
            scratch.partial.clear(n);
            let end = places.end.min(range + RANGE);
            for block in (range..end).step_by(BLOCK) {
                let sight = sight(call, item, block, &mut scratch);
                if sight == Sight::Nothing {
                    continue;
                }
                let parts = parts(call, item, block..end);
                if direct {
                    stored_scores(v, keys, &parts, n, &mut scratch);
                    softmax(v, call, item, sight, &mut scratch);
                    stored_values(v, values, &parts, n, &mut scratch);
                } else {
                    convert(v, call, &parts, &mut scratch);
                    all_scores(v, heads.d_k, n, &mut scratch);
                    softmax(v, call, item, sight, &mut scratch);
                    all_values(v, n, &mut scratch);
                }
            }
            merge(v, total, &scratch.partial, n);
        }
    }
}

/// Copies the item's queries, scaled.
#[inline(always)]
fn take_queries<V: Vector>(v: V, call: &Call<'_>, item: &Item, q: &mut [f32]) {
    let (d_k, scale) = (call.heads.d_k, v.splat(call.features.scale));
    let mut out = q.chunks_exact_mut(d_k);
    for token in item.tokens.clone() {
        let row = call.q.row(item.row.first + token);
        for head in item.heads.clone() {
            let out = out.next().expect("room for all queries of an item");
            for (x, out) in row[head * d_k..][..d_k].chunks(LANES).zip(out.chunks_mut(LANES)) {
                let y = v.mul(some(v, x), scale);
                put(v, out, y);
            }
        }
    }
}

/// The KV slots that a token sees of the past, and of its row when that is no tree.
fn span(call: &Call<'_>, item: &Item, token: usize) -> Range<usize> {
    let row = &item.row;
    let (position, total) = (i64::from(call.seqs.positions[row.first + token]), (row.start + row.n_tok) as i64);
    let end = if call.features.causal { (row.start + token) as i64 + 1 } else { total };
    let (from, to) = match call.features.window {
        Window::Full => (0, end),
        Window::Sliding(n) => (position - i64::from(n) + 1, position.saturating_add(i64::from(n))),
        Window::Chunked(n) => {
            let chunk = position.div_euclid(i64::from(n));
            (chunk * i64::from(n), (chunk + 1) * i64::from(n))
        }
    };
    from.clamp(0, total) as usize..to.clamp(0, end) as usize
}

/// What the item sees of a block; for a part, writes `hidden`. Writes `distances` when slopes need them.
fn sight(call: &Call<'_>, item: &Item, block: usize, scratch: &mut Scratch<'_>) -> Sight {
    let (page, places) = (call.spec().page_tokens, call.page_places());
    let slot = |place: usize| place / places * page + (place % places).min(page);
    let slots = slot(block)..slot(block + BLOCK);
    let row = &item.row;
    let plain = item.plain;
    if call.features.alibi.is_some() {
        distances(call, item, block, scratch.distances);
    }
    if plain || slots.end <= row.start {
        let spans = || item.tokens.clone().map(|t| span(call, item, t));
        if page == places && spans().all(|s| s.start <= slots.start && slots.end <= s.end) {
            return Sight::All;
        }
        if spans().all(|s| s.end <= slots.start || slots.end <= s.start) {
            return Sight::Nothing;
        }
    }
    let total = row.start + row.n_tok;
    for (token, hidden) in item.tokens.clone().zip(scratch.hidden.chunks_exact_mut(BLOCK)) {
        let span = span(call, item, token);
        for (i, hidden) in hidden.iter_mut().enumerate() {
            let (place, s) = (block + i, slot(block + i));
            let seen = place % places < page
                && s < total
                && if s < row.start || plain {
                    span.contains(&s)
                } else {
                    sees(call.seqs, row, [token, s], call.features.causal, call.features.window).0
                };
            *hidden = if seen { 0.0 } else { -1.0 };
        }
    }
    Sight::Part
}

/// Distance of each token's position to that of each place.
fn distances(call: &Call<'_>, item: &Item, block: usize, out: &mut [f32]) {
    let (page, places, row) = (call.spec().page_tokens, call.page_places(), &item.row);
    for (token, out) in item.tokens.clone().zip(out.chunks_exact_mut(BLOCK)) {
        let query = call.seqs.positions[row.first + token];
        for (i, out) in out.iter_mut().enumerate() {
            let slot = (block + i) / places * page + (block + i) % places;
            let key = match slot.checked_sub(row.start) {
                Some(j) => call.seqs.positions.get(row.first + j).copied().unwrap_or(0),
                None => slot as i32,
            };
            *out = query.abs_diff(key) as f32;
        }
    }
}

/// Where the places of a block are stored. A part without tokens names the strip of the first.
fn parts(call: &Call<'_>, item: &Item, block: Range<usize>) -> Parts {
    let (heads, ..) = call.kv.layer(call.layer);
    let (page, places, row) = (call.spec().page_tokens, call.page_places(), &item.row);
    let strip = |place: usize| call.seqs.pages[row.pages.0 + place / places] as usize * heads.n_kv_head + item.kv_head;
    std::array::from_fn(|part| {
        let place = block.start + part * LANES;
        let first = place / places * page + place % places;
        let last_of_page = (place / places + 1) * page;
        let n = last_of_page.min(row.start + row.n_tok).saturating_sub(first).min(LANES);
        let n = if place < block.end { n } else { 0 };
        let place = if n > 0 { place } else { block.start };
        // The next block's strip is asked for while this one is read: pages lie anywhere, so the CPU cannot foresee it.
        let ahead = if place + BLOCK < block.end { place + BLOCK } else { place };
        Part { from: Source { strip: strip(place), ahead: strip(ahead) }, place: place % places, n }
    })
}

/// Brings keys and values of a block to f32. Values of places without a token are 0: what lies there may be anything.
#[inline(always)]
fn convert<V: Vector>(v: V, call: &Call<'_>, parts: &Parts, scratch: &mut Scratch<'_>) {
    let (heads, keys, values) = call.kv.layer(call.layer);
    let width = call.width();
    for (part, Part { from, place, n }) in parts.iter().enumerate() {
        let out = &mut scratch.values[part * LANES * width..][..LANES * width];
        if *n == 0 {
            scratch.keys[..].chunks_exact_mut(BLOCK).for_each(|k| k[part * LANES..][..LANES].fill(0.0));
            out.fill(0.0);
            continue;
        }
        keys.columns(v, *from, *place, &mut scratch.keys[part * LANES..]);
        if heads.d_v > 0 {
            values.rows(v, *from, *place, &mut out[..n * width]);
        } else {
            for (i, out) in out.chunks_exact_mut(width).take(*n).enumerate() {
                let lane = part * LANES + i;
                for (out, key) in out.iter_mut().zip(scratch.keys.chunks_exact(BLOCK)).take(heads.d_latent) {
                    *out = key[lane];
                }
            }
        }
        out[n * width..].fill(0.0);
    }
}

/// Scores of a few queries with keys as they are stored.
#[inline(always)]
fn stored_scores<V: Vector>(v: V, keys: &Strips, parts: &Parts, n: usize, scratch: &mut Scratch<'_>) {
    let (d_k, mut done) = (scratch.q.len() / QUERIES, 0);
    while done < n {
        let (q, out) = (&scratch.q[done * d_k..], &mut scratch.scores[done * BLOCK..]);
        done += match n - done {
            8.. if V::ROWS >= 8 => keys.scores::<V, 8>(v, parts, q, out),
            4.. => keys.scores::<V, 4>(v, parts, q, out),
            2.. => keys.scores::<V, 2>(v, parts, q, out),
            _ => keys.scores::<V, 1>(v, parts, q, out),
        };
    }
}

/// Adds the weighted values of a block, as they are stored, of a few queries to what was summed before.
#[inline(always)]
fn stored_values<V: Vector>(v: V, values: &Strips, parts: &Parts, n: usize, scratch: &mut Scratch<'_>) {
    let (width, mut done) = (scratch.partial.width(), 0);
    while done < n {
        let weights = (&scratch.scores[done * BLOCK..], &scratch.factors[done..]);
        let out = &mut scratch.partial.out[done * width..];
        done += match n - done {
            8.. if V::ROWS >= 8 => values.weigh::<V, 8>(v, parts, weights, out),
            4.. => values.weigh::<V, 4>(v, parts, weights, out),
            2.. => values.weigh::<V, 2>(v, parts, weights, out),
            _ => values.weigh::<V, 1>(v, parts, weights, out),
        };
    }
}

/// Scores of all queries, in tiles that fit the registers.
#[inline(always)]
fn all_scores<V: Vector>(v: V, d_k: usize, n: usize, scratch: &mut Scratch<'_>) {
    let (q, keys) = (&scratch.q[..n * d_k], scratch.keys.as_chunks::<BLOCK>().0);
    let mut done = 0;
    while done < n {
        let (q, out) = (&q[done * d_k..], &mut scratch.scores[done * BLOCK..]);
        done += match n - done {
            8.. if V::ROWS >= 8 => scores::<V, 8>(v, q, keys, out),
            4.. => scores::<V, 4>(v, q, keys, out),
            2.. => scores::<V, 2>(v, q, keys, out),
            _ => scores::<V, 1>(v, q, keys, out),
        };
    }
}

/// Scores of `M` queries: `out[m, place] = q[m] . keys[.., place]`.
#[inline(always)]
fn scores<V: Vector, const M: usize>(v: V, q: &[f32], keys: &[[f32; BLOCK]], out: &mut [f32]) -> usize {
    let d_k = keys.len();
    let mut rows = [&q[..0]; M];
    for (m, row) in rows.iter_mut().enumerate() {
        *row = &q[m * d_k..][..d_k];
    }
    if V::WIDTH == 2 {
        let mut sums = [[v.splat(0.0); 2]; M];
        for (d, key) in keys.iter().enumerate() {
            let (a, b) = (load(v, &key[..LANES]), load(v, &key[LANES..]));
            for m in 0..M {
                let q = v.splat(rows[m][d]);
                sums[m] = [v.fma(q, a, sums[m][0]), v.fma(q, b, sums[m][1])];
            }
        }
        for (sums, out) in sums.into_iter().zip(out.chunks_exact_mut(BLOCK)) {
            store(v, &mut out[..LANES], sums[0]);
            store(v, &mut out[LANES..], sums[1]);
        }
        return M;
    }
    for half in 0..BLOCK / LANES {
        let mut sums = [v.splat(0.0); M];
        for (d, key) in keys.iter().enumerate() {
            let a = load(v, &key[half * LANES..][..LANES]);
            for m in 0..M {
                sums[m] = v.fma(v.splat(rows[m][d]), a, sums[m]);
            }
        }
        for (sum, out) in sums.into_iter().zip(out.chunks_exact_mut(BLOCK)) {
            store(v, &mut out[half * LANES..][..LANES], sum);
        }
    }
    M
}

/// Turns scores into weights `exp(score - maximum)` and updates maxima and sums.
#[inline(always)]
fn softmax<V: Vector>(v: V, call: &Call<'_>, item: &Item, sight: Sight, scratch: &mut Scratch<'_>) {
    let n_head = item.heads.len();
    for (r, scores) in scratch.scores.chunks_exact_mut(BLOCK).take(item.n_query()).enumerate() {
        let (token, head) = (r / n_head, item.heads.start + r % n_head);
        let mut s = [load(v, &scores[..LANES]), load(v, &scores[LANES..])];
        if let Some(cap) = call.features.softcap {
            for s in &mut s {
                *s = v.mul(v.splat(cap), math::tanh(v, v.mul(*s, v.splat(1.0 / cap))));
            }
        }
        if let Some(slopes) = call.features.alibi {
            let slope = v.splat(-slopes[head]);
            for (i, s) in s.iter_mut().enumerate() {
                *s = v.fma(slope, load(v, &scratch.distances[token * BLOCK + i * LANES..][..LANES]), *s);
            }
        }
        if sight == Sight::Part {
            for (i, s) in s.iter_mut().enumerate() {
                let hidden = load(v, &scratch.hidden[token * BLOCK + i * LANES..][..LANES]);
                *s = v.where_less(hidden, v.splat(0.0), v.splat(f32::NEG_INFINITY), *s);
            }
        }
        let old = scratch.partial.max[r];
        let max = old.max(v.greatest(v.max(s[0], s[1])));
        let weights = [math::exp(v, v.sub(s[0], v.splat(max))), math::exp(v, v.sub(s[1], v.splat(max)))];
        let factor = if max > old { exp_one(v, old - max) } else { 1.0 };
        scratch.partial.max[r] = max;
        scratch.partial.sum[r] = scratch.partial.sum[r] * factor + v.sum(v.add(weights[0], weights[1]));
        scratch.factors[r] = factor;
        store(v, &mut scores[..LANES], weights[0]);
        store(v, &mut scores[LANES..], weights[1]);
    }
}

/// Adds the weighted values of a block to what was summed before, in tiles that fit the registers.
#[inline(always)]
fn all_values<V: Vector>(v: V, n: usize, scratch: &mut Scratch<'_>) {
    let width = scratch.partial.width();
    let Scratch { values, scores, factors, partial, .. } = scratch;
    let mut done = 0;
    while done < n {
        let (weights, factors) = (&scores[done * BLOCK..], &factors[done..]);
        let out = &mut partial.out[done * width..];
        done += match n - done {
            8.. if V::ROWS >= 8 => values_of::<V, 8>(v, weights, factors, values, out),
            4.. => values_of::<V, 4>(v, weights, factors, values, out),
            2.. => values_of::<V, 2>(v, weights, factors, values, out),
            _ => values_of::<V, 1>(v, weights, factors, values, out),
        };
    }
}

/// `out[m] = factors[m] * out[m] + sum over places of weights[m, place] * values[place]`, `M` queries.
#[inline(always)]
fn values_of<V: Vector, const M: usize>(
    v: V,
    weights: &[f32],
    factors: &[f32],
    values: &[f32],
    out: &mut [f32],
) -> usize {
    let width = values.len() / BLOCK;
    let weights = &weights.as_chunks::<BLOCK>().0[..M];
    let mut col = 0;
    while col < width {
        if V::WIDTH == 2 && col + 2 * LANES <= width {
            strip::<V, M, 2>(v, (weights, factors), values, out, col);
            col += 2 * LANES;
        } else {
            strip::<V, M, 1>(v, (weights, factors), values, out, col);
            col += LANES;
        }
    }
    M
}

/// `N` vectors of columns of `M` queries.
#[inline(always)]
fn strip<V: Vector, const M: usize, const N: usize>(
    v: V,
    (weights, factors): (&[[f32; BLOCK]], &[f32]),
    values: &[f32],
    out: &mut [f32],
    col: usize,
) {
    let width = values.len() / BLOCK;
    let mut sums = [[v.splat(0.0); N]; M];
    for m in 0..M {
        let factor = v.splat(factors[m]);
        for n in 0..N {
            sums[m][n] = v.mul(factor, load(v, &out[m * width + col + n * LANES..][..LANES]));
        }
    }
    for (place, value) in values.chunks_exact(width).enumerate() {
        let value = &value[col..][..N * LANES];
        let mut x = [v.splat(0.0); N];
        for n in 0..N {
            x[n] = load(v, &value[n * LANES..][..LANES]);
        }
        for m in 0..M {
            let weight = v.splat(weights[m][place]);
            for n in 0..N {
                sums[m][n] = v.fma(weight, x[n], sums[m][n]);
            }
        }
    }
    for m in 0..M {
        for n in 0..N {
            store(v, &mut out[m * width + col + n * LANES..][..LANES], sums[m][n]);
        }
    }
}
