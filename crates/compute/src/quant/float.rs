//! Small floating-point formats to f32, each exact.
//!
//! ```text
//! f16    s eeeee mmmmmmmmmm   bias 15    IEEE 754
//! bf16   s eeeeeeee mmmmmmm   bias 127   upper half of an f32
//! e4m3   s eeee mmm           bias 7     no infinity, NaN is s1111111         OCP FP8, "fn"
//! e5m2   s eeeee mm           bias 15    IEEE-like infinities and NaN         OCP FP8
//! e8m0     eeeeeeee           2^(e-127)  255 is NaN                           OCP MX
//! e2m1   s ee m               bias 1     0 .5 1 1.5 2 3 4 6                   OCP MX
//! ue4m3  - eeee mmm           bias 7     unsigned; 127 is 0 in ggml           NVFP4 scales
//! ```
//!
//! Source: OCP "8-bit Floating Point Specification" 1.0, OCP "Microscaling Formats" 1.0; `ggml_e8m0_to_fp32_half`
//! and `ggml_ue4m3_to_fp32`, ggml `src/ggml-impl.h` @ d99724f2.

use bytemuck::{Pod, Zeroable};

/// An f16 as two bytes, little endian, so that blocks may lie at any address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct Half(pub [u8; 2]);

impl Half {
    /// The bits.
    #[inline]
    pub const fn bits(self) -> u16 {
        u16::from_le_bytes(self.0)
    }

    /// The value.
    #[inline]
    pub fn f32(self) -> f32 {
        f16(self.bits())
    }

    /// The nearest f16 to `x`, ties to even.
    #[inline(always)]
    pub fn new(x: f32) -> Half {
        Half(to_f16(x).to_le_bytes())
    }
}

/// The bits of the nearest f16, ties to even. Without a look at what the machine has: a block's scale is one number.
#[inline(always)]
fn to_f16(x: f32) -> u16 {
    let (sign, magnitude) = (x.to_bits() >> 16 & 0x8000, x.to_bits() & 0x7fff_ffff);
    // Adding half of f32's steps from 0.5 on rounds to whole steps of 2^-24.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let normal = (magnitude + (0xfff + (magnitude >> 13 & 1))).wrapping_sub(112 << 23) >> 13;
    let value = if magnitude < 0x3880_0000 { subnormal } else { normal.min(0x7c00) };
    let nan = 0x7e00 | magnitude >> 13 & 0x3ff;
    (sign | if magnitude > 0x7f80_0000 { nan } else { value }) as u16
}

/// f16 bits to f32. Without branches and without subnormal arithmetic, so right under flush-to-zero too.
#[inline]
pub fn f16(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff) << 13;
    let rebias = if magnitude >= 0x7c00 << 13 { 2 * (112 << 23) } else { 112 << 23 };
    let subnormal = (f32::from(bits & 0x3ff) * f32::from_bits(0x3380_0000)).to_bits(); // m * 2^-24
    let value = if magnitude < 0x400 << 13 { subnormal } else { magnitude + rebias };
    f32::from_bits(value | u32::from(bits & 0x8000) << 16)
}

/// bf16 bits to f32.
#[inline]
pub fn bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// e4m3 ("fn": no infinities) to f32.
#[inline]
pub fn e4m3(bits: u8) -> f32 {
    let magnitude = u32::from(bits & 0x7f);
    let subnormal = ((magnitude & 7) as f32 * f32::from_bits(0x3b00_0000)).to_bits(); // m * 2^-9
    let value = match magnitude {
        0x7f => 0x7fc0_0000,
        0..8 => subnormal,
        _ => (magnitude << 20) + (120 << 23),
    };
    f32::from_bits(value | u32::from(bits & 0x80) << 24)
}

/// e5m2 to f32: the upper byte of an f16.
#[inline]
pub fn e5m2(bits: u8) -> f32 {
    f16(u16::from(bits) << 8)
}

/// e8m0 to f32: `2^(bits - 127)`; 0 gives the subnormal 2^-127, 255 gives NaN.
#[inline]
pub fn e8m0(bits: u8) -> f32 {
    f32::from_bits(match bits {
        0 => 0x0040_0000,
        255 => 0x7fc0_0000,
        e => u32::from(e) << 23,
    })
}

/// Half of e8m0 as ggml decodes MXFP4 scales, beside values that are twice e2m1; 255 is 2^127, not NaN.
#[inline]
pub fn e8m0_half(bits: u8) -> f32 {
    f32::from_bits(if bits < 2 { 0x0020_0000 << bits } else { (u32::from(bits) - 1) << 23 })
}

/// The values of e2m1, by code.
pub const E2M1: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// e2m1 in the low four bits to f32.
#[inline]
pub fn e2m1(bits: u8) -> f32 {
    E2M1[usize::from(bits & 15)]
}

