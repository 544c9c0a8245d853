//! Super-blocks: the scales of sub-blocks as small integers times one f16.
//!
//! First each sub-block gets its own best scale; the largest of them fixes the f16. Then, in turn: each sub-block
//! chooses among the five integers (or nine pairs of integers) next to its scale, and the f16 is solved for anew.

use super::super::float::Half;
use super::search::{
    Levels, affine, affine_error, error_weights, extreme, inverse, nearest, sums, symmetric, symmetric_error,
};

/// Rounds of choosing integers and solving for the f16.
const ROUNDS: usize = 3;

/// Weights of errors in a super-block.
pub(super) fn super_weights(x: &[f32; 256], importance: Option<&[f32; 256]>) -> [f32; 256] {
    let sigma2 = x.iter().map(|x| x * x).sum::<f32>() / 128.0;
    error_weights(x, sigma2, importance.map(|w| w.as_slice()))
}

/// Scales of a symmetric super-block: sub-block `k` has the scale `d * scales[k]`.
pub(super) struct Symmetric {
    pub d: Half,
    pub scales: [i8; 16],
}

/// The scales of `256 / sub` sub-blocks as integers `low..=high`, where `-low >= high`.
pub(super) fn symmetric_scales(
    x: &[f32; 256],
    weights: &[f32; 256],
    sub: usize,
    [low, high]: [i32; 2],
    levels: impl Levels,
) -> Symmetric {
    let subs = || x.chunks_exact(sub).zip(weights.chunks_exact(sub));
    let mut wanted = [0.0; 16];
    for (wanted, (x, w)) in wanted.iter_mut().zip(subs()) {
        *wanted = symmetric(x, w, levels);
    }
    let choose = |d: Half| {
        let (mut scales, mut error) = ([0i8; 16], 0.0);
        for (k, (x, w)) in subs().enumerate() {
            let near = nearest(wanted[k] * inverse(d.f32()), low as f32, high as f32) as i32;
            let candidates = ((near - 2).max(low)..=(near + 2).min(high)).map(|scale| scale as i8);
            let tried = candidates.map(|scale| (scale, symmetric_error(x, w, d.f32() * f32::from(scale), levels)));
            let best = tried.min_by(|a, b| a.1.total_cmp(&b.1)).expect("one candidate at least");
            (scales[k], error) = (best.0, error + best.1);
        }
        (Symmetric { d, scales }, error)
    };
    let (mut best, mut best_error) = choose(Half::new(extreme(&wanted) / low as f32));
    for _ in 0..ROUNDS {
        let (mut xa, mut aa) = (0.0, 0.0);
        for (k, (x, w)) in subs().enumerate() {
            let scale = f32::from(best.scales[k]);
            let inverse = inverse(best.d.f32() * scale);
            let [sub_xa, sub_aa] = sums(x, w, |x, w| {
                let a = scale * levels.round(x * inverse);
                [w * x * a, w * a * a]
            });
            (xa, aa) = (xa + sub_xa, aa + sub_aa);
        }
        let (found, error) = choose(Half::new(xa * inverse(aa)));
        if error >= best_error {
            break;
        }
        (best, best_error) = (found, error);
    }
    best
}

/// Scales and minima of a super-block: sub-block `k` has the scale `d * scales[k]`, the minimum `dmin * mins[k]`.
pub(super) struct Affine {
    pub d: Half,
    pub dmin: Half,
    pub scales: [u8; 16],
    pub mins: [u8; 16],
}

impl Affine {
    /// Scale and minimum of sub-block `k`.
    pub(super) fn of(&self, k: usize) -> [f32; 2] {
        [self.d.f32() * f32::from(self.scales[k]), self.dmin.f32() * f32::from(self.mins[k])]
    }
}

/// What [`affine_scales`] searches.
#[derive(Clone, Copy)]
pub(super) struct AffineFormat {
    /// Weights in a sub-block.
    pub sub: usize,
    /// Largest code.
    pub high: i32,
    /// Largest integer scale and minimum.
    pub top: i32,
}

