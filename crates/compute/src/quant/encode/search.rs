//! Least-squares searches: codes and scales for which a sum of `w * (x - decoded)^2` is small.
//!
//! Each tries a list of scales around the one that maps the largest weight to the largest code, rounds, solves for the
//! scale (and minimum) that is best for those codes, and keeps the best of all. Sums run in [`LANES`] partial sums, in
//! which the compiler finds vectors; weights come in multiples of that.
//!
//! Source of the idea: `make_qx_quants`, `make_qkx2_quants`, ggml `src/ggml-quants.c` @ d99724f2.

/// Partial sums of a sum.
const LANES: usize = 16;

/// The integer in `low..=high` nearest to `x`, ties to even. Both are below 2^22 in magnitude.
#[inline]
pub(super) fn nearest(x: f32, low: f32, high: f32) -> f32 {
    // Adding 1.5 * 2^23 drops the fraction; unlike `round`, this vectorizes on every CPU.
    const DROP: f32 = 12_582_912.0;
    (x.clamp(low, high) + DROP) - DROP
}

/// `1 / x`, or 0 where that is not finite.
#[inline]
pub(super) fn inverse(x: f32) -> f32 {
    let inverse = 1.0 / x;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// The first weight of the largest magnitude.
pub(super) fn extreme(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |extreme: f32, x| if x.abs() > extreme.abs() { *x } else { extreme })
}

/// Weight of each error: importance, of at most 1, times a rise with magnitude, since large weights matter more.
/// Importance that is zero everywhere is none.
///
/// Source: `quantize_row_q4_K_impl` and kin, ggml `src/ggml-quants.c` @ d99724f2.
pub(super) fn error_weights<const N: usize>(x: &[f32; N], sigma2: f32, importance: Option<&[f32]>) -> [f32; N] {
    let largest = importance.map_or(0.0, |w| w.iter().copied().fold(0.0, f32::max));
    let importance = importance.filter(|_| largest > 0.0);
    std::array::from_fn(|i| importance.map_or(1.0, |w| w[i] / largest) * (sigma2 + x[i] * x[i]).sqrt())
}

/// Sums of the `N` terms that `term` makes of each weight and its error's weight.
#[inline]
pub(super) fn sums<const N: usize>(x: &[f32], weights: &[f32], term: impl Fn(f32, f32) -> [f32; N]) -> [f32; N] {
    let mut lanes = [[0.0; LANES]; N];
    for (x, w) in x.as_chunks::<LANES>().0.iter().zip(weights.as_chunks::<LANES>().0) {
        for i in 0..LANES {
            let terms = term(x[i], w[i]);
            for n in 0..N {
                lanes[n][i] += terms[n];
            }
        }
    }
    lanes.map(|mut lanes| {
        // By halves: a chain of sixteen additions would take longer than the loop above.
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
        }
        lanes[0]
    })
}

/// Values that codes stand for, before the scale.
pub(super) trait Levels: Copy {
    /// The value nearest to `x`.
    fn round(&self, x: f32) -> f32;
    /// Values that the extreme weight is mapped to in turn: the ends of the range and their surroundings.
    fn reaches(&self) -> impl Iterator<Item = f32>;
}

/// The integers `low..=high`.
#[derive(Clone, Copy)]
pub(super) struct Integers {
    pub low: i32,
    pub high: i32,
}

impl Levels for Integers {
    #[inline]
    fn round(&self, x: f32) -> f32 {
        nearest(x, self.low as f32, self.high as f32)
    }

    fn reaches(&self) -> impl Iterator<Item = f32> {
        let (low, high) = (self.low as f32, self.high as f32);
        (-9..=9).map(|step| 0.1 * step as f32).flat_map(move |step| [low + step, high + step])
    }
}

/// What a scale with the codes nearest to each weight can gain.
#[derive(Clone, Copy, Default)]
struct Fit {
    /// The scale that is best for the codes.
    scale: f32,
    /// By how much it lowers the error against all zeros.
    gain: f32,
}

