//! Encodings without a form of their own: panels made each time they are used, in the memory of the thread that uses
//! them, once for all columns.
//!
//! Codebook and ternary types become bytes with a scale per 16 ([`super::forms::Wide`]), which is exact: each weight is
//! a small integer times a scale. Everything else becomes floats.

use bytemuck::Pod;

use super::forms::Wide;
use super::kernel::{BLOCK, Form, ROWS};
use crate::quant::grids;
use crate::quant::*;
use crate::{DType, Encoding, MatrixData};

/// A block whose weights are small integers times a scale of each 16.
pub(super) trait Expand: Pod {
    /// Its type.
    const DTYPE: DType;

    /// The integers, eight i8 a word, the first lowest; and the scales. Both have as many items as the block needs.
    fn expand(&self, codes: &mut [u64], scales: &mut [f32]);
}

/// Most weights of a block.
const MOST: usize = 256;

/// Whether a matrix holds blocks of this type.
pub(super) fn takes<B: Expand>(matrix: &MatrixData) -> bool {
    // A type with blocks of 16, or rows that end within a group of 32, would not fit.
    matrix.encoding == Encoding::Blocks(B::DTYPE) && B::DTYPE.block().is_multiple_of(BLOCK)
}

/// Expands rows `first .. first + n` of `matrix` into `panel`, all bytes of which are zero.
pub(super) fn blocks<B: Expand>(matrix: &MatrixData, first: usize, n: usize, panel: &mut [u8]) {
    let weights = B::DTYPE.block();
    let per_row = matrix.n_in / weights;
    let rows = &matrix.parts[0][first * per_row * size_of::<B>()..][..n * per_row * size_of::<B>()];
    let blocks = bytemuck::cast_slice::<u8, B>(rows);
    let (mut codes, mut scales) = ([0; MOST / 8], [0.0; MOST / 16]);
    let (codes, scales) = (&mut codes[..weights / 8], &mut scales[..weights / 16]);
    for (i, groups) in panel.chunks_exact_mut(weights / BLOCK * Wide::BYTES).enumerate() {
        for row in 0..n {
            blocks[row * per_row + i].expand(codes, scales);
            let parts = codes.as_chunks::<4>().0.iter().zip(scales.as_chunks::<2>().0);
            for (group, (codes, scales)) in groups.chunks_exact_mut(Wide::BYTES).zip(parts) {
                for (half, scale) in scales.iter().enumerate() {
                    group[4 * (ROWS * half + row)..][..4].copy_from_slice(&scale.to_le_bytes());
                }
                for (lines, eight) in group[128..].as_chunks_mut::<128>().0.iter_mut().zip(codes) {
                    lines[4 * row..][..4].copy_from_slice(&(*eight as u32).to_le_bytes());
                    lines[64 + 4 * row..][..4].copy_from_slice(&((eight >> 32) as u32).to_le_bytes());
                }
            }
        }
    }
}

/// Decodes rows `first .. first + n` into a panel of floats, all bytes of which are zero.
pub(super) fn floats(matrix: &MatrixData, first: usize, n: usize, panel: &mut [u8]) {
    // Encodings that store the transposed matrix decode several rows in little more time than one.
    let at_once = if matches!(matrix.encoding, Encoding::Gptq { .. } | Encoding::Awq { .. }) { n } else { 1 };
    let mut rows = vec![0.0; at_once * matrix.n_in];
    for from in (0..n).step_by(at_once) {
        matrix.decode_rows(first + from, at_once, &mut rows);
        for (row, weights) in (from..).zip(rows.chunks_exact(matrix.n_in)) {
            for (line, weight) in panel.as_chunks_mut::<{ 4 * ROWS }>().0.iter_mut().zip(weights) {
                line[4 * row..][..4].copy_from_slice(&weight.to_le_bytes());
            }
        }
    }
}

