//! Weights of two to four values, `w = d * q`: TQ1_0 and TQ2_0 (`q` of -1, 0, 1), Q1_0 (-1, 1), Q2_0 (-1, 0, 1, 2).
//!
//! ```text
//! TQ1_0  qs 48 | qh 4 | d f16   a byte is a fraction in 1/256; digit n in base 3 is (byte * 3^n mod 256) * 3 / 256
//!        weights 32n + i: digit n of qs[i] (5 digits); 160 + 16n + i: digit n of qs[32 + i]; 240 + 4n + i: of qh[i]
//! TQ2_0  qs 64 | d f16          weight 128h + 32j + i is bits 2j of qs[32h + i], less 1
//! Q1_0   d | qs 16   128 weights   weight i is bit i of qs: 0 is -1
//! Q2_0   d | qs 16   64 weights    weight i is bits 2(i%4) of qs[i/4], less 1
//! ```
//!
//! Source: `block_tq1_0` ..., ggml `src/ggml-common.h`, and `dequantize_row_tq1_0` ..., `ggml-quants.c` @ d99724f2.

use bytemuck::{Pod, Zeroable};

use super::Block;
use super::float::Half;

/// 1.6875 bits a weight.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockTQ1_0 {
    /// Five digits a byte.
    pub qs: [u8; 48],
    /// Four digits a byte.
    pub qh: [u8; 4],
    /// Scale.
    pub d: Half,
}

/// 2.0625 bits a weight.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockTQ2_0 {
    /// Codes.
    pub qs: [u8; 64],
    /// Scale.
    pub d: Half,
}

/// 1.125 bits a weight.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ1_0 {
    /// Scale.
    pub d: Half,
    /// Signs; a set bit is positive.
    pub qs: [u8; 16],
}

/// 2.25 bits a weight.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ2_0 {
    /// Scale.
    pub d: Half,
    /// Codes.
    pub qs: [u8; 16],
}

/// Digits of `bytes`: `out[n * bytes.len() + i]` is digit n of byte i.
#[inline]
fn digits(out: &mut [f32], bytes: &[u8], d: f32) {
    let mut power = 1u8;
    for out in out.chunks_exact_mut(bytes.len()) {
        for (w, byte) in out.iter_mut().zip(bytes) {
            let digit = (u16::from(byte.wrapping_mul(power)) * 3) >> 8;
            *w = f32::from(digit as i8 - 1) * d;
        }
        power = power.wrapping_mul(3);
    }
}

impl Block<256> for BlockTQ1_0 {
    fn decode(&self, out: &mut [f32; 256]) {
        let d = self.d.f32();
        digits(&mut out[..160], &self.qs[..32], d);
        digits(&mut out[160..240], &self.qs[32..], d);
        digits(&mut out[240..], &self.qh, d);
    }
}

impl Block<256> for BlockTQ2_0 {
    fn decode(&self, out: &mut [f32; 256]) {
        let d = self.d.f32();
        for (k, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let from = 32 * (k / 4);
            for (w, q) in out.iter_mut().zip(&self.qs[from..from + 32]) {
                *w = f32::from((q >> (2 * (k % 4)) & 3) as i8 - 1) * d;
            }
        }
    }
}

impl Block<128> for BlockQ1_0 {
    fn decode(&self, out: &mut [f32; 128]) {
        let d = self.d.f32();
        for (out, bits) in out.as_chunks_mut::<8>().0.iter_mut().zip(&self.qs) {
            for (i, w) in out.iter_mut().enumerate() {
                *w = if bits >> i & 1 == 1 { d } else { -d };
            }
        }
    }
}

impl Block<64> for BlockQ2_0 {
    fn decode(&self, out: &mut [f32; 64]) {
        let d = self.d.f32();
        for (out, codes) in out.as_chunks_mut::<4>().0.iter_mut().zip(&self.qs) {
            for (i, w) in out.iter_mut().enumerate() {
                *w = f32::from((codes >> (2 * i) & 3) as i8 - 1) * d;
            }
        }
    }
}
