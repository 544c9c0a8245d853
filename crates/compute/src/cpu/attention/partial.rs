//! What items sum up: partial results of queries, merged and finished.

use super::super::elementwise::{load, put};
use super::super::math;
use super::super::shared::Shared;
use super::super::vector::{Kernel, LANES, Vector};
use super::plan::Item;
use super::{Call, QUERIES};

/// Below every score, and finite, so that differences are numbers.
const LOWEST: f32 = -1e30;

/// Of each query: maximum of the scores, sum of `exp(score - maximum)`, and the values weighted by it.
pub(super) struct Partial<'a> {
    pub(super) max: &'a mut [f32],
    pub(super) sum: &'a mut [f32],
    pub(super) out: &'a mut [f32],
}

impl<'a> Partial<'a> {
    /// A partial in `numbers` `[QUERIES * (2 + width)]`.
    pub(super) fn of(numbers: &'a mut [f32]) -> Partial<'a> {
        let (max, rest) = numbers.split_at_mut(QUERIES);
        let (sum, out) = rest.split_at_mut(QUERIES);
        Partial { max, sum, out }
    }

    /// Nothing seen by the first `n` queries.
    pub(super) fn clear(&mut self, n: usize) {
        let width = self.width();
        self.max[..n].fill(LOWEST);
        self.sum[..n].fill(0.0);
        self.out[..n * width].fill(0.0);
    }

    pub(super) fn width(&self) -> usize {
        self.out.len() / QUERIES
    }
}

/// `exp` of one number, as vectors compute it.
#[inline(always)]
pub(super) fn exp_one<V: Vector>(v: V, x: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    v.store(&mut lanes, math::exp(v, v.splat(x)));
    lanes[0]
}

/// Adds `part` to `total`.
pub(super) struct Merge<'a, 't, 'p> {
    pub total: &'a mut Partial<'t>,
    pub part: &'a Partial<'p>,
    pub n: usize,
}

impl Kernel for Merge<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        merge(v, self.total, self.part, self.n);
    }
}

#[inline(always)]
pub(super) fn merge<V: Vector>(v: V, total: &mut Partial<'_>, part: &Partial<'_>, n: usize) {
    let width = total.width();
    for r in 0..n {
        let max = total.max[r].max(part.max[r]);
        let (old, new) = (exp_one(v, total.max[r] - max), exp_one(v, part.max[r] - max));
        total.max[r] = max;
        total.sum[r] = total.sum[r] * old + part.sum[r] * new;
        let (old, new) = (v.splat(old), v.splat(new));
        let lanes = total.out[r * width..][..width].as_chunks_mut::<LANES>().0;
        for (out, part) in lanes.iter_mut().zip(part.out[r * width..][..width].as_chunks::<LANES>().0) {
            let y = v.fma(v.load(out), old, v.mul(v.load(part), new));
            v.store(out, y);
        }
    }
}

/// Divides by the sums, sinks included, and writes the item's part of the result.
pub(super) struct Finish<'a, 't> {
    pub call: &'a Call<'a>,
    pub item: &'a Item,
    pub partial: &'a mut Partial<'t>,
    pub out: &'a Shared<'a, f32>,
}

impl Kernel for Finish<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Finish { call, item, partial, out } = self;
        let (width, d_out, n_head) = (partial.width(), call.heads.d_out(), item.heads.len());
        for r in 0..item.n_query() {
            let (token, head) = (item.row.first + item.tokens.start + r / n_head, item.heads.start + r % n_head);
            let (mut factor, mut sum) = (1.0, partial.sum[r]);
            if let Some(sinks) = call.features.sinks {
                let max = partial.max[r].max(sinks[head]);
                factor = exp_one(v, partial.max[r] - max);
                sum = sum * factor + exp_one(v, sinks[head] - max);
            }
            let factor = v.splat(if sum > 0.0 { factor / sum } else { 0.0 });
            // SAFETY: tokens and heads of items are distinct.
            let out = unsafe { out.part((token * call.features.n_head + head) * d_out, d_out) };
            for (out, x) in out.chunks_mut(LANES).zip(partial.out[r * width..][..width].chunks_exact(LANES)) {
                let y = v.mul(load(v, x), factor);
                put(v, out, y);
            }
        }
    }
}
