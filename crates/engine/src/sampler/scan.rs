//! Passes over a whole vocabulary, written so that the compiler vectorizes them.
//!
//! A vocabulary is read in blocks of [`BLOCK`]. The maxima of the blocks make everything else cheap: the `k`-th largest of
//! them is no larger than the `k`-th largest logit, so the largest `k` lie in the few blocks that reach it.

/// Logits of a block.
pub const BLOCK: usize = crate::runner::MAXIMA_BLOCK;
const LANES: usize = 16;

/// A pass that is also compiled for the widest vectors that the machine may have. Lanes are the same ones whatever vectors hold
/// them, so that results are, too. What the pass calls must be inlined.
macro_rules! widest {
    ($(#[$doc:meta])* $pub:vis fn $name:ident($($arg:ident: $kind:ty),*) $body:block) => {
        $(#[$doc])*
        $pub fn $name($($arg: $kind),*) {
            #[inline(always)]
            fn pass($($arg: $kind),*) $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f")]
                fn avx512($($arg: $kind),*) {
                    pass($($arg),*);
                }
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $kind),*) {
                    pass($($arg),*);
                }
                if std::arch::is_x86_feature_detected!("avx512f") {
                    // SAFETY: the processor has the feature.
                    return unsafe { avx512($($arg),*) };
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has the feature.
                    return unsafe { avx2($($arg),*) };
                }
            }
            pass($($arg),*);
        }
    };
}

widest! {
    /// Overwrites `out` with the largest logit of each block; NaN counts as minus infinity.
    pub fn block_maxima(logits: &[f32], out: &mut Vec<f32>) {
        out.clear();
        out.reserve(logits.len().div_ceil(BLOCK));
        for block in logits.chunks(BLOCK) {
            let mut lanes = [f32::NEG_INFINITY; LANES];
            let (parts, rest) = block.as_chunks::<LANES>();
            for part in parts {
                for i in 0..LANES {
                    lanes[i] = if part[i] > lanes[i] { part[i] } else { lanes[i] };
                }
            }
            let mut max = f32::NEG_INFINITY;
            for &x in lanes.iter().chain(rest) {
                max = if x > max { x } else { max };
            }
            out.push(max);
        }
    }
}

/// Overwrites `out` with `sum exp(scale * (x - max))` of each block, and returns the sum of all.
pub fn block_weights(logits: &[f32], max: f32, scale: f32, out: &mut Vec<f64>) -> f64 {
    write_weights(logits, max, scale, out);
    out.iter().sum()
}

widest! {
    fn write_weights(logits: &[f32], max: f32, scale: f32, out: &mut Vec<f64>) {
        out.clear();
        out.reserve(logits.len().div_ceil(BLOCK));
        for block in logits.chunks(BLOCK) {
            let mut lanes = [0f32; LANES];
            let (parts, rest) = block.as_chunks::<LANES>();
            for part in parts {
                for i in 0..LANES {
                    lanes[i] += weight(part[i], max, scale);
                }
            }
            let mut rest_sum = 0f32;
            for &x in rest {
                rest_sum += weight(x, max, scale);
            }
            out.push(f64::from(lanes.iter().sum::<f32>() + rest_sum));
        }
    }
}

/// `(sum w, sum w ln w)` of all, where `w` is the weight of a logit.
pub fn entropy_sums(logits: &[f32], max: f32, scale: f32) -> (f64, f64) {
    let term = |x: f32| {
        let shifted = scale * (x - max);
        let weight = exp(shifted);
        (weight, if weight > 0.0 { weight * shifted } else { 0.0 })
    };
    sum_blocks(logits, term)
}

/// `(sum of x - center, sum of (x - center)^2)` of the logits above minus infinity.
pub fn moments(logits: &[f32], center: f32) -> (f64, f64) {
    let shifted = |x: f32| if x > f32::NEG_INFINITY { x - center } else { 0.0 };
    sum_blocks(logits, |x| (shifted(x), shifted(x) * shifted(x)))
}

/// How many logits are above minus infinity.
pub fn count(logits: &[f32]) -> usize {
    logits.iter().map(|&x| u32::from(x > f32::NEG_INFINITY)).sum::<u32>() as usize
}