fn fit(x: &[f32], weights: &[f32], inverse: f32, levels: impl Levels) -> Fit {
    let [xq, qq] = sums(x, weights, |x, w| {
        let q = levels.round(x * inverse);
        [w * x * q, w * q * q]
    });
    let scale = if qq > 0.0 { xq / qq } else { 0.0 };
    Fit { scale, gain: scale * xq }
}

/// A scale `d`, of either sign, for which `x ~ d * level` has a small error.
pub(super) fn symmetric(x: &[f32], weights: &[f32], levels: impl Levels) -> f32 {
    let extreme = extreme(x);
    let mut best = Fit::default();
    if extreme == 0.0 {
        return 0.0;
    }
    for reach in levels.reaches() {
        let found = fit(x, weights, reach / extreme, levels);
        if found.gain > best.gain {
            best = found;
        }
    }
    for _ in 0..2 {
        let found = fit(x, weights, inverse(best.scale), levels);
        if found.gain > best.gain {
            best = found;
        }
    }
    best.scale
}

/// The error of a scale with the levels nearest to each weight.
pub(super) fn symmetric_error(x: &[f32], weights: &[f32], d: f32, levels: impl Levels) -> f32 {
    let inverse = inverse(d);
    let [error] = sums(x, weights, |x, w| {
        let miss = d * levels.round(x * inverse) - x;
        [w * miss * miss]
    });
    error
}

/// A scale and a minimum, neither negative, for which `x ~ d * q - m`, codes `0..=high`, has a small error.
pub(super) fn affine(x: &[f32], weights: &[f32], high: i32) -> [f32; 2] {
    let least = x.iter().copied().fold(0.0, f32::min);
    let range = x.iter().copied().fold(0.0, f32::max) - least;
    if range <= 0.0 {
        return [0.0, -least];
    }
    let sums = sums(x, weights, |x, w| [w, w * x, w * x * x]);
    let mut best = [range / high as f32, -least];
    let mut best_error = affine_error(x, weights, best, high);
    for step in 0..=20 {
        let inverse = (high as f32 - 1.0 + 0.1 * step as f32) / range;
        let (found, error) = affine_fit(x, weights, [inverse, -least], high, sums);
        if error < best_error {
            (best, best_error) = (found, error);
        }
    }
    for _ in 0..2 {
        let (found, error) = affine_fit(x, weights, [inverse(best[0]), best[1]], high, sums);
        if error < best_error {
            (best, best_error) = (found, error);
        }
    }
    best
}

/// The best scale and minimum for the codes that `1 / scale` and a minimum give, and their error with those codes.
/// `[sw, sx, sxx]`: sums of `w`, `w * x`, `w * x^2`.
fn affine_fit(
    x: &[f32],
    weights: &[f32],
    [inverse, min]: [f32; 2],
    high: i32,
    [sw, sx, sxx]: [f32; 3],
) -> ([f32; 2], f32) {
    let [sq, sqq, sxq] = sums(x, weights, |x, w| {
        let q = nearest(inverse * (x + min), 0.0, high as f32);
        [w * q, w * q * q, w * x * q]
    });
    let determinant = sw * sqq - sq * sq;
    let (d, m) = ((sw * sxq - sx * sq) / determinant, -(sqq * sx - sq * sxq) / determinant);
    if determinant > 0.0 && m >= 0.0 && d >= 0.0 {
        return ([d, m], sxx - d * sxq + m * sx); // the misses of a regression are orthogonal to what it fits
    }
    let d = if sqq > 0.0 { (sxq / sqq).max(0.0) } else { 0.0 };
    ([d, 0.0], sxx - d * sxq)
}

/// The error of a scale and a minimum with the codes nearest to each weight.
pub(super) fn affine_error(x: &[f32], weights: &[f32], [d, m]: [f32; 2], high: i32) -> f32 {
    let inverse = inverse(d);
    let [error] = sums(x, weights, |x, w| {
        let miss = d * nearest(inverse * (x + m), 0.0, high as f32) - m - x;
        [w * miss * miss]
    });
    error
}
