//! Least-squares searches: codes and scales for which a sum of `w * (x - decoded)^2` is small.
//!
//! Each tries a list of scales around the one that maps the largest weight to the largest code, rounds, solves for the
//! scale (and minimum) that is best for those codes, and keeps the best of all. Sums run in [`LANES`] partial sums, in
//! which the compiler finds vectors; weights come in multiples of that.
//!
//! Source of the idea: `make_qx_quants`, `make_qkx2_quants`, ggml `src/ggml-quants.c` @ d99724f2.

/// Partial sums of a sum.
const LANES: usize = 16;
/// Bits of an f32 without its sign.
const MAGNITUDE: u32 = 0x7fff_ffff;

/// The integer in `low..=high` nearest to `x`, ties to even. Both are below 2^22 in magnitude.
#[inline(always)]
pub(super) fn nearest(x: f32, low: f32, high: f32) -> f32 {
    // Adding 1.5 * 2^23 drops the fraction; unlike `round`, this vectorizes on every CPU.
    const DROP: f32 = 12_582_912.0;
    (x.clamp(low, high) + DROP) - DROP
}

/// `1 / x`, or 0 where that is not finite.
#[inline(always)]
pub(super) fn inverse(x: f32) -> f32 {
    let inverse = 1.0 / x;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// An array of what `of` gives for every place. `std::array::from_fn` and `map` are not always inlined, and what is not is
/// compiled without the instruction set of its caller.
#[inline(always)]
pub(super) fn array<T: Copy + Default, const N: usize>(of: impl Fn(usize) -> T) -> [T; N] {
    let mut out = [T::default(); N];
    for (i, out) in out.iter_mut().enumerate() {
        *out = of(i);
    }
    out
}

/// The mean square.
#[inline(always)]
pub(super) fn mean_square(x: &[f32]) -> f32 {
    let [sum] = sums(x, x, |x, _| [x * x]);
    sum / x.len() as f32
}

/// The largest magnitude.
#[inline(always)]
pub(super) fn largest(x: &[f32]) -> f32 {
    // As integers, whose largest may be found in any order: unlike that of floats it vectorizes.
    f32::from_bits(x.iter().fold(0, |largest: u32, x| largest.max(x.to_bits() & MAGNITUDE)))
}

/// The first weight of the largest magnitude.
#[inline(always)]
pub(super) fn extreme(x: &[f32]) -> f32 {
    let largest = largest(x);
    if largest == 0.0 {
        return 0.0;
    }
    let (mut some, mut others) = (false, false);
    for x in x {
        some |= *x == largest;
        others |= *x == -largest;
    }
    match (some, others) {
        (true, true) => first(x, largest),
        (true, false) => largest,
        _ => -largest,
    }
}

/// The first weight of a magnitude. Apart, since the compiler would load every weight alone for it, in its callers too.
#[cold]
#[inline(never)]
fn first(x: &[f32], magnitude: f32) -> f32 {
    x.iter().copied().find(|x| x.abs() == magnitude).unwrap_or(magnitude)
}

/// The least and the largest weight.
#[inline(always)]
pub(super) fn range(x: &[f32]) -> [f32; 2] {
    let (mut low, mut high) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    for x in x.as_chunks::<LANES>().0 {
        for i in 0..LANES {
            low[i] = if x[i] < low[i] { x[i] } else { low[i] };
            high[i] = if x[i] > high[i] { x[i] } else { high[i] };
        }
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            low[i] = if low[i + half] < low[i] { low[i + half] } else { low[i] };
            high[i] = if high[i + half] > high[i] { high[i + half] } else { high[i] };
        }
    }
    [low[0], high[0]]
}

/// The integer that a float of at most 2^22 in magnitude is, as its low eight bits.
#[inline(always)]
pub(super) fn low_byte(integer: f32) -> u8 {
    // Unlike a cast, which saturates, this vectorizes.
    (integer + 12_582_912.0).to_bits() as u8
}

