//! Super-blocks: the scales of sub-blocks as small integers times one f16.
//!
//! First each sub-block gets its own best scale; the largest of them fixes the f16. Then, in turn: each sub-block
//! chooses among the integers (or pairs of integers) next to its scale, and the f16 is solved for anew.
//!
//! Sub-blocks are searched side by side: lane `l` of a vector is sub-block `l`, so sums over a sub-block are sums of
//! vectors and no lane waits for another. With eight sub-blocks, the upper lanes try a second candidate.

use super::super::float::Half;
use super::search::{Levels, array, error_weights, inverse, low_byte, mean_square, nearest};

/// Rounds of choosing integers and solving for the f16.
const ROUNDS: usize = 2;
/// Sub-blocks (times candidates) that are searched side by side.
const LANES: usize = 16;

/// A number for each lane.
type Lanes = [f32; LANES];

/// Weights of errors in a super-block.
#[inline(always)]
pub(super) fn super_weights(x: &[f32; 256], importance: Option<&[f32; 256]>) -> [f32; 256] {
    error_weights(x, 2.0 * mean_square(x), importance.map(|w| w.as_slice()))
}

#[inline(always)]
fn each(lane: impl Fn(usize) -> f32) -> Lanes {
    array(lane)
}

/// A super-block with sub-block `l % n_sub` in lane `l`.
struct Turned {
    /// Number `e` of each sub-block.
    x: [Lanes; 32],
    w: [Lanes; 32],
    /// Numbers of a sub-block: 16 or 32.
    sub: usize,
}

impl Turned {
    #[inline(always)]
    fn new(x: &[f32; 256], w: &[f32; 256], sub: usize) -> Turned {
        let mut turned = Turned { x: [[0.0; LANES]; 32], w: [[0.0; LANES]; 32], sub };
        for l in 0..LANES {
            let at = l * sub % 256;
            for e in 0..sub {
                (turned.x[e][l], turned.w[e][l]) = (x[at + e], w[at + e]);
            }
        }
        turned
    }

    fn n_sub(&self) -> usize {
        256 / self.sub
    }

    /// Candidates in the lanes at once.
    fn n_copy(&self) -> usize {
        LANES / self.n_sub()
    }

    /// For `N` terms of each number: their sums, lane by lane.
    #[inline(always)]
    fn sums<const N: usize>(&self, term: impl Fn(usize, f32, f32) -> [f32; N]) -> [Lanes; N] {
        let mut sums = [[0.0; LANES]; N];
        for (x, w) in self.x[..self.sub].iter().zip(&self.w[..self.sub]) {
            for l in 0..LANES {
                let terms = term(l, x[l], w[l]);
                for n in 0..N {
                    sums[n][l] += terms[n];
                }
            }
        }
        sums
    }

    /// Least and largest number of each lane, and 0.
    #[inline(always)]
    fn range(&self) -> [Lanes; 2] {
        let (mut low, mut high) = ([0.0; LANES], [0.0; LANES]);
        for x in &self.x[..self.sub] {
            low = each(|l| if x[l] < low[l] { x[l] } else { low[l] });
            high = each(|l| if x[l] > high[l] { x[l] } else { high[l] });
        }
        [low, high]
    }

    /// The better of the copies of each sub-block, in all of its lanes: of `values` by the largest of `merit`.
    #[inline(always)]
    fn settle<const N: usize>(&self, values: &mut [Lanes; N], merit: &mut Lanes) {
        if self.n_copy() == 2 {
            let take: [bool; LANES] = array(|l| merit[(l + 8) % 16] > merit[l] || (l >= 8 && merit[l - 8] == merit[l]));
            for value in values {
                *value = each(|l| if take[l] { value[(l + 8) % 16] } else { value[l] });
            }
            *merit = each(|l| if take[l] { merit[(l + 8) % 16] } else { merit[l] });
        }
    }
}

/// Scales of a symmetric super-block: sub-block `k` has the scale `d * scales[k]`.
pub(super) struct Symmetric {
    pub d: Half,
    pub scales: [i8; 16],
}