/// Half of ue4m3 as ggml decodes NVFP4 scales, beside values that are twice e2m1.
///
/// 127 is 0. Bytes from 128 up decode as if bit 7 were absent, except that 128 gives 0 and 255 gives 240.
#[inline]
pub fn ue4m3_half(bits: u8) -> f32 {
    if bits == 0x7f {
        return 0.0;
    }
    let magnitude = u32::from(bits & 0x7f);
    let subnormal = ((magnitude & 7) as f32 * f32::from_bits(0x3a80_0000)).to_bits(); // m * 2^-10
    f32::from_bits(if magnitude < 8 { subnormal } else { (magnitude << 20) + (119 << 23) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(-1)^s * 2^(e - bias) * (1 + m / 2^bits)` from the specification, in f64.
    fn reference(code: u8, exponent_bits: u32, bias: i32) -> f64 {
        let mantissa_bits = 7 - exponent_bits;
        let sign = if code & 0x80 != 0 { -1.0 } else { 1.0 };
        let exponent = i32::from((code & 0x7f) >> mantissa_bits);
        let mantissa = f64::from(code & ((1 << mantissa_bits) - 1)) / f64::from(1 << mantissa_bits);
        match exponent {
            0 => sign * 2f64.powi(1 - bias) * mantissa,
            e => sign * 2f64.powi(e - bias) * (1.0 + mantissa),
        }
    }

    #[test]
    fn every_f16_equals_the_half_crate() {
        for bits in 0..=u16::MAX {
            let (found, expected) = (f16(bits), half::f16::from_bits(bits).to_f32());
            assert!(found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan()), "{bits:#06x}");
            let (found, expected) = (bf16(bits), half::bf16::from_bits(bits).to_f32());
            assert!(found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan()), "{bits:#06x}");
        }
    }

    #[test]
    fn every_e4m3_and_e5m2_equals_its_specification() {
        for code in 0..=255u8 {
            match code & 0x7f {
                0x7f => assert!(e4m3(code).is_nan()),
                _ => assert_eq!(e4m3(code).to_bits(), (reference(code, 4, 7) as f32).to_bits(), "{code:#04x}"),
            }
            match code & 0x7f {
                0x7c => assert_eq!(e5m2(code), if code & 0x80 == 0 { f32::INFINITY } else { f32::NEG_INFINITY }),
                0x7d..=0x7f => assert!(e5m2(code).is_nan()),
                _ => assert_eq!(e5m2(code).to_bits(), (reference(code, 5, 15) as f32).to_bits(), "{code:#04x}"),
            }
        }
        assert_eq!((e4m3(0x7e), e5m2(0x7b)), (448.0, 57344.0));
    }

    #[test]
    fn every_e8m0_and_ue4m3_equals_its_specification() {
        for code in 0..255u8 {
            assert_eq!(f64::from(e8m0(code)), 2f64.powi(i32::from(code) - 127), "{code}");
            assert_eq!(f64::from(e8m0_half(code)), 2f64.powi(i32::from(code) - 128), "{code}");
            let expected = if code == 0x7f { 0.0 } else { reference(code & 0x7f, 4, 7) / 2.0 };
            assert_eq!(f64::from(ue4m3_half(code)), expected, "{code}");
        }
        assert!(e8m0(255).is_nan());
        assert_eq!((e8m0_half(255), ue4m3_half(255)), (f32::from_bits(254 << 23), 240.0));
    }

    #[test]
    fn every_e2m1_equals_its_specification() {
        for code in 0..16u8 {
            let (sign, e, m) = (if code & 8 != 0 { -1.0 } else { 1.0 }, (code >> 1) & 3, f32::from(code & 1));
            let expected = if e == 0 { sign * m / 2.0 } else { sign * (1.0 + m / 2.0) * 2f32.powi(i32::from(e) - 1) };
            assert_eq!(e2m1(code).to_bits(), expected.to_bits(), "{code}");
        }
    }

    #[test]
    fn f32_rounds_to_the_nearest_f16() {
        let mut all: Vec<f32> = (0..=u16::MAX).map(f16).collect();
        // Half way to the next number and beside that, where rounding changes.
        for i in 0..all.len() {
            let middle = f32::from_bits(all[i].to_bits().wrapping_add(1 << 12));
            all.extend([-1i32, 0, 1].map(|step| f32::from_bits(middle.to_bits().wrapping_add_signed(step))));
        }
        all.extend([65519.9, 65520.0, 1e9, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-30, 2f32.powi(-25)]);
        for x in all {
            let expected = half::f16::from_f32(x);
            let found = half::f16::from_bits(Half::new(x).bits());
            assert!(found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(), "{x:e}: {found:e}");
        }
    }
}
