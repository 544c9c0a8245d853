//! Encoders of types whose codes index a table of values.

use super::super::float::{self, Half};
use super::super::grids::IQ4_VALUES;
use super::Encode;
use super::nested::{super_weights, symmetric_scales};
use super::search::{
    Levels, array, error_weights, inverse, largest, low_byte, mean_square, plain_or_weights, sums, symmetric,
};
use crate::quant::{BlockIQ4_NL, BlockIQ4_XS, BlockMXFP4, BlockNVFP4};

/// The values of IQ4_NL and IQ4_XS.
#[derive(Clone, Copy)]
struct Iq4;

impl Iq4 {
    /// The code of the value nearest to `x`.
    #[inline(always)]
    fn code(x: f32) -> u8 {
        let mut code = 0;
        for pair in IQ4_VALUES.windows(2) {
            code += u8::from(2.0 * x > f32::from(pair[0]) + f32::from(pair[1]));
        }
        code
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
    fn reaches(&self) -> &'static [f32] {
        &[
            -134.0, -131.5, -129.0, -127.0, -125.0, -122.5, -119.5, -116.0, 121.0, 118.0, 115.5, 113.0, 110.5, 108.0,
            105.0, 102.0,
        ]
    }
}

/// Twice the values of e2m1.
#[derive(Clone, Copy)]
struct Fp4;

impl Fp4 {
    /// The value nearest to a magnitude; of two as near, the smaller. From 2 on values have one bit of mantissa, below
    /// they are 0 and 1.
    #[inline(always)]
    fn magnitude(x: f32) -> f32 {
        const FRACTION: u32 = 1 << 22;
        let x = if x < 12.0 { x } else { 12.0 };
        let large = f32::from_bits((x.to_bits() + (FRACTION / 2 - 1)) & !(FRACTION - 1));
        let small = (x - 0.5).ceil();
        let small = if small > 0.0 { small } else { 0.0 };
        if x < 2.0 { small } else { large }
    }

    /// The code of the value nearest to `x`.
    #[inline(always)]
    fn code(x: f32) -> u8 {
        let value = Fp4::magnitude(x.abs());
        // 2 is code 2, and each half of an octave is another.
        let large = (value.to_bits() >> 22).wrapping_sub((2f32.to_bits() >> 22) - 2) as u8;
        let magnitude = if value < 2.0 { low_byte(value) } else { large };
        magnitude | if x < 0.0 && magnitude > 0 { 8 } else { 0 }
    }
}

/// The e2m1 code nearest to `x / 2`; of two as near, the smaller.
pub(super) fn fp4_code(x: f32) -> u8 {
    Fp4::code(x)
}

impl Levels for Fp4 {
    #[inline(always)]
    fn round(&self, x: f32) -> f32 {
        Fp4::magnitude(x.abs()).copysign(x)
    }

    #[inline(always)]
    fn reaches(&self) -> &'static [f32] {
        &[] // scales are tried one by one: there are few
    }
}

/// Codes of a block of `2N`: the first half in low nibbles.
#[inline(always)]
fn nibbles<const N: usize>(x: &[f32], d: f32, code: impl Fn(f32) -> u8) -> [u8; N] {
    let inverse = inverse(d);
    array(|i| code(x[i] * inverse) | code(x[N + i] * inverse) << 4)
}

impl Encode<32> for BlockIQ4_NL {
    #[inline(always)]
    fn encode(weights: &[f32; 32], importance: Option<&[f32; 32]>) -> Self {
        let errors = error_weights(weights, 2.0 * mean_square(weights), importance.map(|w| w.as_slice()));
        let d = Half::new(symmetric(weights, &errors, Iq4, 2));
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
        let qs = array(|k| nibbles(&weights[32 * k..], d * f32::from(found.scales[k]), Iq4::code));
        BlockIQ4_XS { d: found.d, scales_h: scales_h.to_le_bytes(), scales_l, qs }
    }
}

/// The byte of a scale, of `N` from `first` on and none above `top`, with the least error.
#[inline(always)]
fn best_byte<const N: usize>(x: &[f32], errors: &[f32], [first, top]: [u8; 2], value: impl Fn(u8) -> f32) -> u8 {
    let bytes: [u8; N] = array(|n| first.saturating_add(n as u8).min(top));
    let ds: [f32; N] = array(|n| value(bytes[n]));
    let inverses: [f32; N] = array(|n| inverse(ds[n]));
    let found: [f32; N] = sums(x, errors, |x, w| {
        array(|n| {
            let miss = ds[n] * Fp4.round(x * inverses[n]) - x;
            w * miss * miss
        })
    });
    let mut best = 0;
    for n in 1..N {
        best = if found[n] < found[best] { n } else { best };
    }
    bytes[best]
}

impl Encode<32> for BlockMXFP4 {
    #[inline(always)]
    fn encode(weights: &[f32; 32], importance: Option<&[f32; 32]>) -> Self {
        let errors = plain_or_weights(weights, importance.map(|w| w.as_slice()));
        // The exponent for which the largest weight is 4 to 8 (6 is the largest value), and the next.
        let exponent = (largest(weights).to_bits() >> 23) as u8;
        let e = exponent.saturating_sub(2);
        let e = best_byte::<2>(weights, &errors, [e, 254], float::e8m0_half);
        BlockMXFP4 { e, qs: nibbles(weights, float::e8m0_half(e), Fp4::code) }
    }
}

/// The last byte of a scale that is not above `target`, or 0.
#[inline(always)]
fn last_below(target: f32) -> u8 {
    let mut byte = 0;
    for bit in [64, 32, 16, 8, 4, 2, 1] {
        let next = byte | bit;
        byte = if next < 0x7f && float::ue4m3_half(next) <= target { next } else { byte };
    }
    byte
}

impl Encode<64> for BlockNVFP4 {
    #[inline(always)]
    fn encode(weights: &[f32; 64], importance: Option<&[f32; 64]>) -> Self {
        let mut block = BlockNVFP4 { d: [0; 4], qs: [[0; 8]; 4] };
        for k in 0..4 {
            let range = 16 * k..16 * (k + 1);
            let x: &[f32; 16] = weights[range.clone()].try_into().expect("a slice of 16");
            let errors = plain_or_weights(x, importance.map(|w| &w[range]));
            // Scales are in the order of their bytes; the last below `largest / 6`, and those about it.
            let target = largest(x) / 12.0;
            let near = last_below(target);
            block.d[k] = best_byte::<4>(x, &errors, [near.saturating_sub(1), 0x7e], float::ue4m3_half);
            block.qs[k] = nibbles(x, float::ue4m3_half(block.d[k]), Fp4::code);
        }
        block
    }
}