/// Sums of two terms of each logit, in f64: the likeliest token alone would hide the others of a peaked distribution.
#[inline]
fn sum_blocks(logits: &[f32], term: impl Fn(f32) -> (f32, f32)) -> (f64, f64) {
    let mut lanes = [[0f64; LANES]; 2];
    let mut parts = logits.chunks_exact(LANES);
    for part in &mut parts {
        for (i, &x) in part.iter().enumerate() {
            let (a, b) = term(x);
            lanes[0][i] += f64::from(a);
            lanes[1][i] += f64::from(b);
        }
    }
    let rest = parts.remainder().iter().map(|&x| term(x));
    let [a, b] = lanes.map(|lanes| lanes.iter().sum::<f64>());
    rest.fold((a, b), |sums, (a, b)| (sums.0 + f64::from(a), sums.1 + f64::from(b)))
}

/// `exp(scale * (x - max))`: the weight of a logit beside the largest one's weight of 1.
#[inline(always)]
pub fn weight(x: f32, max: f32, scale: f32) -> f32 {
    exp(scale * (x - max))
}

/// `exp(x)` for `x <= 0`, with a relative error below 3e-7; 0 below -87 and for NaN.
///
/// `x log2(e) = n + f` with `|f| <= 1/2`; `2^f` is a polynomial and `2^n` an exponent. `f32::exp` calls the C library for
/// each number, which takes 4 times as long over a vocabulary of 152k.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer and leaves it in the low bits.
    let t = x * std::f32::consts::LOG2_E;
    let shifted = t + MAGIC;
    let n = (shifted.to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32);
    let y = (t - (shifted - MAGIC)) * std::f32::consts::LN_2;
    let mut p = 1.0 / 720.0;
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * y + c;
    }
    let power = f32::from_bits((n.wrapping_add(127) << 23) as u32);
    if x > -87.0 { p * power } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_the_definition() {
        for i in 0..87_000 {
            let x = -(i as f32) / 1000.0;
            let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
            // The product x log2(e) is rounded once, which costs |x| half-units in the last place.
            assert!((got / want - 1.0).abs() < 3e-7 + 1e-7 * f64::from(-x), "exp({x}) = {got}, expected {want}");
        }
        assert_eq!([exp(0.0), exp(-1000.0), exp(f32::NEG_INFINITY), exp(f32::NAN)], [1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn blocks_of_any_length_are_covered() {
        for n in [1, 15, 16, 17, 63, 64, 65, 200] {
            let logits: Vec<f32> = (0..n).map(|i| ((i * 7919) % 101) as f32).collect();
            let (mut maxima, mut weights) = (Vec::new(), Vec::new());
            block_maxima(&logits, &mut maxima);
            let sum = block_weights(&logits, 100.0, 0.5, &mut weights);
            let want: f64 = logits.iter().map(|&x| (0.5 * (f64::from(x) - 100.0)).exp()).sum();
            assert!((sum / want - 1.0).abs() < 1e-5, "{n}: {sum} {want}");
            let (all, dot) = entropy_sums(&logits, 100.0, 0.5);
            let terms = logits.iter().map(|&x| 0.5 * (f64::from(x) - 100.0));
            let want_dot: f64 = terms.map(|x| x * x.exp()).sum();
            assert!((all / want - 1.0).abs() < 1e-5 && (dot - want_dot).abs() < 1e-5 * want_dot.abs().max(1e-3), "{n}");
            let with_gap = [logits.as_slice(), &[f32::NEG_INFINITY]].concat();
            let (sum, square) = moments(&with_gap, 100.0);
            let shifted: Vec<f64> = logits.iter().map(|&x| f64::from(x) - 100.0).collect();
            assert_eq!((sum, count(&with_gap)), (shifted.iter().sum(), n));
            assert!((square / shifted.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-6, "{n}");
            for (i, block) in logits.chunks(BLOCK).enumerate() {
                assert_eq!(maxima[i], block.iter().copied().fold(f32::MIN, f32::max));
            }
        }
    }
}
