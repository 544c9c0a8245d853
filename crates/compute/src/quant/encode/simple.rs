//! Encoders of blocks with one scale.
//!
//! Without importance they equal ggml's reference bit for bit: the scale maps the extreme weight to the extreme code.
//! With importance, the scale is searched for.
//!
//! Source: `quantize_row_q4_0_ref` ... `quantize_row_q8_0_ref`, `quantize_row_tq1_0_ref`, `..._tq2_0_ref`,
//! ggml `src/ggml-quants.c` @ d99724f2.

use super::super::float::Half;
use super::Encode;
use super::search::{Integers, Levels, error_weights, extreme, inverse, low_byte, symmetric};
use crate::quant::{
    BlockQ1_0, BlockQ2_0, BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0, BlockTQ1_0, BlockTQ2_0,
};

/// Errors weigh by importance and by the magnitude against twice the block's mean square.
#[inline(always)]
fn weights_of(x: &[f32; 32], importance: &[f32; 32]) -> [f32; 32] {
    error_weights(x, x.iter().map(|x| x * x).sum::<f32>() / 16.0, Some(importance))
}

/// Scale and codes `0..2 * zero` of a symmetric block.
#[inline(always)]
fn centred(x: &[f32; 32], importance: Option<&[f32; 32]>, zero: i32) -> (Half, [u8; 32]) {
    let Some(importance) = importance else {
        let d = extreme(x) / -zero as f32;
        let inverse = inverse(d);
        let code = |x: f32| low_byte((x * inverse + (zero as f32 + 0.5)).floor().clamp(0.0, (2 * zero - 1) as f32));
        return (Half::new(d), x.map(code));
    };
    let levels = Integers { low: -zero, high: zero - 1 };
    let d = Half::new(symmetric(x, &weights_of(x, importance), levels));
    let inverse = inverse(d.f32());
    (d, x.map(|x| low_byte(levels.round(x * inverse) + zero as f32)))
}

/// Scale, minimum and codes `0..=high` of a block whose minimum has any sign.
#[inline(always)]
fn ranged(x: &[f32; 32], importance: Option<&[f32; 32]>, high: i32) -> (Half, Half, [u8; 32]) {
    let (mut least, mut most) = (f32::INFINITY, f32::NEG_INFINITY);
    for x in x {
        least = if *x < least { *x } else { least };
        most = if *x > most { *x } else { most };
    }
    let d = (most - least) / high as f32;
    let reference = |d: f32, m: f32| {
        let inverse = inverse(d);
        x.map(|x| low_byte(((x - m) * inverse + 0.5).clamp(0.0, high as f32).floor()))
    };
    let plain = (Half::new(d), Half::new(least), reference(d, least));
    let Some(importance) = importance else { return plain };
    let weights = weights_of(x, importance);
    let error = |(d, m, codes): &(Half, Half, [u8; 32])| {
        let (d, m) = (d.f32(), m.f32());
        let misses = x.iter().zip(codes).zip(&weights);
        misses.map(|((x, q), w)| w * (d * f32::from(*q) + m - x).powi(2)).sum::<f32>()
    };
    // The minimum may be positive here, so the search of K-quants does not apply: fit a line through code and weight.
    let mut best = plain;
    let mut best_error = error(&best);
    for step in 0..=40 {
        let mut codes = reference(d * high as f32 / (high as f32 - 1.0 + 0.05 * step as f32), least);
        for _ in 0..2 {
            let Some([d, m]) = line(x, &weights, &codes) else { break };
            let (d, m) = (Half::new(d), Half::new(m));
            let found = (d, m, reference(d.f32(), m.f32()));
            let found_error = error(&found);
            if found_error < best_error {
                (best, best_error) = (found, found_error);
            }
            codes = found.2;
        }
    }
    best
}

/// Slope and offset of the weighted regression of `x` on the codes.
#[inline(always)]
fn line(x: &[f32; 32], weights: &[f32; 32], codes: &[u8; 32]) -> Option<[f32; 2]> {
    let [mut sw, mut sx, mut sq, mut sqq, mut sxq] = [0.0f32; 5];
    for ((x, w), q) in x.iter().zip(weights).zip(codes) {
        let q = f32::from(*q);
        (sw, sx, sq, sqq, sxq) = (sw + w, sx + w * x, sq + w * q, sqq + w * q * q, sxq + w * x * q);
    }
    let determinant = sw * sqq - sq * sq;
    (determinant > 0.0).then(|| [(sw * sxq - sx * sq) / determinant, (sqq * sx - sq * sxq) / determinant])
}

/// Low nibbles of the first sixteen codes, high nibbles of the others.
#[inline(always)]
pub(in crate::quant) fn nibbles(codes: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|i| codes[i] & 15 | codes[16 + i] << 4)
}

/// Bit 4 of every code.
#[inline(always)]
pub(in crate::quant) fn fifth_bits(codes: &[u8; 32]) -> [u8; 4] {
    codes.iter().enumerate().fold(0u32, |bits, (i, code)| bits | u32::from(code >> 4 & 1) << i).to_le_bytes()
}

impl Encode<32> for BlockQ4_0 {
    #[inline(always)]
    fn encode(weights: &[f32; 32], importance: Option<&[f32; 32]>) -> Self {
        let (d, codes) = centred(weights, importance, 8);
        BlockQ4_0 { d, qs: nibbles(&codes) }
    }
}

