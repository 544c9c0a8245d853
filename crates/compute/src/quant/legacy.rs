//! Blocks of 32 weights with one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
//!
//! ```text
//! Q4_0  d f16 | qs 16      w = d * (q - 8)      weight i: low nibble of qs[i], weight 16 + i: high nibble
//! Q4_1  d | m | qs 16      w = d * q + m
//! Q5_0  d | qh 4 | qs 16   w = d * (q - 16)     bit 4 of weight i is bit i of qh, a u32
//! Q5_1  d | m | qh | qs    w = d * q + m
//! Q8_0  d | qs 32 i8       w = d * q
//! ```
//!
//! Source: `block_q4_0` ... `block_q8_0`, ggml `src/ggml-common.h`, and `dequantize_row_q4_0` ..., `ggml-quants.c`
//! @ d99724f2.

use bytemuck::{Pod, Zeroable};

use super::Block;
use super::float::Half;

/// 4 bits, symmetric.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4_0 {
    /// Scale.
    pub d: Half,
    /// Nibbles.
    pub qs: [u8; 16],
}

/// 4 bits with a minimum.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4_1 {
    /// Scale.
    pub d: Half,
    /// Minimum.
    pub m: Half,
    /// Nibbles.
    pub qs: [u8; 16],
}

/// 5 bits, symmetric.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ5_0 {
    /// Scale.
    pub d: Half,
    /// Fifth bits, a little-endian u32.
    pub qh: [u8; 4],
    /// Nibbles.
    pub qs: [u8; 16],
}

/// 5 bits with a minimum.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ5_1 {
    /// Scale.
    pub d: Half,
    /// Minimum.
    pub m: Half,
    /// Fifth bits, a little-endian u32.
    pub qh: [u8; 4],
    /// Nibbles.
    pub qs: [u8; 16],
}

/// 8 bits, symmetric.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ8_0 {
    /// Scale.
    pub d: Half,
    /// Weights over scale.
    pub qs: [i8; 32],
}

impl Block<32> for BlockQ4_0 {
    fn decode(&self, out: &mut [f32; 32]) {
        let d = self.d.f32();
        for i in 0..16 {
            out[i] = d * f32::from((self.qs[i] & 15) as i8 - 8);
            out[16 + i] = d * f32::from((self.qs[i] >> 4) as i8 - 8);
        }
    }
}

impl Block<32> for BlockQ4_1 {
    fn decode(&self, out: &mut [f32; 32]) {
        let (d, m) = (self.d.f32(), self.m.f32());
        for i in 0..16 {
            out[i] = d * f32::from(self.qs[i] & 15) + m;
            out[16 + i] = d * f32::from(self.qs[i] >> 4) + m;
        }
    }
}

/// The 32 codes of five bits.
#[inline]
pub fn codes5(qh: [u8; 4], qs: &[u8; 16]) -> [u8; 32] {
    let high = u32::from_le_bytes(qh);
    let mut codes = [0; 32];
    for i in 0..16 {
        codes[i] = qs[i] & 15 | ((high >> i) as u8 & 1) << 4;
        codes[16 + i] = qs[i] >> 4 | ((high >> (16 + i)) as u8 & 1) << 4;
    }
    codes
}

impl Block<32> for BlockQ5_0 {
    fn decode(&self, out: &mut [f32; 32]) {
        let d = self.d.f32();
        let codes = codes5(self.qh, &self.qs);
        for i in 0..32 {
            out[i] = d * f32::from(codes[i] as i8 - 16);
        }
    }
}

impl Block<32> for BlockQ5_1 {
    fn decode(&self, out: &mut [f32; 32]) {
        let (d, m) = (self.d.f32(), self.m.f32());
        let codes = codes5(self.qh, &self.qs);
        for i in 0..32 {
            out[i] = d * f32::from(codes[i]) + m;
        }
    }
}

impl Block<32> for BlockQ8_0 {
    fn decode(&self, out: &mut [f32; 32]) {
        let d = self.d.f32();
        for (w, q) in out.iter_mut().zip(&self.qs) {
            *w = f32::from(*q) * d;
        }
    }
}
