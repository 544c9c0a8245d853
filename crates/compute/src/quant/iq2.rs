//! Codebook types of 2 and 3 bits: IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S.
//!
//! Super-blocks of 256: a weight is `scale * magnitude * sign`; magnitudes come in eights (IQ2) or fours (IQ3)
//! from a codebook of [`grids`].
//!
//! ```text
//! IQ2_XXS  d f16 | 8 x (4 codes u8, signs u32)   signs: 4 x 7 bits for `SIGNS`, then 4 bits s; d * (0.5 + s) / 4
//! IQ2_XS   d | qs 32 u16 | scales 8              qs: 9 bits of code, 7 bits for `SIGNS`; a nibble of scales per 16
//! IQ2_S    d | qs 32 | signs 32 | qh 8 | scales 8    code: qs[i], bits 2(i%4) of qh[i/4] above; a bit per sign
//! IQ3_XXS  d | qs 64 | signs 8 u32               as IQ2_XXS with fours; d * (0.5 + s) / 2
//! IQ3_S    d | qs 64 | qh 8 | signs 32 | scales 4    code: qs[i], bit i%8 of qh[i/8] above; d * (1 + 2 s) per 32
//! ```
//!
//! Source: `block_iq2_xxs` ..., ggml `src/ggml-common.h`, and `dequantize_row_iq2_xxs` ..., `ggml-quants.c`
//! @ d99724f2.

use bytemuck::{Pod, Zeroable};

use super::float::Half;
use super::{Block, grids};

/// 2.0625 bits a weight.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIQ2_XXS {
    /// Scale.
    pub d: Half,
    /// Per 32 weights: four codes, then a little-endian u32 of signs and scale.
    pub qs: [[u8; 8]; 8],
}

/// 2.3125 bits a weight.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIQ2_XS {
    /// Scale.
    pub d: Half,
    /// Code and signs of each 8, little-endian u16.
    pub qs: [[u8; 2]; 32],
    /// Scale of each 16, a nibble.
    pub scales: [u8; 8],
}

/// 2.5625 bits a weight.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIQ2_S {
    /// Scale.
    pub d: Half,
    /// Low bits of the codes.
    pub qs: [u8; 32],
    /// Signs.
    pub signs: [u8; 32],
    /// High two bits of the codes.
    pub qh: [u8; 8],
    /// Scale of each 16, a nibble.
    pub scales: [u8; 8],
}

/// 3.0625 bits a weight.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIQ3_XXS {
    /// Scale.
    pub d: Half,
    /// Codes.
    pub qs: [u8; 64],
    /// Signs and scale of each 32, a little-endian u32.
    pub signs: [[u8; 4]; 8],
}

/// 3.4375 bits a weight.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIQ3_S {
    /// Scale.
    pub d: Half,
    /// Low bits of the codes.
    pub qs: [u8; 64],
    /// High bit of the codes.
    pub qh: [u8; 8],
    /// Signs.
    pub signs: [u8; 32],
    /// Scale of each 32, a nibble.
    pub scales: [u8; 4],
}

/// Eight weights: magnitudes times `scale`, negated where `signs` has a bit.
#[inline]
fn eight(out: &mut [f32; 8], scale: f32, magnitudes: [u8; 8], signs: u8) {
    for i in 0..8 {
        let sign = u32::from(signs >> i & 1) << 31;
        out[i] = f32::from_bits((scale * f32::from(magnitudes[i])).to_bits() ^ sign);
    }
}

/// Eight magnitudes of two codes of fours.
#[inline]
fn pair(low: u32, high: u32) -> [u8; 8] {
    (u64::from(low) | u64::from(high) << 32).to_le_bytes()
}

/// The 7-bit sign code `i` (0..4) of a word, as eight signs.
#[inline]
fn signs_of(word: u32, i: usize) -> u8 {
    grids::SIGNS[(word >> (7 * i)) as usize & 127]
}

impl Block<256> for BlockIQ2_XXS {
    fn decode(&self, out: &mut [f32; 256]) {
        let d = self.d.f32();
        for (out, qs) in out.as_chunks_mut::<32>().0.iter_mut().zip(&self.qs) {
            let word = u32::from_le_bytes([qs[4], qs[5], qs[6], qs[7]]);
            let scale = d * (0.5 + (word >> 28) as f32) * 0.25;
            for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let grid = grids::IQ2_XXS[usize::from(qs[i])].to_le_bytes();
                eight(out, scale, grid, signs_of(word, i));
            }
        }
    }
}

impl Block<256> for BlockIQ2_XS {
    fn decode(&self, out: &mut [f32; 256]) {
        let d = self.d.f32();
        for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let code = usize::from(u16::from_le_bytes(self.qs[i]));
            let nibble = self.scales[i / 4] >> (4 * (i / 2 % 2)) & 15;
            let scale = d * (0.5 + f32::from(nibble)) * 0.25;
            eight(out, scale, grids::IQ2_XS[code & 511].to_le_bytes(), grids::SIGNS[code >> 9]);
        }
    }
}

impl Block<256> for BlockIQ2_S {
    fn decode(&self, out: &mut [f32; 256]) {
        let d = self.d.f32();
        for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let code = usize::from(self.qs[i]) | usize::from(self.qh[i / 4] >> (2 * (i % 4)) & 3) << 8;
            let nibble = self.scales[i / 4] >> (4 * (i / 2 % 2)) & 15;
            let scale = d * (0.5 + f32::from(nibble)) * 0.25;
            eight(out, scale, grids::IQ2_S[code].to_le_bytes(), self.signs[i]);
        }
    }
}

impl Block<256> for BlockIQ3_XXS {
    fn decode(&self, out: &mut [f32; 256]) {
        let d = self.d.f32();
        for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let word = u32::from_le_bytes(self.signs[i / 4]);
            let scale = d * (0.5 + (word >> 28) as f32) * 0.5;
            let [low, high] = [self.qs[2 * i], self.qs[2 * i + 1]].map(|q| grids::IQ3_XXS[usize::from(q)]);
            eight(out, scale, pair(low, high), signs_of(word, i % 4));
        }
    }
}

impl Block<256> for BlockIQ3_S {
    fn decode(&self, out: &mut [f32; 256]) {
        let d = self.d.f32();
        for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let nibble = self.scales[i / 8] >> (4 * (i / 4 % 2)) & 15;
            let scale = d * f32::from(1 + 2 * nibble);
            let high = usize::from(self.qh[i / 4]) >> (2 * (i % 4));
            let low = usize::from(self.qs[2 * i]) | (high & 1) << 8;
            let next = usize::from(self.qs[2 * i + 1]) | (high >> 1 & 1) << 8;
            eight(out, scale, pair(grids::IQ3_S[low], grids::IQ3_S[next]), self.signs[i]);
        }
    }
}