/// Weight of each error: importance, of about 1 at most, times a rise with magnitude, since large weights matter more.
/// Importance that is zero everywhere, or nearly so, is none.
///
/// Source: `quantize_row_q4_K_impl` and kin, ggml `src/ggml-quants.c` @ d99724f2.
#[inline(always)]
pub(super) fn error_weights<const N: usize>(x: &[f32; N], sigma2: f32, importance: Option<&[f32]>) -> [f32; N] {
    let unit = importance.map_or(0.0, |w| inverse(largest(w)));
    match importance {
        Some(w) if unit > 0.0 => array(|i| w[i] * unit * (sigma2 + x[i] * x[i]).sqrt()),
        _ => array(|i| (sigma2 + x[i] * x[i]).sqrt()),
    }
}

/// Weights of errors of types whose scale ggml does not search for: without importance all errors count alike.
#[inline(always)]
pub(super) fn plain_or_weights<const N: usize>(x: &[f32; N], importance: Option<&[f32]>) -> [f32; N] {
    match importance {
        Some(_) => error_weights(x, 2.0 * mean_square(x), importance),
        None => [1.0; N],
    }
}

/// Sums of the `N` terms that `term` makes of each weight and its error's weight.
#[inline(always)]
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
    array(|n| total(lanes[n]))
}

/// The sum of all lanes, by halves: a chain of sixteen additions would take long.
#[inline(always)]
fn total(mut lanes: [f32; LANES]) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

/// Values that codes stand for, before the scale.
pub(super) trait Levels: Copy {
    /// The value nearest to `x`.
    fn round(&self, x: f32) -> f32;
    /// Values that the extreme weight is mapped to in turn, in pairs: the ends of the range and their surroundings.
    fn reaches(&self) -> &'static [f32];
}

/// The integers `low..=high`.
#[derive(Clone, Copy)]
pub(super) struct Integers {
    pub low: i32,
    pub high: i32,
    /// See [`Levels::reaches`]. Mostly about `low`, the end that is farther from 0.
    pub reaches: &'static [f32],
}

impl Levels for Integers {
    #[inline(always)]
    fn round(&self, x: f32) -> f32 {
        nearest(x, self.low as f32, self.high as f32)
    }

    #[inline(always)]
    fn reaches(&self) -> &'static [f32] {
        self.reaches
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

impl Fit {
    /// Of the sums of `w x q` and `w q^2` for codes `q`.
    #[inline(always)]
    fn new(xq: f32, qq: f32) -> Fit {
        let scale = if qq > 0.0 { xq / qq } else { 0.0 };
        Fit { scale, gain: scale * xq }
    }

    #[inline(always)]
    fn of(x: &[f32], weights: &[f32], inverse: f32, levels: impl Levels) -> Fit {
        let [xq, qq] = sums(x, weights, |x, w| {
            let q = levels.round(x * inverse);
            [w * x * q, w * q * q]
        });
        Fit::new(xq, qq)
    }

    /// Two at once: sums are long chains.
    #[inline(always)]
    fn both(x: &[f32], weights: &[f32], inverses: [f32; 2], levels: impl Levels) -> [Fit; 2] {
        let [xq, qq, other_xq, other_qq] = sums(x, weights, |x, w| {
            let (q, other) = (levels.round(x * inverses[0]), levels.round(x * inverses[1]));
            let wx = w * x;
            [wx * q, w * q * q, wx * other, w * other * other]
        });
        [Fit::new(xq, qq), Fit::new(other_xq, other_qq)]
    }
}

/// A scale `d`, of either sign, for which `x ~ d * level` has a small error. The best of the reaches is refined `n_round`
/// times.
#[inline(always)]
pub(super) fn symmetric(x: &[f32], weights: &[f32], levels: impl Levels, n_round: usize) -> f32 {
    let extreme = extreme(x);
    let mut best = Fit::default();
    if extreme == 0.0 {
        return 0.0;
    }
    let unit = 1.0 / extreme;
    for reaches in levels.reaches().as_chunks::<2>().0 {
        for found in Fit::both(x, weights, [reaches[0] * unit, reaches[1] * unit], levels) {
            best = if found.gain > best.gain { found } else { best };
        }
    }
    for _ in 0..n_round {
        let found = Fit::of(x, weights, inverse(best.scale), levels);
        if found.gain <= best.gain {
            break; // the same scale would give the same again
        }
        best = found;
    }
    best.scale
}