/// For each byte of bits, a word of bytes: 0xff where the bit is set.
static SPREAD: [u64; 256] = {
    let mut out = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut k = 0;
        while k < 8 {
            out[i] |= (if i >> k & 1 == 1 { 0xff } else { 0 }) << (8 * k);
            k += 1;
        }
        i += 1;
    }
    out
};

/// Negates the bytes of `magnitudes` (none is 0) for which `signs` has a bit.
#[inline]
fn negate(magnitudes: u64, signs: u8) -> u64 {
    let mask = SPREAD[usize::from(signs)];
    (magnitudes ^ mask) + (mask & 0x0101_0101_0101_0101)
}

/// The 7-bit sign code `i` (0..4) of a word, as eight signs.
#[inline]
fn signs_of(word: u32, i: usize) -> u8 {
    grids::SIGNS[(word >> (7 * i)) as usize & 127]
}

#[inline]
fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

impl Expand for BlockIQ2_XXS {
    const DTYPE: DType = DType::IQ2_XXS;

    fn expand(&self, codes: &mut [u64], scales: &mut [f32]) {
        let d = self.d.f32();
        for (k, (codes, qs)) in codes.as_chunks_mut::<4>().0.iter_mut().zip(&self.qs).enumerate() {
            let word = u32::from_le_bytes([qs[4], qs[5], qs[6], qs[7]]);
            scales[2 * k..][..2].fill(d * (0.5 + (word >> 28) as f32) * 0.25);
            for (i, code) in codes.iter_mut().enumerate() {
                *code = negate(grids::IQ2_XXS[usize::from(qs[i])], signs_of(word, i));
            }
        }
    }
}

/// The scales of IQ2_XS and IQ2_S, from nibbles.
#[inline]
fn scales2(d: f32, nibbles: &[u8; 8], scales: &mut [f32]) {
    for (k, scale) in scales.iter_mut().enumerate() {
        *scale = d * (0.5 + f32::from(nibbles[k / 2] >> (4 * (k % 2)) & 15)) * 0.25;
    }
}

impl Expand for BlockIQ2_XS {
    const DTYPE: DType = DType::IQ2_XS;

    fn expand(&self, codes: &mut [u64], scales: &mut [f32]) {
        scales2(self.d.f32(), &self.scales, scales);
        for (code, qs) in codes.iter_mut().zip(&self.qs) {
            let q = usize::from(u16::from_le_bytes(*qs));
            *code = negate(grids::IQ2_XS[q & 511], grids::SIGNS[q >> 9]);
        }
    }
}

impl Expand for BlockIQ2_S {
    const DTYPE: DType = DType::IQ2_S;

    fn expand(&self, codes: &mut [u64], scales: &mut [f32]) {
        scales2(self.d.f32(), &self.scales, scales);
        for (i, code) in codes.iter_mut().enumerate() {
            let q = usize::from(self.qs[i]) | usize::from(self.qh[i / 4] >> (2 * (i % 4)) & 3) << 8;
            *code = negate(grids::IQ2_S[q], self.signs[i]);
        }
    }
}

impl Expand for BlockIQ3_XXS {
    const DTYPE: DType = DType::IQ3_XXS;

    fn expand(&self, codes: &mut [u64], scales: &mut [f32]) {
        let d = self.d.f32();
        for (k, codes) in codes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let word = u32::from_le_bytes(self.signs[k]);
            scales[2 * k..][..2].fill(d * (0.5 + (word >> 28) as f32) * 0.5);
            for (i, code) in codes.iter_mut().enumerate() {
                let [low, high] = [0, 1].map(|h| grids::IQ3_XXS[usize::from(self.qs[8 * k + 2 * i + h])]);
                *code = negate(pair(low, high), signs_of(word, i));
            }
        }
    }
}

impl Expand for BlockIQ3_S {
    const DTYPE: DType = DType::IQ3_S;