impl Encode<32> for BlockQ4_1 {
    #[inline(always)]
    fn encode(weights: &[f32; 32], importance: Option<&[f32; 32]>) -> Self {
        let (d, m, codes) = ranged(weights, importance, 15);
        BlockQ4_1 { d, m, qs: nibbles(&codes) }
    }
}

impl Encode<32> for BlockQ5_0 {
    #[inline(always)]
    fn encode(weights: &[f32; 32], importance: Option<&[f32; 32]>) -> Self {
        let (d, codes) = centred(weights, importance, 16);
        BlockQ5_0 { d, qh: fifth_bits(&codes), qs: nibbles(&codes) }
    }
}

impl Encode<32> for BlockQ5_1 {
    #[inline(always)]
    fn encode(weights: &[f32; 32], importance: Option<&[f32; 32]>) -> Self {
        let (d, m, codes) = ranged(weights, importance, 31);
        BlockQ5_1 { d, m, qh: fifth_bits(&codes), qs: nibbles(&codes) }
    }
}

impl Encode<32> for BlockQ8_0 {
    /// Ignores importance: at eight bits the search gains nothing.
    #[inline(always)]
    fn encode(weights: &[f32; 32], _: Option<&[f32; 32]>) -> Self {
        let d = extreme(weights).abs() / 127.0;
        let inverse = inverse(d);
        BlockQ8_0 { d: Half::new(d), qs: weights.map(|x| low_byte((x * inverse).round()) as i8) }
    }
}

/// -1, 0 or 1 as 0, 1 or 2, and the scale.
#[inline(always)]
fn ternary(x: &[f32; 256]) -> (Half, [u8; 256]) {
    let d = extreme(x).abs();
    let inverse = inverse(d);
    (Half::new(d), x.map(|x| low_byte((x * inverse).round() + 1.0)))
}

/// Five digits or fewer in base 3, `digits[n * out.len() + i]`, as the fraction that `BlockTQ1_0` decodes.
#[inline(always)]
fn fractions(digits: &[u8], out: &mut [u8]) {
    let n = out.len();
    for (i, byte) in out.iter_mut().enumerate() {
        let number = (0..5).fold(0, |number, k| number * 3 + u16::from(digits.get(k * n + i).copied().unwrap_or(0)));
        *byte = (number * 256).div_ceil(243) as u8;
    }
}

impl Encode<256> for BlockTQ1_0 {
    #[inline(always)]
    fn encode(weights: &[f32; 256], _: Option<&[f32; 256]>) -> Self {
        let (d, codes) = ternary(weights);
        let mut block = BlockTQ1_0 { qs: [0; 48], qh: [0; 4], d };
        fractions(&codes[..160], &mut block.qs[..32]);
        fractions(&codes[160..240], &mut block.qs[32..]);
        fractions(&codes[240..], &mut block.qh);
        block
    }
}

impl Encode<256> for BlockTQ2_0 {
    #[inline(always)]
    fn encode(weights: &[f32; 256], _: Option<&[f32; 256]>) -> Self {
        let (d, codes) = ternary(weights);
        let code = |i: usize, j: usize| codes[128 * (i / 32) + 32 * j + i % 32] << (2 * j);
        BlockTQ2_0 { qs: std::array::from_fn(|i| code(i, 0) | code(i, 1) | code(i, 2) | code(i, 3)), d }
    }
}

impl Encode<128> for BlockQ1_0 {
    /// The scale is the mean magnitude, which is best for the signs.
    #[inline(always)]
    fn encode(weights: &[f32; 128], importance: Option<&[f32; 128]>) -> Self {
        let largest = importance.map_or(0.0, |w| w.iter().copied().fold(0.0, f32::max));
        let importance = importance.filter(|_| largest > 0.0);
        let (mut sum, mut total) = (0.0, 0.0);
        for (i, x) in weights.iter().enumerate() {
            let w = importance.map_or(1.0, |w| w[i] / largest);
            (sum, total) = (sum + w * x.abs(), total + w);
        }
        let bit = |i: usize, k: usize| u8::from(weights[8 * i + k] >= 0.0) << k;
        BlockQ1_0 { d: Half::new(sum / total), qs: std::array::from_fn(|i| (0..8).fold(0, |byte, k| byte | bit(i, k))) }
    }
}

impl Encode<64> for BlockQ2_0 {
    /// Always searches: ggml's scale is the largest magnitude, which leaves the fourth code unused.
    #[inline(always)]
    fn encode(weights: &[f32; 64], importance: Option<&[f32; 64]>) -> Self {
        let sigma2 = weights.iter().map(|x| x * x).sum::<f32>() / 32.0;
        let errors = error_weights(weights, sigma2, importance.map(|w| w.as_slice()));
        let levels = Integers { low: -1, high: 2 };
        let d = Half::new(symmetric(weights, &errors, levels));
        let inverse = inverse(d.f32());
        let code = |i: usize, k: usize| low_byte(levels.round(weights[4 * i + k] * inverse) + 1.0) << (2 * k);
        BlockQ2_0 { d, qs: std::array::from_fn(|i| code(i, 0) | code(i, 1) | code(i, 2) | code(i, 3)) }
    }
}
