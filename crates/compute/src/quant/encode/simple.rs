//! Encoders of blocks with one scale.
//!
//! Without importance they equal ggml's reference bit for bit: the scale maps the extreme weight to the extreme code.
//! With importance, the scale is searched for.
//!
//! Source: `quantize_row_q4_0_ref` ... `quantize_row_q8_0_ref`, `quantize_row_tq1_0_ref`, `..._tq2_0_ref`,
//! ggml `src/ggml-quants.c` @ d99724f2.

use super::super::float::Half;
use super::Encode;
use super::search::{
    Integers, Levels, array, error_weights, extreme, inverse, largest, low_byte, mean_square, nearest,
    plain_or_weights, range, sums, symmetric,
};
use crate::quant::{
    BlockQ1_0, BlockQ2_0, BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0, BlockTQ1_0, BlockTQ2_0,
};

/// Errors weigh by importance and by the magnitude against twice the block's mean square.
#[inline(always)]
fn weights_of(x: &[f32; 32], importance: &[f32; 32]) -> [f32; 32] {
    error_weights(x, 2.0 * mean_square(x), Some(importance))
}

/// What extreme weights of Q4_0, Q5_0 and Q2_0 are mapped to.
const REACHES_4: [f32; 8] = [-9.0, -8.6, -8.3, -8.0, -7.7, -7.3, 7.2, 6.8];
const REACHES_5: [f32; 8] = [-16.8, -16.4, -16.1, -15.8, -15.5, -15.1, 15.2, 14.7];
const REACHES_2: [f32; 4] = [2.5, -1.75, 3.2, -2.4];
/// Codes that the range of a block with a minimum is spread over, less the largest.
const SPREADS: [f32; 9] = [-0.9, -0.6, -0.35, -0.15, 0.0, 0.15, 0.35, 0.6, 0.9];

/// Scale and codes `0..2 * zero` of a symmetric block.
#[inline(always)]
fn centred(x: &[f32; 32], importance: Option<&[f32; 32]>, zero: i32) -> (Half, [u8; 32]) {
    let Some(importance) = importance else {
        let d = extreme(x) / -zero as f32;
        let inverse = inverse(d);
        let code = |x: f32| low_byte((x * inverse + (zero as f32 + 0.5)).floor().clamp(0.0, (2 * zero - 1) as f32));
        return (Half::new(d), array(|i| code(x[i])));
    };
    let reaches = if zero == 8 { &REACHES_4 } else { &REACHES_5 };
    let levels = Integers { low: -zero, high: zero - 1, reaches };
    let d = Half::new(symmetric(x, &weights_of(x, importance), levels, 2));
    let inverse = inverse(d.f32());
    (d, array(|i| low_byte(levels.round(x[i] * inverse) + zero as f32)))
}

/// Scale, minimum and codes `0..=high` of a block whose minimum has any sign.
#[inline(always)]
fn ranged(x: &[f32; 32], importance: Option<&[f32; 32]>, high: i32) -> (Half, Half, [u8; 32]) {
    let [least, most] = range(x);
    let d = (most - least) / high as f32;
    let reference = |d: f32, m: f32| {
        let inverse = inverse(d);
        array(|i| low_byte(((x[i] - m) * inverse + 0.5).clamp(0.0, high as f32).floor()))
    };
    let plain = (Half::new(d), Half::new(least), reference(d, least));
    let Some(importance) = importance else { return plain };
    let weights = weights_of(x, importance);
    let [d, m] = line(x, &weights, [d, least], high as f32).map(Half::new);
    let found = (d, m, reference(d.f32(), m.f32()));
    let error = |(d, m, codes): &(Half, Half, [u8; 32])| {
        let (d, m) = (d.f32(), m.f32());
        let misses: [f32; 32] = array(|i| d * f32::from(codes[i]) + m - x[i]);
        let [error] = sums(&misses, &weights, |miss, w| [w * miss * miss]);
        error
    };
    if error(&found) < error(&plain) { found } else { plain }
}