/// The scales of `256 / sub` sub-blocks as integers `low..=high`, where `-low >= high`.
#[inline(always)]
pub(super) fn symmetric_scales(
    x: &[f32; 256],
    weights: &[f32; 256],
    sub: usize,
    range: [i32; 2],
    levels: impl Levels,
) -> Symmetric {
    let turned = Turned::new(x, weights, sub);
    let wanted = wanted_scales(&turned, levels);
    let mut extreme = 0.0f32;
    for wanted in wanted {
        extreme = if wanted.abs() > extreme.abs() { wanted } else { extreme };
    }
    let mut d = Half::new(extreme / range[0] as f32);
    let (mut best, mut best_error) = choose_symmetric(&turned, &wanted, (d, 0), range, levels);
    for round in 0..ROUNDS {
        let [xq, qq] = fit(&turned, &each(|l| inverse(d.f32() * best[l])), levels);
        let (mut xa, mut aa) = (0.0, 0.0);
        for l in 0..turned.n_sub() {
            (xa, aa) = (xa + best[l] * xq[l], aa + best[l] * best[l] * qq[l]);
        }
        let solved = Half::new(xa * inverse(aa));
        let (found, error) = choose_symmetric(&turned, &wanted, (solved, round as i32), range, levels);
        if error >= best_error {
            break;
        }
        (best, best_error, d) = (found, error, solved);
    }
    Symmetric { d, scales: array(|l| low_byte(best[l]) as i8) }
}

/// Sums of `w x q` and `w q^2` for the levels `q` nearest to `x * inverse`.
#[inline(always)]
fn fit(turned: &Turned, inverse: &Lanes, levels: impl Levels) -> [Lanes; 2] {
    turned.sums(|l, x, w| {
        let q = levels.round(x * inverse[l]);
        let wq = w * q;
        [wq * x, wq * q]
    })
}

/// The best scale of each sub-block alone.
#[inline(always)]
fn wanted_scales(turned: &Turned, levels: impl Levels) -> Lanes {
    let [low, high] = turned.range();
    let inverse_extreme = each(|l| inverse(if -low[l] > high[l] { low[l] } else { high[l] }));
    let mut scale = [[0.0; LANES]];
    let mut gain = [0.0; LANES];
    let try_inverse = |scale: &mut [Lanes; 1], gain: &mut Lanes, inverse: &Lanes| {
        let [xq, qq] = fit(turned, inverse, levels);
        let found = each(|l| if qq[l] > 0.0 { xq[l] / qq[l] } else { 0.0 });
        let better: [bool; LANES] = array(|l| found[l] * xq[l] > gain[l]);
        scale[0] = each(|l| if better[l] { found[l] } else { scale[0][l] });
        *gain = each(|l| if better[l] { found[l] * xq[l] } else { gain[l] });
    };
    let (n_sub, n_copy) = (turned.n_sub(), turned.n_copy());
    for reaches in levels.reaches().chunks(n_copy) {
        let (reach, other) = (reaches[0], reaches[reaches.len() - 1]);
        let inverse = each(|l| inverse_extreme[l] * if l < n_sub { reach } else { other });
        try_inverse(&mut scale, &mut gain, &inverse);
    }
    turned.settle(&mut scale, &mut gain);
    for _ in 0..2 {
        let inverse = each(|l| inverse(scale[0][l]));
        try_inverse(&mut scale, &mut gain, &inverse);
    }
    scale[0]
}