/// The scales and minima of `256 / sub` sub-blocks as integers `0..=top`.
pub(super) fn affine_scales(x: &[f32; 256], weights: &[f32; 256], format: AffineFormat) -> Affine {
    let AffineFormat { sub, high, top } = format;
    let mut wanted = [[0.0; 2]; 16];
    for (wanted, (x, w)) in wanted.iter_mut().zip(x.chunks_exact(sub).zip(weights.chunks_exact(sub))) {
        *wanted = affine(x, w, high);
    }
    let largest = |i: usize| wanted.iter().map(|w| w[i]).fold(0.0, f32::max) / top as f32;
    let start = [Half::new(largest(0)), Half::new(largest(1))];
    let (mut best, mut best_error) = choose(x, weights, format, &wanted, start);
    for _ in 0..ROUNDS {
        let (found, error) = choose(x, weights, format, &wanted, refit(x, weights, format, &best));
        if error >= best_error {
            break;
        }
        (best, best_error) = (found, error);
    }
    best
}

/// The integers next to the wanted scales and minima with the least error, and that error.
fn choose(
    x: &[f32; 256],
    weights: &[f32; 256],
    AffineFormat { sub, high, top }: AffineFormat,
    wanted: &[[f32; 2]; 16],
    [d, dmin]: [Half; 2],
) -> (Affine, f32) {
    let mut found = Affine { d, dmin, scales: [0; 16], mins: [0; 16] };
    let mut total = 0.0;
    for (k, (x, w)) in x.chunks_exact(sub).zip(weights.chunks_exact(sub)).enumerate() {
        let near = [wanted[k][0] * inverse(d.f32()), wanted[k][1] * inverse(dmin.f32())];
        let near = near.map(|near| nearest(near, 0.0, top as f32) as i32);
        let around = |near: i32| (near - 1).max(0)..=(near + 1).min(top);
        let mut least = f32::INFINITY;
        for scale in around(near[0]) {
            for min in around(near[1]) {
                let error = affine_error(x, w, [d.f32() * scale as f32, dmin.f32() * min as f32], high);
                if error < least {
                    (found.scales[k], found.mins[k], least) = (scale as u8, min as u8, error);
                }
            }
        }
        total += least;
    }
    (found, total)
}

/// The two f16 that are best for the integers and codes of `fixed`.
fn refit(x: &[f32; 256], weights: &[f32; 256], format: AffineFormat, fixed: &Affine) -> [Half; 2] {
    // x ~ d * a - dmin * b with a = scale * code, b = min.
    let [mut aa, mut ab, mut bb, mut xa, mut xb] = [0.0f32; 5];
    for (k, (x, w)) in x.chunks_exact(format.sub).zip(weights.chunks_exact(format.sub)).enumerate() {
        let [d, m] = fixed.of(k);
        let (inverse, scale, b) = (inverse(d), f32::from(fixed.scales[k]), f32::from(fixed.mins[k]));
        let [sub_aa, sub_xa, sub_a, sub_w, sub_x] = sums(x, w, |x, w| {
            let a = scale * nearest(inverse * (x + m), 0.0, format.high as f32);
            [w * a * a, w * x * a, w * a, w, w * x]
        });
        (aa, xa, ab) = (aa + sub_aa, xa + sub_xa, ab + b * sub_a);
        (bb, xb) = (bb + b * b * sub_w, xb + b * sub_x);
    }
    let determinant = aa * bb - ab * ab;
    let (d, dmin) = ((xa * bb - xb * ab) / determinant, (xa * ab - xb * aa) / determinant);
    if determinant > 0.0 && d >= 0.0 && dmin >= 0.0 {
        return [Half::new(d), Half::new(dmin)];
    }
    [Half::new((xa * inverse(aa)).max(0.0)), fixed.dmin]
}