/// Scale and minimum of any sign, with a small error of `x ~ d * code + m`: lines through codes and weights, the codes
/// rounded under several scales first. That of K-quants has minima of one sign.
#[inline(always)]
fn line(x: &[f32; 32], weights: &[f32; 32], start: [f32; 2], high: f32) -> [f32; 2] {
    let [sw, sx, sxx] = sums(x, weights, |x, w| [w, w * x, w * x * x]);
    let (mut best, mut best_error) = (start, f32::INFINITY);
    let mut try_line = |[d, m]: [f32; 2], best: &mut [f32; 2]| {
        let inverse = inverse(d);
        let [sq, sqq, sxq] = sums(x, weights, |x, w| {
            let q = nearest((x - m) * inverse, 0.0, high);
            let wq = w * q;
            [wq, wq * q, wq * x]
        });
        let determinant = sw * sqq - sq * sq;
        let d = (sw * sxq - sx * sq) / determinant;
        let m = (sqq * sx - sq * sxq) / determinant;
        // The misses of a regression are orthogonal to what it fits.
        let error = sxx - d * sxq - m * sx;
        if determinant > 0.0 && error < best_error {
            (*best, best_error) = ([d, m], error);
        }
    };
    for spread in SPREADS {
        try_line([start[0] * high / (high + spread), start[1]], &mut best);
    }
    for _ in 0..2 {
        try_line(best, &mut best);
    }
    best
}

/// Low nibbles of the first sixteen codes, high nibbles of the others.
#[inline(always)]
pub(in crate::quant) fn nibbles(codes: &[u8; 32]) -> [u8; 16] {
    array(|i| codes[i] & 15 | codes[16 + i] << 4)
}

/// Bit 4 of every code.
#[inline(always)]
pub(in crate::quant) fn fifth_bits(codes: &[u8; 32]) -> [u8; 4] {
    // The product moves bit 0 of byte i to bit 56 + i, and nothing else there.
    let bits = |eight: &[u8; 8]| {
        ((u64::from_le_bytes(*eight) >> 4 & 0x0101_0101_0101_0101).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8
    };
    let eights = codes.as_chunks::<8>().0;
    [bits(&eights[0]), bits(&eights[1]), bits(&eights[2]), bits(&eights[3])]
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
        let d = largest(weights) / 127.0;
        let inverse = inverse(d);
        BlockQ8_0 { d: Half::new(d), qs: array(|i| low_byte((weights[i] * inverse).round()) as i8) }
    }
}

/// -1, 0 or 1 as 0, 1 or 2, and the scale.
#[inline(always)]
fn ternary(x: &[f32; 256]) -> (Half, [u8; 256]) {
    let d = largest(x);
    let inverse = inverse(d);
    (Half::new(d), array(|i| low_byte((x[i] * inverse).round() + 1.0)))
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
        BlockTQ2_0 { qs: array(|i| code(i, 0) | code(i, 1) | code(i, 2) | code(i, 3)), d }
    }
}

impl Encode<128> for BlockQ1_0 {
    /// The scale is the mean magnitude, which is best for the signs.
    #[inline(always)]
    fn encode(weights: &[f32; 128], importance: Option<&[f32; 128]>) -> Self {
        let largest = importance.map_or(0.0, |w| largest(w));
        let importance = importance.filter(|_| largest > 0.0);
        let (mut sum, mut total) = (0.0, 0.0);
        for (i, x) in weights.iter().enumerate() {
            let w = importance.map_or(1.0, |w| w[i] / largest);
            (sum, total) = (sum + w * x.abs(), total + w);
        }
        let bit = |i: usize, k: usize| u8::from(weights[8 * i + k] >= 0.0) << k;
        BlockQ1_0 { d: Half::new(sum / total), qs: array(|i| (0..8).fold(0, |byte, k| byte | bit(i, k))) }
    }
}

impl Encode<64> for BlockQ2_0 {
    /// Always searches: ggml's scale is the largest magnitude, which leaves the fourth code unused.
    #[inline(always)]
    fn encode(weights: &[f32; 64], importance: Option<&[f32; 64]>) -> Self {
        let errors = plain_or_weights(weights, importance.map(|w| w.as_slice()));
        let levels = Integers { low: -1, high: 2, reaches: &REACHES_2 };
        let d = Half::new(symmetric(weights, &errors, levels, 1));
        let inverse = inverse(d.f32());
        let codes: [u8; 64] = array(|i| low_byte(levels.round(weights[i] * inverse) + 1.0));
        let fours = codes.as_chunks::<4>().0;
        // Of four codes, each in its byte, to four in one.
        let pack = |four: u32| (four | four >> 6 | four >> 12 | four >> 18) as u8;
        BlockQ2_0 { d, qs: array(|i| pack(u32::from_le_bytes(fours[i]))) }
    }
}