/// The integers next to the wanted scales, `spread` to either side, with the least error, and that error.
#[inline(always)]
fn choose_symmetric(
    turned: &Turned,
    wanted: &Lanes,
    (d, spread): (Half, i32),
    [low, high]: [i32; 2],
    levels: impl Levels,
) -> (Lanes, f32) {
    let (d, (low, high)) = (d.f32(), (low as f32, high as f32));
    let inverse_d = inverse(d);
    let mut chosen = [[0.0; LANES]];
    let mut merit = [f32::NEG_INFINITY; LANES];
    let mut step = -spread;
    while step <= spread {
        let tried = each(|l| {
            let copy = if l < turned.n_sub() { 0.0 } else { 1.0 };
            (nearest(wanted[l] * inverse_d, low, high) + step as f32 + copy).clamp(low, high)
        });
        let scale = each(|l| d * tried[l]);
        let inverse = each(|l| inverse(scale[l]));
        let [error] = turned.sums(|l, x, w| {
            let miss = scale[l] * levels.round(x * inverse[l]) - x;
            [w * miss * miss]
        });
        let better: [bool; LANES] = array(|l| -error[l] > merit[l]);
        chosen[0] = each(|l| if better[l] { tried[l] } else { chosen[0][l] });
        merit = each(|l| if better[l] { -error[l] } else { merit[l] });
        step += turned.n_copy() as i32;
    }
    turned.settle(&mut chosen, &mut merit);
    (chosen[0], -merit[..turned.n_sub()].iter().sum::<f32>())
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
    #[inline(always)]
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
#[inline(always)]
pub(super) fn affine_scales(x: &[f32; 256], weights: &[f32; 256], format: AffineFormat) -> Affine {
    let turned = Turned::new(x, weights, format.sub);
    let (high, top) = (format.high as f32, format.top as f32);
    let wanted = wanted_affine(&turned, high);
    let largest = |i: usize| wanted[i].iter().copied().fold(0.0, f32::max) / top;
    let mut ds = [Half::new(largest(0)), Half::new(largest(1))];
    let (mut best, mut best_error) = choose_affine(&turned, [high, top], &wanted, ds);
    for _ in 0..ROUNDS {
        let solved = refit(&turned, high, &best, ds);
        let (found, error) = choose_affine(&turned, [high, top], &wanted, solved);
        if error >= best_error {
            break;
        }
        (best, best_error, ds) = (found, error, solved);
    }
    let [scales, mins] = array(|i| array(|l| low_byte(best[i][l])));
    Affine { d: ds[0], dmin: ds[1], scales, mins }
}

/// The best scale and minimum, neither negative, of each sub-block alone: `x ~ d * q - m`, codes `0..=high`.
#[inline(always)]
fn wanted_affine(turned: &Turned, high: f32) -> [Lanes; 2] {
    let [low, most] = turned.range();
    let span = each(|l| most[l] - low[l]);
    let inverse_span = each(|l| inverse(span[l]));
    let [sw, sx, sxx] = turned.sums(|_, x, w| [w, w * x, w * x * x]);
    let mut best = [each(|l| span[l] / high), each(|l| -low[l])];
    let [error] = affine_errors(turned, high, &best);
    let mut merit = each(|l| -error[l]);
    let try_fit = |best: &mut [Lanes; 2], merit: &mut Lanes, inverse: &Lanes, min: &Lanes| {
        let [sq, sqq, sxq] = turned.sums(|l, x, w| {
            let q = nearest(inverse[l] * (x + min[l]), 0.0, high);
            let wq = w * q;
            [wq, wq * q, wq * x]
        });
        let determinant = each(|l| sw[l] * sqq[l] - sq[l] * sq[l]);
        let d = each(|l| (sw[l] * sxq[l] - sx[l] * sq[l]) / determinant[l]);
        let m = each(|l| -(sqq[l] * sx[l] - sq[l] * sxq[l]) / determinant[l]);
        let both: [bool; LANES] = array(|l| determinant[l] > 0.0 && m[l] >= 0.0 && d[l] >= 0.0);
        let alone = each(|l| if sqq[l] > 0.0 && sxq[l] > 0.0 { sxq[l] / sqq[l] } else { 0.0 });
        let d = each(|l| if both[l] { d[l] } else { alone[l] });
        let m = each(|l| if both[l] { m[l] } else { 0.0 });
        // The misses of a regression are orthogonal to what it fits.
        let found = each(|l| -(sxx[l] - d[l] * sxq[l] + m[l] * sx[l]));
        let better: [bool; LANES] = array(|l| found[l] > merit[l]);
        best[0] = each(|l| if better[l] { d[l] } else { best[0][l] });
        best[1] = each(|l| if better[l] { m[l] } else { best[1][l] });
        *merit = each(|l| if better[l] { found[l] } else { merit[l] });
    };
    let min = each(|l| -low[l]);
    let mut step = 0;
    while step <= 20 {
        let inverse = each(|l| {
            let step = if l < turned.n_sub() { step } else { step + 1 };
            (high - 1.0 + 0.1 * step as f32) * inverse_span[l]
        });
        try_fit(&mut best, &mut merit, &inverse, &min);
        step += turned.n_copy();
    }
    turned.settle(&mut best, &mut merit);
    for _ in 0..2 {
        let inverse = each(|l| inverse(best[0][l]));
        let min = best[1];
        try_fit(&mut best, &mut merit, &inverse, &min);
    }
    best
}

/// The errors of scales and minima with the codes nearest to each weight.
#[inline(always)]
fn affine_errors(turned: &Turned, high: f32, [d, m]: &[Lanes; 2]) -> [Lanes; 1] {
    let inverse = each(|l| inverse(d[l]));
    turned.sums(|l, x, w| {
        let miss = d[l] * nearest(inverse[l] * (x + m[l]), 0.0, high) - m[l] - x;
        [w * miss * miss]
    })
}

/// The integers next to the wanted scales and minima with the least error, and that error.
#[inline(always)]
fn choose_affine(turned: &Turned, [high, top]: [f32; 2], wanted: &[Lanes; 2], ds: [Half; 2]) -> ([Lanes; 2], f32) {
    let ds = ds.map(Half::f32);
    let inverses = ds.map(inverse);
    let near: [Lanes; 2] = array(|i| each(|l| nearest(wanted[i][l] * inverses[i], 0.0, top)));
    let mut chosen = [[0.0; LANES]; 2];
    let mut merit = [f32::NEG_INFINITY; LANES];
    let mut pair = 0;
    while pair < 9 {
        let tried: [Lanes; 2] = array(|i| {
            each(|l| {
                let pair = if l < turned.n_sub() { pair } else { (pair + 1) % 9 };
                let step = if i == 0 { pair / 3 } else { pair % 3 };
                (near[i][l] + step as f32 - 1.0).clamp(0.0, top)
            })
        });
        let [error] = affine_errors(turned, high, &[each(|l| ds[0] * tried[0][l]), each(|l| ds[1] * tried[1][l])]);
        let better: [bool; LANES] = array(|l| -error[l] > merit[l]);
        for i in 0..2 {
            chosen[i] = each(|l| if better[l] { tried[i][l] } else { chosen[i][l] });
        }
        merit = each(|l| if better[l] { -error[l] } else { merit[l] });
        pair += turned.n_copy();
    }
    turned.settle(&mut chosen, &mut merit);
    (chosen, -merit[..turned.n_sub()].iter().sum::<f32>())
}

/// The two f16 that are best for the integers and codes of `fixed`.
#[inline(always)]
fn refit(turned: &Turned, high: f32, fixed: &[Lanes; 2], ds: [Half; 2]) -> [Half; 2] {
    // x ~ d * a - dmin * b with a = scale * code, b = min.
    let m = each(|l| ds[1].f32() * fixed[1][l]);
    let inverse_scale = each(|l| inverse(ds[0].f32() * fixed[0][l]));
    let [qq, xq, q, w, x] = turned.sums(|l, x, w| {
        let q = nearest(inverse_scale[l] * (x + m[l]), 0.0, high);
        [w * q * q, w * x * q, w * q, w, w * x]
    });
    let [mut aa, mut ab, mut bb, mut xa, mut xb] = [0.0f32; 5];
    for l in 0..turned.n_sub() {
        let (scale, b) = (fixed[0][l], fixed[1][l]);
        (aa, xa, ab) = (aa + scale * scale * qq[l], xa + scale * xq[l], ab + b * scale * q[l]);
        (bb, xb) = (bb + b * b * w[l], xb + b * x[l]);
    }
    let determinant = aa * bb - ab * ab;
    let (d, dmin) = ((xa * bb - xb * ab) / determinant, (xa * ab - xb * aa) / determinant);
    if determinant > 0.0 && d >= 0.0 && dmin >= 0.0 {
        return [Half::new(d), Half::new(dmin)];
    }
    [Half::new((xa * inverse(aa)).max(0.0)), ds[1]]
}
