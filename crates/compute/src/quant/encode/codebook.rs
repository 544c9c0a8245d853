//! Encoders of types whose codes index a table of values.

use super::super::float::{self, Half};
use super::super::grids::{FP4_VALUES, IQ4_VALUES};
use super::Encode;
use super::nested::{super_weights, symmetric_scales};
use super::search::{Levels, error_weights, extreme, inverse, symmetric, symmetric_error};
use crate::quant::{BlockIQ4_NL, BlockIQ4_XS, BlockMXFP4, BlockNVFP4};

/// The values of IQ4_NL and IQ4_XS.
#[derive(Clone, Copy)]
struct Iq4;

impl Iq4 {
    /// The code of the value nearest to `x`.
    #[inline(always)]
    fn code(x: f32) -> u8 {
        IQ4_VALUES.windows(2).map(|pair| u8::from(2.0 * x > f32::from(pair[0]) + f32::from(pair[1]))).sum()
    }
}

impl Levels for Iq4 {
    #[inline(always)]
    fn round(&self, x: f32) -> f32 {
        // A sum of steps, not a look-up, so that it vectorizes.
        let mut value = f32::from(IQ4_VALUES[0]);
        for pair in IQ4_VALUES.windows(2) {
            let (low, high) = (f32::from(pair[0]), f32::from(pair[1]));
            value += if 2.0 * x > low + high { high - low } else { 0.0 };
        }
        value
    }

    #[inline(always)]
    fn reaches(&self) -> impl Iterator<Item = f32> {
        (-7..=7).flat_map(|step| [f32::from(IQ4_VALUES[0]) + step as f32, f32::from(IQ4_VALUES[15]) + step as f32])
    }
}

/// Twice the values of e2m1.
#[derive(Clone, Copy)]
struct Fp4;

impl Fp4 {
    /// The code of the value nearest to `x`.
    #[inline(always)]
    fn code(x: f32) -> u8 {
        let magnitude: u8 = (0..7).map(|i| u8::from(above(x.abs(), i))).sum();
        if x < 0.0 && magnitude > 0 { magnitude | 8 } else { magnitude }
    }
}

/// The e2m1 code nearest to `x / 2`; of two as near, the smaller.
pub(super) fn fp4_code(x: f32) -> u8 {
    Fp4::code(x)
}

/// Whether `magnitude` is nearer to value `i + 1` than to value `i`.
#[inline(always)]
fn above(magnitude: f32, i: usize) -> bool {
    2.0 * magnitude > f32::from(FP4_VALUES[i]) + f32::from(FP4_VALUES[i + 1])
}

impl Levels for Fp4 {
    #[inline(always)]
    fn round(&self, x: f32) -> f32 {
        let magnitude = x.abs();
        let step = |i: usize| f32::from(FP4_VALUES[i + 1]) - f32::from(FP4_VALUES[i]);
        (0..7).map(|i| if above(magnitude, i) { step(i) } else { 0.0 }).sum::<f32>().copysign(x)
    }

    #[inline(always)]
    fn reaches(&self) -> impl Iterator<Item = f32> {
        std::iter::empty() // scales are tried one by one: there are few
    }
}

/// Codes of a block of `2N`: the first half in low nibbles.
#[inline(always)]
fn nibbles<const N: usize>(x: &[f32], d: f32, code: impl Fn(f32) -> u8) -> [u8; N] {
    let inverse = inverse(d);
    std::array::from_fn(|i| code(x[i] * inverse) | code(x[N + i] * inverse) << 4)
}

/// Twice the mean square.
#[inline(always)]
fn sigma2(x: &[f32]) -> f32 {
    2.0 * x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32
}

impl Encode<32> for BlockIQ4_NL {
    #[inline(always)]
    fn encode(weights: &[f32; 32], importance: Option<&[f32; 32]>) -> Self {
        let errors = error_weights(weights, sigma2(weights), importance.map(|w| w.as_slice()));
        let d = Half::new(symmetric(weights, &errors, Iq4));
        BlockIQ4_NL { d, qs: nibbles(weights, d.f32(), Iq4::code) }
    }
}

impl Encode<256> for BlockIQ4_XS {
    #[inline(always)]
    fn encode(weights: &[f32; 256], importance: Option<&[f32; 256]>) -> Self {
        let found = symmetric_scales(weights, &super_weights(weights, importance), 32, [-32, 31], Iq4);
        let (mut scales_l, mut scales_h) = ([0; 4], 0u16);
        for (k, scale) in found.scales[..8].iter().enumerate() {
            let scale = (scale + 32) as u8;
            scales_l[k / 2] |= (scale & 15) << (4 * (k % 2));
            scales_h |= u16::from(scale >> 4) << (2 * k);
        }
        let d = found.d.f32();
        let qs = std::array::from_fn(|k| nibbles(&weights[32 * k..], d * f32::from(found.scales[k]), Iq4::code));
        BlockIQ4_XS { d: found.d, scales_h: scales_h.to_le_bytes(), scales_l, qs }
    }
}

/// The scale byte among `bytes` with the least error.
#[inline(always)]
fn best_byte(x: &[f32], errors: &[f32], bytes: impl Iterator<Item = u8>, value: fn(u8) -> f32) -> u8 {
    let tried = bytes.map(|byte| (byte, symmetric_error(x, errors, value(byte), Fp4)));
    tried.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(byte, _)| byte)
}

impl Encode<32> for BlockMXFP4 {
    #[inline(always)]
    fn encode(weights: &[f32; 32], importance: Option<&[f32; 32]>) -> Self {
        let errors = error_weights(weights, sigma2(weights), importance.map(|w| w.as_slice()));
        // The exponent for which the largest weight is 4 to 8 (6 is the largest value), and its neighbours.
        let exponent = (extreme(weights).abs().to_bits() >> 23) as u8;
        let e = exponent.saturating_sub(2);
        let near = [e, e.saturating_add(1).min(254), e.saturating_sub(1)];
        let e = best_byte(weights, &errors, near.into_iter(), float::e8m0_half);
        BlockMXFP4 { e, qs: nibbles(weights, float::e8m0_half(e), Fp4::code) }
    }
}

impl Encode<64> for BlockNVFP4 {
    #[inline(always)]
    fn encode(weights: &[f32; 64], importance: Option<&[f32; 64]>) -> Self {
        let mut block = BlockNVFP4 { d: [0; 4], qs: [[0; 8]; 4] };
        for k in 0..4 {
            let range = 16 * k..16 * (k + 1);
            let x: &[f32; 16] = weights[range.clone()].try_into().expect("a slice of 16");
            let errors = error_weights(x, sigma2(x), importance.map(|w| &w[range]));
            // Scales are in the order of their bytes; the last below `largest / 6`, and those about it.
            let target = extreme(x).abs() / 12.0;
            let near = (1..0x7f).take_while(|byte| float::ue4m3_half(*byte) <= target).count() as u8;
            let bytes = near.saturating_sub(3)..=(near + 4).min(0x7e);
            block.d[k] = best_byte(x, &errors, bytes, float::ue4m3_half);
            block.qs[k] = nibbles(x, float::ue4m3_half(block.d[k]), Fp4::code);
        }
        block
    }
}
