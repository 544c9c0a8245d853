//! Encoders of K-quants.

use super::Encode;
use super::nested::{Affine, AffineFormat, affine_scales, super_weights, symmetric_scales};
use super::search::{Integers, Levels, array, inverse, low_byte, nearest};
use crate::quant::{BlockQ2_K, BlockQ3_K, BlockQ4_K, BlockQ5_K, BlockQ6_K};

/// Codes `0..=high` of an affine super-block.
#[inline(always)]
fn affine_codes(x: &[f32; 256], scales: &Affine, AffineFormat { sub, high, .. }: AffineFormat) -> [u8; 256] {
    let mut codes = [0; 256];
    for (k, (x, codes)) in x.chunks_exact(sub).zip(codes.chunks_exact_mut(sub)).enumerate() {
        let [d, m] = scales.of(k);
        let inverse = inverse(d);
        for (code, x) in codes.iter_mut().zip(x) {
            *code = low_byte(nearest(inverse * (x + m), 0.0, high as f32));
        }
    }
    codes
}

/// Scales and codes, less `low`, of a symmetric super-block of sixteens.
#[inline(always)]
fn symmetric_codes(
    x: &[f32; 256],
    importance: Option<&[f32; 256]>,
    range: [i32; 2],
    levels: Integers,
) -> (super::nested::Symmetric, [u8; 256]) {
    let scales = symmetric_scales(x, &super_weights(x, importance), 16, range, levels);
    let mut codes = [0; 256];
    for (k, (x, codes)) in x.chunks_exact(16).zip(codes.chunks_exact_mut(16)).enumerate() {
        let inverse = inverse(scales.d.f32() * f32::from(scales.scales[k]));
        for (code, x) in codes.iter_mut().zip(x) {
            *code = low_byte(levels.round(x * inverse) - levels.low as f32);
        }
    }
    (scales, codes)
}

/// Inverse of [`crate::quant::k::scales_mins`].
#[inline(always)]
fn pack_scales_mins(scales: &[u8; 16], mins: &[u8; 16]) -> [u8; 12] {
    let mut packed = [0; 12];
    for i in 0..4 {
        packed[i] = scales[i] | scales[4 + i] >> 4 << 6;
        packed[4 + i] = mins[i] | mins[4 + i] >> 4 << 6;
        packed[8 + i] = scales[4 + i] & 15 | mins[4 + i] << 4;
    }
    packed
}

/// Inverse of [`crate::quant::k::scales3`].
#[inline(always)]
fn pack_scales3(scales: &[i8; 16]) -> [u8; 12] {
    let mut packed = [0; 12];
    for (i, scale) in scales.iter().enumerate() {
        let scale = (scale + 32) as u8;
        packed[i % 8] |= (scale & 15) << (4 * (i / 8));
        packed[8 + i % 4] |= scale >> 4 << (2 * (i / 4));
    }
    packed
}

/// The low two bits of codes, as Q2_K and Q3_K lay them out.
#[inline(always)]
fn pack_low2(codes: &[u8; 256]) -> [u8; 64] {
    let code = |i: usize, j: usize| (codes[128 * (i / 32) + 32 * j + i % 32] & 3) << (2 * j);
    array(|i| code(i, 0) | code(i, 1) | code(i, 2) | code(i, 3))
}

/// The low nibbles of codes, as Q4_K and Q5_K lay them out.
#[inline(always)]
fn pack_low4(codes: &[u8; 256]) -> [u8; 128] {
    array(|i| {
        let low = 64 * (i / 32) + i % 32;
        codes[low] & 15 | codes[low + 32] << 4
    })
}

/// Bit `bit` of codes: bit k of byte l is of code `32k + l`.
#[inline(always)]
fn pack_bit(codes: &[u8; 256], bit: u32) -> [u8; 32] {
    array(|l| (0..8).fold(0, |byte, k| byte | (codes[32 * k + l] >> bit & 1) << k))
}

impl Encode<256> for BlockQ2_K {
    #[inline(always)]
    fn encode(weights: &[f32; 256], importance: Option<&[f32; 256]>) -> Self {
        let format = AffineFormat { sub: 16, high: 3, top: 15 };
        let found = affine_scales(weights, &super_weights(weights, importance), format);
        let codes = affine_codes(weights, &found, format);
        let scales = array(|k| found.scales[k] | found.mins[k] << 4);
        BlockQ2_K { scales, qs: pack_low2(&codes), d: found.d, dmin: found.dmin }
    }
}

impl Encode<256> for BlockQ3_K {
    #[inline(always)]
    fn encode(weights: &[f32; 256], importance: Option<&[f32; 256]>) -> Self {
        // ggml's search is a short one without importance, and this one is, too.
        let long: &[f32] = &[-4.8, -4.5, -4.25, -4.0, -3.75, -3.5, 3.2, 3.6];
        let reaches = if importance.is_some() { long } else { &[-4.5, -4.15, -3.8, 3.4] };
        let levels = Integers { low: -4, high: 3, reaches };
        let (found, codes) = symmetric_codes(weights, importance, [-32, 31], levels);
        let (hmask, qs) = (pack_bit(&codes, 2), pack_low2(&codes));
        BlockQ3_K { hmask, qs, scales: pack_scales3(&found.scales), d: found.d }
    }
}

impl Encode<256> for BlockQ4_K {
    #[inline(always)]
    fn encode(weights: &[f32; 256], importance: Option<&[f32; 256]>) -> Self {
        let format = AffineFormat { sub: 32, high: 15, top: 63 };
        let found = affine_scales(weights, &super_weights(weights, importance), format);
        let codes = affine_codes(weights, &found, format);
        let scales = pack_scales_mins(&found.scales, &found.mins);
        BlockQ4_K { d: found.d, dmin: found.dmin, scales, qs: pack_low4(&codes) }
    }
}

impl Encode<256> for BlockQ5_K {
    #[inline(always)]
    fn encode(weights: &[f32; 256], importance: Option<&[f32; 256]>) -> Self {
        let format = AffineFormat { sub: 32, high: 31, top: 63 };
        let found = affine_scales(weights, &super_weights(weights, importance), format);
        let codes = affine_codes(weights, &found, format);
        let scales = pack_scales_mins(&found.scales, &found.mins);
        BlockQ5_K { d: found.d, dmin: found.dmin, scales, qh: pack_bit(&codes, 4), qs: pack_low4(&codes) }
    }
}

impl Encode<256> for BlockQ6_K {
    #[inline(always)]
    fn encode(weights: &[f32; 256], importance: Option<&[f32; 256]>) -> Self {
        let reaches = &[-32.9, -32.6, -32.3, -32.0, -31.7, -31.4, -31.1, 31.3, 30.9, 30.6];
        let levels = Integers { low: -32, high: 31, reaches };
        let (found, codes) = symmetric_codes(weights, importance, [-128, 127], levels);
        let ql = array(|i| {
            let low = 128 * (i / 64) + i % 64;
            codes[low] & 15 | codes[low + 64] << 4
        });
        let high = |i: usize, j: usize| (codes[128 * (i / 32) + 32 * j + i % 32] >> 4) << (2 * j);
        let qh = array(|i| high(i, 0) | high(i, 1) | high(i, 2) | high(i, 3));
        BlockQ6_K { ql, qh, scales: found.scales, d: found.d }
    }
}