    fn expand(&self, codes: &mut [u64], scales: &mut [f32]) {
        let d = self.d.f32();
        for (k, scale) in scales.iter_mut().enumerate() {
            *scale = d * f32::from(1 + 2 * (self.scales[k / 4] >> (4 * (k / 2 % 2)) & 15));
        }
        for (i, code) in codes.iter_mut().enumerate() {
            let high = usize::from(self.qh[i / 4]) >> (2 * (i % 4));
            let low = usize::from(self.qs[2 * i]) | (high & 1) << 8;
            let next = usize::from(self.qs[2 * i + 1]) | (high >> 1 & 1) << 8;
            *code = negate(pair(grids::IQ3_S[low], grids::IQ3_S[next]), self.signs[i]);
        }
    }
}

/// Eight values of the codebook of IQ1, times 8, plus or minus 1.
#[inline]
fn shifted(code: usize, minus: bool) -> u64 {
    let delta = if minus { 0xff } else { 1 };
    u64::from_le_bytes(grids::IQ1[code].to_le_bytes().map(|v| (v << 3).wrapping_add(delta)))
}

impl Expand for BlockIQ1_S {
    const DTYPE: DType = DType::IQ1_S;

    fn expand(&self, codes: &mut [u64], scales: &mut [f32]) {
        let d = self.d.f32();
        for (i, code) in codes.iter_mut().enumerate() {
            let word = u16::from_le_bytes(self.qh[i / 4]);
            scales[i / 2] = d * f32::from(2 * (word >> 12 & 7) + 1) * iq1::DELTA;
            let q = usize::from(self.qs[i]) | usize::from(word >> (3 * (i % 4)) & 7) << 8;
            *code = shifted(q, word & 0x8000 != 0);
        }
    }
}

impl Expand for BlockIQ1_M {
    const DTYPE: DType = DType::IQ1_M;

    fn expand(&self, codes: &mut [u64], scales: &mut [f32]) {
        let d = self.d();
        for (i, code) in codes.iter_mut().enumerate() {
            let nibble = self.qh[i / 2] >> (4 * (i % 2)) & 15;
            let scale = u16::from_le_bytes(self.scales[i / 8]) >> (3 * (i / 2 % 4)) & 7;
            scales[i / 2] = d * f32::from(2 * scale + 1) * iq1::DELTA;
            *code = shifted(usize::from(self.qs[i]) | usize::from(nibble & 7) << 8, nibble & 8 != 0);
        }
    }
}

impl Expand for BlockTQ1_0 {
    const DTYPE: DType = DType::TQ1_0;

    fn expand(&self, codes: &mut [u64], scales: &mut [f32]) {
        scales.fill(self.d.f32());
        let codes: &mut [u8] = bytemuck::cast_slice_mut(codes);
        let (head, tail) = codes.split_at_mut(160);
        let (middle, last) = tail.split_at_mut(80);
        for (out, bytes) in [(head, &self.qs[..32]), (middle, &self.qs[32..]), (last, &self.qh[..])] {
            let mut power = 1u8;
            for out in out.chunks_exact_mut(bytes.len()) {
                for (code, byte) in out.iter_mut().zip(bytes) {
                    *code = ((u16::from(byte.wrapping_mul(power)) * 3) >> 8) as u8;
                    *code = code.wrapping_sub(1);
                }
                power = power.wrapping_mul(3);
            }
        }
    }
}

impl Expand for BlockTQ2_0 {
    const DTYPE: DType = DType::TQ2_0;

    fn expand(&self, codes: &mut [u64], scales: &mut [f32]) {
        scales.fill(self.d.f32());
        let codes: &mut [u8] = bytemuck::cast_slice_mut(codes);
        for (k, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (code, q) in codes.iter_mut().zip(&self.qs[32 * (k / 4)..]) {
                *code = (q >> (2 * (k % 4)) & 3).wrapping_sub(1);
            }
        }
    }
}

impl Expand for BlockQ8_K {
    const DTYPE: DType = DType::Q8_K;

    fn expand(&self, codes: &mut [u64], scales: &mut [f32]) {
        scales.fill(f32::from_le_bytes(self.d));
        bytemuck::cast_slice_mut(codes).copy_from_slice(&self.qs);
    }
}
