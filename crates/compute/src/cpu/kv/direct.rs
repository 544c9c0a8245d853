//! Products with stored keys and values, brought to f32 as they are read. For a few queries (decoding) that is cheaper than
//! copies in f32, which pay when many queries read them.

use super::super::attention::BLOCK;
use super::super::elementwise::{load, some, store};
use super::super::vector::{LANES, Vector};
use super::strips::{BF16, F16, Source, Stored, Strips};
use crate::op::KvType;

/// Sixteen places of a block.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Part {
    pub from: Source,
    /// The first of them in its page.
    pub place: usize,
    /// How many of them hold tokens.
    pub n: usize,
}

/// The parts of a block.
pub(in super::super) type Parts = [Part; BLOCK / LANES];

impl Strips {
    /// Whether a number of a strip is read without what lies beside it.
    pub(in super::super) fn is_direct(&self) -> bool {
        self.dtype != KvType::Q4
    }

    /// Products of `M` queries `[M, n_row]` with keys: `out[m, place]`, rows of a block each. Of places without a token
    /// they are anything. Returns `M`.
    #[inline(always)]
    pub(in super::super) fn scores<V: Vector, const M: usize>(
        &self,
        v: V,
        parts: &Parts,
        q: &[f32],
        out: &mut [f32],
    ) -> usize {
        match self.dtype {
            KvType::F32 => self.scores_of::<V, f32, M>(v, parts, q, out),
            KvType::F16 => self.scores_of::<V, F16, M>(v, parts, q, out),
            KvType::BF16 => self.scores_of::<V, BF16, M>(v, parts, q, out),
            KvType::Q8 => self.scores_of::<V, i8, M>(v, parts, q, out),
            KvType::Q4 => unreachable!("`is_direct` was asked"),
        }
        M
    }

    #[inline(always)]
    fn scores_of<V: Vector, T: Stored, const M: usize>(&self, v: V, parts: &Parts, q: &[f32], out: &mut [f32]) {
        if V::WIDTH == 2 {
            return self.dots::<V, T, M, 2>(v, parts, q, out);
        }
        for (i, part) in parts.iter().enumerate() {
            self.dots::<V, T, M, 1>(v, &[*part], q, &mut out[i * LANES..]);
        }
    }

    /// Scores of `W` parts at once.
    #[inline(always)]
    fn dots<V: Vector, T: Stored, const M: usize, const W: usize>(
        &self,
        v: V,
        parts: &[Part; W],
        q: &[f32],
        out: &mut [f32],
    ) {
        let (n_row, step) = (self.n_row, self.n_col / LANES);
        let keys = parts.map(|p| &self.parts::<T>(p.from.strip).0[p.place / LANES..][..(n_row - 1) * step + 1]);
        let ahead = parts.map(|p| &self.parts::<T>(p.from.ahead).0[p.place / LANES..][..(n_row - 1) * step + 1]);
        let mut scales = [v.splat(1.0); W];
        if T::GROUP != 0 {
            for (scale, part) in scales.iter_mut().zip(parts) {
                *scale = some(v, &self.parts::<T>(part.from.strip).1[part.place..][..LANES]);
            }
        }
        let mut rows = [&q[..0]; M];
        for (m, row) in rows.iter_mut().enumerate() {
            *row = &q[m * n_row..][..n_row];
        }
        let mut sums = [[v.splat(0.0); W]; M];
        for row in 0..n_row {
            let mut key = [v.splat(0.0); W];
            for w in 0..W {
                v.prefetch(&ahead[w][row * step]);
                key[w] = T::load(v, &keys[w][row * step]);
                if T::GROUP != 0 {
                    key[w] = v.mul(key[w], scales[w]);
                }
            }
            for m in 0..M {
                let q = v.splat(rows[m][row]);
                for w in 0..W {
                    sums[m][w] = v.fma(q, key[w], sums[m][w]);
                }
            }
        }
        for (sums, out) in sums.into_iter().zip(out.chunks_mut(BLOCK)) {
            for (w, sum) in sums.into_iter().enumerate() {
                store(v, &mut out[w * LANES..][..LANES], sum);
            }
        }
    }

    /// `out[m] = factors[m] * out[m] + sum over places with a token of weights[m, place] * value`, `M` queries. `weights`
    /// have rows of a block; `out` `[M, n_col]`. Returns `M`.
    #[inline(always)]
    pub(in super::super) fn weigh<V: Vector, const M: usize>(
        &self,
        v: V,
        parts: &Parts,
        weights: (&[f32], &[f32]),
        out: &mut [f32],
    ) -> usize {
        match self.dtype {
            KvType::F32 => self.weigh_of::<V, f32, M>(v, parts, weights, out),
            KvType::F16 => self.weigh_of::<V, F16, M>(v, parts, weights, out),
            KvType::BF16 => self.weigh_of::<V, BF16, M>(v, parts, weights, out),
            KvType::Q8 => self.weigh_of::<V, i8, M>(v, parts, weights, out),
            KvType::Q4 => unreachable!("`is_direct` was asked"),
        }
        M
    }

    #[inline(always)]
    fn weigh_of<V: Vector, T: Stored, const M: usize>(
        &self,
        v: V,
        parts: &Parts,
        (weights, factors): (&[f32], &[f32]),
        out: &mut [f32],
    ) {
        let (n_vector, mut col) = (self.n_col / LANES, 0);
        let weights = &weights.as_chunks::<BLOCK>().0[..M];
        while col < n_vector {
            if V::WIDTH == 2 && col + 2 <= n_vector {
                self.sums::<V, T, M, 2>(v, parts, (weights, factors), out, col);
                col += 2;
            } else {
                self.sums::<V, T, M, 1>(v, parts, (weights, factors), out, col);
                col += 1;
            }
        }
    }

    /// `W` vectors of columns from vector `col` on.
    #[inline(always)]
    fn sums<V: Vector, T: Stored, const M: usize, const W: usize>(
        &self,
        v: V,
        parts: &Parts,
        (weights, factors): (&[[f32; BLOCK]], &[f32]),
        out: &mut [f32],
        col: usize,
    ) {
        let n_vector = self.n_col / LANES;
        let mut sums = [[v.splat(0.0); W]; M];
        for m in 0..M {
            let factor = v.splat(factors[m]);
            for w in 0..W {
                sums[m][w] = v.mul(factor, load(v, &out[m * self.n_col + (col + w) * LANES..][..LANES]));
            }
        }
        for (i, part) in parts.iter().enumerate() {
            let range = part.place * n_vector..(part.place + part.n) * n_vector;
            let (numbers, scales) = self.parts::<T>(part.from.strip);
            let ahead = self.parts::<T>(part.from.ahead).0[range.clone()].chunks_exact(n_vector);
            for (at, (row, ahead)) in numbers[range].chunks_exact(n_vector).zip(ahead).enumerate() {
                v.prefetch(&ahead[col]);
                let mut value = [v.splat(0.0); W];
                for w in 0..W {
                    value[w] = T::load(v, &row[col + w]);
                    if T::GROUP != 0 {
                        value[w] = v.mul(value[w], v.splat(scales[part.place + at]));
                    }
                }
                for m in 0..M {
                    let weight = v.splat(weights[m][(i * LANES + at) % BLOCK]);
                    for w in 0..W {
                        sums[m][w] = v.fma(weight, value[w], sums[m][w]);
                    }
                }
            }
        }
        for m in 0..M {
            for w in 0..W {
                store(v, &mut out[m * self.n_col + (col + w) * LANES..][..LANES], sums[m][w]);
            }
        }
    }
}
