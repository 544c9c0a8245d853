//! K-quants: super-blocks of 256 weights, whose sub-blocks have small integer scales.
//!
//! ```text
//! Q2_K  scales 16 | qs 64 | d f16 | dmin f16      16 sub-blocks of 16: w = d * (s & 15) * q - dmin * (s >> 4)
//!       weight 128h + 32j + l is bits 2j of qs[32h + l]
//! Q3_K  hmask 32 | qs 64 | scales 12 | d          16 of 16: w = d * (s - 32) * (q - 4 * !high)
//!       low two bits as Q2_K; high bit of weight 32k + l is bit k of hmask[l]; scales: see `scales3`
//! Q4_K  d | dmin | scales 12 | qs 128             8 of 32: w = d * s * q - dmin * m; scales: see `scales_mins`
//!       weight 64h + l is the low nibble of qs[32h + l], weight 64h + 32 + l the high one
//! Q5_K  d | dmin | scales 12 | qh 32 | qs 128     as Q4_K; bit 4 of weight 32k + l is bit k of qh[l]
//! Q6_K  ql 128 | qh 64 | scales 16 i8 | d         16 of 16: w = d * s * (q - 32)
//!       per half of 128: nibbles (l, 32 + l, 64 + l, 96 + l) = low ql[l], low ql[32+l], high ql[l], high ql[32+l];
//!       bits 4..6 of weight 32j + l are bits 2j of qh[l]
//! Q8_K  d f32 | qs 256 i8 | bsums 16 i16          w = d * q; bsums are sums of 16, for integer dot products
//! ```
//!
//! Source: `block_q2_K` ... `block_q8_K`, ggml `src/ggml-common.h`, and `dequantize_row_q2_K` ..., `ggml-quants.c`
//! @ d99724f2.

use bytemuck::{Pod, Zeroable};

use super::Block;
use super::float::Half;

/// 2 bits with minima, 2.625 bits a weight.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ2_K {
    /// Scale (low nibble) and minimum of each 16.
    pub scales: [u8; 16],
    /// Codes.
    pub qs: [u8; 64],
    /// Scale of the scales.
    pub d: Half,
    /// Scale of the minima.
    pub dmin: Half,
}

/// 3 bits, symmetric, 3.4375 bits a weight.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ3_K {
    /// High bits.
    pub hmask: [u8; 32],
    /// Low two bits.
    pub qs: [u8; 64],
    /// Packed scales, see [`scales3`].
    pub scales: [u8; 12],
    /// Scale of the scales.
    pub d: Half,
}

/// 4 bits with minima, 4.5 bits a weight.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4_K {
    /// Scale of the scales.
    pub d: Half,
    /// Scale of the minima.
    pub dmin: Half,
    /// Packed scales and minima, see [`scales_mins`].
    pub scales: [u8; 12],
    /// Nibbles.
    pub qs: [u8; 128],
}

/// 5 bits with minima, 5.5 bits a weight.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ5_K {
    /// Scale of the scales.
    pub d: Half,
    /// Scale of the minima.
    pub dmin: Half,
    /// Packed scales and minima, see [`scales_mins`].
    pub scales: [u8; 12],
    /// High bits.
    pub qh: [u8; 32],
    /// Nibbles.
    pub qs: [u8; 128],
}

/// 6 bits, symmetric, 6.5625 bits a weight.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ6_K {
    /// Low nibbles.
    pub ql: [u8; 128],
    /// High two bits.
    pub qh: [u8; 64],
    /// Scale of each 16.
    pub scales: [i8; 16],
    /// Scale of the scales.
    pub d: Half,
}

/// 8 bits with an f32 scale: activations beside K-quants.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ8_K {
    /// Scale, a little-endian f32.
    pub d: [u8; 4],
    /// Weights over scale.
    pub qs: [i8; 256],
    /// Sums of 16 codes, little-endian i16.
    pub bsums: [[u8; 2]; 16],
}

/// The eight scales and eight minima (six bits each) of Q4_K and Q5_K.
///
/// Bytes 0..4 hold scales 0..4 and bytes 4..8 minima 0..4 in their low six bits; bytes 8..12 hold the low nibbles
/// of scales (low) and minima (high) 4..8, whose high two bits are the high bits of bytes 0..4 and 4..8.
#[inline]
pub fn scales_mins(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut mins) = ([0; 8], [0; 8]);
    for i in 0..4 {
        scales[i] = packed[i] & 63;
        mins[i] = packed[4 + i] & 63;
        scales[4 + i] = packed[8 + i] & 15 | packed[i] >> 6 << 4;
        mins[4 + i] = packed[8 + i] >> 4 | packed[4 + i] >> 6 << 4;
    }
    (scales, mins)
}

