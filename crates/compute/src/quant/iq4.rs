//! 4 bits that index a table of uneven steps: IQ4_NL, IQ4_XS; and 4-bit floats: MXFP4, NVFP4.
//!
//! ```text
//! IQ4_NL  d f16 | qs 16                                  32 weights: w = d * IQ4_VALUES[q]
//! IQ4_XS  d | scales_h u16 | scales_l 4 | qs 128         256 in 8 of 32: w = d * (s - 32) * IQ4_VALUES[q]
//!         s of sub-block k: nibble k of scales_l, bits 2k of scales_h above
//! MXFP4   e e8m0 | qs 16                                 32 weights: w = 2^(e-128) * FP4_VALUES[q]
//! NVFP4   d 4 ue4m3 | qs 32                              64 in 4 of 16: w = d / 2 * FP4_VALUES[q]
//! ```
//!
//! Within a (sub-)block of n, low nibbles are weights `0..n/2` and high nibbles weights `n/2..n`.
//!
//! Source: `block_iq4_nl`, `block_iq4_xs`, `block_mxfp4`, `block_nvfp4`, ggml `src/ggml-common.h`, and
//! `dequantize_row_iq4_nl` ..., `ggml-quants.c` @ d99724f2.

use bytemuck::{Pod, Zeroable};

use super::Block;
use super::float::{Half, e8m0_half, ue4m3_half};
use super::grids::{FP4_VALUES, IQ4_VALUES};

/// 4.5 bits a weight.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIQ4_NL {
    /// Scale.
    pub d: Half,
    /// Nibbles.
    pub qs: [u8; 16],
}

/// 4.25 bits a weight.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIQ4_XS {
    /// Scale of the scales.
    pub d: Half,
    /// High two bits of the scales, a little-endian u16.
    pub scales_h: [u8; 2],
    /// Low nibbles of the scales.
    pub scales_l: [u8; 4],
    /// Nibbles, 16 bytes per 32 weights.
    pub qs: [[u8; 16]; 8],
}

/// OCP MXFP4, 4.25 bits a weight.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockMXFP4 {
    /// Scale, e8m0.
    pub e: u8,
    /// Nibbles.
    pub qs: [u8; 16],
}

/// NVIDIA FP4, 4.5 bits a weight; the tensor's own f32 scale lies elsewhere.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockNVFP4 {
    /// Scale of each 16, ue4m3.
    pub d: [u8; 4],
    /// Nibbles, 8 bytes per 16 weights.
    pub qs: [[u8; 8]; 4],
}

impl BlockIQ4_XS {
    /// The eight scales, less 32.
    #[inline]
    pub fn scales(&self) -> [i8; 8] {
        let high = u16::from_le_bytes(self.scales_h);
        let mut scales = [0; 8];
        for (k, scale) in scales.iter_mut().enumerate() {
            let low = self.scales_l[k / 2] >> (4 * (k % 2)) & 15;
            *scale = (low | ((high >> (2 * k)) as u8 & 3) << 4) as i8 - 32;
        }
        scales
    }
}

/// `scale * values[nibble]`: low nibbles fill the first half of `out`, high nibbles the second.
#[inline]
fn nibbles(out: &mut [f32], qs: &[u8], scale: f32, values: &[i8; 16]) {
    let (low, high) = out.split_at_mut(qs.len());
    for ((low, high), q) in low.iter_mut().zip(high).zip(qs) {
        *low = scale * f32::from(values[usize::from(q & 15)]);
        *high = scale * f32::from(values[usize::from(q >> 4)]);
    }
}

impl Block<32> for BlockIQ4_NL {
    fn decode(&self, out: &mut [f32; 32]) {
        nibbles(out, &self.qs, self.d.f32(), &IQ4_VALUES);
    }
}

impl Block<256> for BlockIQ4_XS {
    fn decode(&self, out: &mut [f32; 256]) {
        let d = self.d.f32();
        let scales = self.scales();
        for (k, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            nibbles(out, &self.qs[k], d * f32::from(scales[k]), &IQ4_VALUES);
        }
    }
}

impl Block<32> for BlockMXFP4 {
    fn decode(&self, out: &mut [f32; 32]) {
        nibbles(out, &self.qs, e8m0_half(self.e), &FP4_VALUES);
    }
}

impl Block<64> for BlockNVFP4 {
    fn decode(&self, out: &mut [f32; 64]) {
        for (k, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            nibbles(out, &self.qs[k], ue4m3_half(self.d[k]), &FP4_VALUES);
        }
    }
}