/// The sixteen scales of Q3_K, less 32.
///
/// Low nibbles: scale `i` is nibble `i / 8` of byte `i % 8`. High two bits: bits `2 * (i / 4)` of byte `8 + i % 4`.
#[inline]
pub fn scales3(packed: &[u8; 12]) -> [i8; 16] {
    let mut scales = [0; 16];
    for i in 0..16 {
        let low = packed[i % 8] >> (4 * (i / 8)) & 15;
        let high = packed[8 + i % 4] >> (2 * (i / 4)) & 3;
        scales[i] = (low | high << 4) as i8 - 32;
    }
    scales
}

impl Block<256> for BlockQ2_K {
    fn decode(&self, out: &mut [f32; 256]) {
        let (d, dmin) = (self.d.f32(), self.dmin.f32());
        for (k, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let (scale, min) = (d * f32::from(self.scales[k] & 15), dmin * f32::from(self.scales[k] >> 4));
            let (from, shift) = (32 * (k / 8) + 16 * (k % 2), 2 * (k / 2 % 4));
            for (w, q) in out.iter_mut().zip(&self.qs[from..from + 16]) {
                *w = scale * f32::from(q >> shift & 3) - min;
            }
        }
    }
}

impl Block<256> for BlockQ3_K {
    fn decode(&self, out: &mut [f32; 256]) {
        let d = self.d.f32();
        let scales = scales3(&self.scales);
        for (k, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let scale = d * f32::from(scales[k]);
            let (half, low, shift) = (16 * (k % 2), 32 * (k / 8) + 16 * (k % 2), 2 * (k / 2 % 4));
            let codes = self.qs[low..low + 16].iter().zip(&self.hmask[half..half + 16]);
            for (w, (q, high)) in out.iter_mut().zip(codes) {
                let code = (q >> shift & 3) | (high >> (k / 2) & 1) << 2;
                *w = scale * f32::from(code as i8 - 4);
            }
        }
    }
}

impl Block<256> for BlockQ4_K {
    fn decode(&self, out: &mut [f32; 256]) {
        let (d, dmin) = (self.d.f32(), self.dmin.f32());
        let (scales, mins) = scales_mins(&self.scales);
        for (k, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (scale, min) = (d * f32::from(scales[k]), dmin * f32::from(mins[k]));
            let (from, shift) = (32 * (k / 2), 4 * (k % 2));
            for (w, q) in out.iter_mut().zip(&self.qs[from..from + 32]) {
                *w = scale * f32::from(q >> shift & 15) - min;
            }
        }
    }
}

impl Block<256> for BlockQ5_K {
    fn decode(&self, out: &mut [f32; 256]) {
        let (d, dmin) = (self.d.f32(), self.dmin.f32());
        let (scales, mins) = scales_mins(&self.scales);
        for (k, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (scale, min) = (d * f32::from(scales[k]), dmin * f32::from(mins[k]));
            let (from, shift) = (32 * (k / 2), 4 * (k % 2));
            for (w, (q, high)) in out.iter_mut().zip(self.qs[from..from + 32].iter().zip(&self.qh)) {
                *w = scale * f32::from(q >> shift & 15 | (high >> k & 1) << 4) - min;
            }
        }
    }
}

impl Block<256> for BlockQ6_K {
    fn decode(&self, out: &mut [f32; 256]) {
        let d = self.d.f32();
        for (k, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let scale = d * f32::from(self.scales[k]);
            let (half, j) = (k / 8, k / 2 % 4);
            let low = 64 * half + 32 * (j % 2) + 16 * (k % 2);
            let high = 32 * half + 16 * (k % 2);
            let codes = self.ql[low..low + 16].iter().zip(&self.qh[high..high + 16]);
            for (w, (q, h)) in out.iter_mut().zip(codes) {
                let code = q >> (4 * (j / 2)) & 15 | (h >> (2 * j) & 3) << 4;
                *w = scale * f32::from(code as i8 - 32);
            }
        }
    }
}

impl Block<256> for BlockQ8_K {
    fn decode(&self, out: &mut [f32; 256]) {
        let d = f32::from_le_bytes(self.d);
        for (w, q) in out.iter_mut().zip(&self.qs) {
            *w = d * f32::from(*q);
        }
    }
}
