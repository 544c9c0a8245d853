//! From the blocks of a file to panels: without rounding, and but for codebooks permutations of bits.

use bytemuck::Pod;

use super::kernel::{BLOCK, ROWS};
use crate::quant::float::Half;
use crate::quant::legacy::codes5;
use crate::quant::*;
use crate::{DType, Encoding, MatrixData};

/// A GGUF block whose rows can lie side by side in a group of a panel.
pub(super) trait Pack: Pod {
    /// Its type.
    const DTYPE: DType;
    /// Bytes of a row in a group.
    const BYTES: usize = size_of::<Self>();

    /// Writes this block as row `row` of `group`, whose bytes of this row are zero.
    fn pack(&self, row: usize, group: &mut [u8]);
}

/// Whether a matrix holds blocks of this type.
pub(super) fn takes<B: Pack>(matrix: &MatrixData) -> bool {
    matrix.encoding == Encoding::Blocks(B::DTYPE)
}

/// Packs rows `first .. first + n` of `matrix` into `panel`, all bytes of which are zero.
pub(super) fn blocks<B: Pack>(matrix: &MatrixData, first: usize, n: usize, panel: &mut [u8]) {
    let per_row = matrix.n_in / B::DTYPE.block();
    let rows = &matrix.parts[0][first * per_row * size_of::<B>()..][..n * per_row * size_of::<B>()];
    let blocks = bytemuck::cast_slice::<u8, B>(rows);
    for (i, group) in panel.chunks_exact_mut(ROWS * B::BYTES).enumerate() {
        for row in 0..n {
            blocks[row * per_row + i].pack(row, group);
        }
    }
}

/// Packs rows of numbers (or of several that stay together) of `SIZE` bytes: number `k` of each row lies in line `k`.
pub(super) fn numbers<const SIZE: usize>(matrix: &MatrixData, first: usize, n: usize, panel: &mut [u8]) {
    /// Lines filled at a time, so that they stay in the nearest cache while the rows pass.
    const LINES: usize = 128;
    let row_bytes = matrix.parts[0].len() / matrix.n_out;
    for (chunk, lines) in panel.chunks_mut(LINES * ROWS * SIZE).enumerate() {
        for row in 0..n {
            let numbers = &matrix.parts[0][(first + row) * row_bytes..][..row_bytes];
            let numbers = numbers[chunk * LINES * SIZE..].as_chunks::<SIZE>().0;
            for (line, number) in lines.chunks_exact_mut(ROWS * SIZE).zip(numbers) {
                line[row * SIZE..][..SIZE].copy_from_slice(number);
            }
        }
    }
}

/// Four codes of each of eight groups, as words.
fn words(codes: &[u8; 32]) -> [u32; 8] {
    std::array::from_fn(|g| u32::from_le_bytes([codes[4 * g], codes[4 * g + 1], codes[4 * g + 2], codes[4 * g + 3]]))
}

fn put(line: &mut [u8], row: usize, word: u32) {
    line[4 * row..][..4].copy_from_slice(&word.to_le_bytes());
}

/// Writes the low four bits of 32 codes as row `row` of nibble lines.
pub(super) fn nibbles(codes: &[u8; 32], row: usize, lines: &mut [u8]) {
    let words = words(codes).map(|w| w & 0x0f0f_0f0f);
    for (g, line) in lines.as_chunks_mut::<64>().0.iter_mut().take(4).enumerate() {
        put(line, row, words[g] | words[4 + g] << 4);
    }
}

/// Writes two bits of 32 codes, from bit `shift` on, as row `row` of two-bit lines.
pub(super) fn two_bits(codes: &[u8; 32], shift: u32, row: usize, lines: &mut [u8]) {
    let words = words(codes).map(|w| w >> shift & 0x0303_0303);
    for (line, w) in lines.as_chunks_mut::<64>().0.iter_mut().zip(words.as_chunks::<4>().0) {
        put(line, row, w[0] | w[1] << 2 | w[2] << 4 | w[3] << 6);
    }
}

/// Writes bit `shift` of 32 codes as row `row` of a bit line.
pub(super) fn bits(codes: &[u8; 32], shift: u32, row: usize, line: &mut [u8]) {
    let words = words(codes).map(|w| w >> shift & 0x0101_0101);
    put(line, row, words.iter().rev().fold(0, |all, w| all << 1 | w));
}

/// Writes 32 codes as row `row` of byte lines.
fn bytes(codes: &[u8; 32], row: usize, lines: &mut [u8]) {
    for (line, four) in lines.chunks_exact_mut(64).zip(codes.as_chunks::<4>().0) {
        line[4 * row..][..4].copy_from_slice(four);
    }
}

/// Writes eight six-bit numbers of a row; see `forms::k::six_bits`.
fn six_bits(numbers: &[u8; 8], row: usize, out: &mut [u8]) {
    for (i, n) in numbers.iter().enumerate() {
        out[16 * (i % 4) + row] |= (n & 15) << (4 * (i / 4));
        out[64 + 16 * (i % 2) + row] |= (n >> 4) << (2 * (i / 2));
    }
}

/// The codes of 16 bytes whose low nibbles come first.
fn low_high(qs: &[u8; 16]) -> [u8; 32] {
    std::array::from_fn(|i| if i < 16 { qs[i] & 15 } else { qs[i - 16] >> 4 })
}

pub(super) fn half(value: Half, row: usize, out: &mut [u8]) {
    out[2 * row..][..2].copy_from_slice(&value.0);
}

/// Whether a matrix is MLX affine of `BITS` bits, in groups of 32 (`BLOCKS` 1) or of a multiple of 64 (`BLOCKS` 2).
pub(super) fn takes_affine<const BITS: u8, const BLOCKS: usize>(matrix: &MatrixData) -> bool {
    let Encoding::MlxAffine { bits, group, scale } = matrix.encoding else { return false };
    let group_fits = if BLOCKS == 1 { group == 32 } else { group.is_multiple_of(64) };
    bits == BITS && group_fits && matches!(scale, DType::F16 | DType::BF16)
}

/// Packs rows of an MLX affine matrix whose scales and biases are f16 or bf16; see `forms::affine`.
pub(super) fn affine<const BITS: u8, const BLOCKS: usize>(m: &MatrixData, first: usize, n: usize, panel: &mut [u8]) {
    let Encoding::MlxAffine { group, .. } = m.encoding else { unreachable!("`takes_affine` has looked") };
    let (per_row, group) = (m.n_in / (BLOCKS * BLOCK), usize::from(group));
    let line_bytes = usize::from(BITS) * 64;
    let code_bytes = usize::from(BITS) * BLOCK / 8;
    for (i, out) in panel.chunks_exact_mut(64 + BLOCKS * line_bytes).enumerate() {
        for row in 0..n {
            let parameter = (first + row) * (m.n_in / group) + i * BLOCKS * BLOCK / group;
            for part in 0..2 {
                let value = &m.parts[1 + part][2 * parameter..][..2];
                out[32 * part + 2 * row..][..2].copy_from_slice(value);
            }
            for (b, lines) in out[64..].chunks_exact_mut(line_bytes).enumerate() {
                let block = ((first + row) * per_row + i) * BLOCKS + b;
                let packed = &m.parts[0][block * code_bytes..][..code_bytes];
                match BITS {
                    4 => nibbles(&std::array::from_fn(|k| packed[k / 2] >> (4 * (k % 2)) & 15), row, lines),
                    _ => bytes(packed.try_into().expect("32 codes of 8 bits"), row, lines),
                }
            }
        }
    }
}

impl Pack for BlockQ4_0 {
    const DTYPE: DType = DType::Q4_0;

    fn pack(&self, row: usize, group: &mut [u8]) {
        half(self.d, row, group);
        nibbles(&low_high(&self.qs), row, &mut group[32..]);
    }
}

impl Pack for BlockQ4_1 {
    const DTYPE: DType = DType::Q4_1;

    fn pack(&self, row: usize, group: &mut [u8]) {
        half(self.d, row, group);
        half(self.m, row, &mut group[32..]);
        nibbles(&low_high(&self.qs), row, &mut group[64..]);
    }
}

impl Pack for BlockQ5_0 {
    const DTYPE: DType = DType::Q5_0;

    fn pack(&self, row: usize, group: &mut [u8]) {
        half(self.d, row, group);
        let codes = codes5(self.qh, &self.qs);
        nibbles(&codes, row, &mut group[32..]);
        bits(&codes, 4, row, &mut group[32 + 256..]);
    }
}

impl Pack for BlockQ5_1 {
    const DTYPE: DType = DType::Q5_1;

    fn pack(&self, row: usize, group: &mut [u8]) {
        half(self.d, row, group);
        half(self.m, row, &mut group[32..]);
        let codes = codes5(self.qh, &self.qs);
        nibbles(&codes, row, &mut group[64..]);
        bits(&codes, 4, row, &mut group[64 + 256..]);
    }
}

impl Pack for BlockQ8_0 {
    const DTYPE: DType = DType::Q8_0;

    fn pack(&self, row: usize, group: &mut [u8]) {
        half(self.d, row, group);
        bytes(bytemuck::cast_ref(&self.qs), row, &mut group[32..]);
    }
}

impl Pack for BlockIQ4_NL {
    const DTYPE: DType = DType::IQ4_NL;

    fn pack(&self, row: usize, group: &mut [u8]) {
        half(self.d, row, group);
        nibbles(&low_high(&self.qs), row, &mut group[32..]);
    }
}

impl Pack for BlockIQ4_XS {
    const DTYPE: DType = DType::IQ4_XS;

    fn pack(&self, row: usize, group: &mut [u8]) {
        half(self.d, row, group);
        six_bits(&self.scales().map(|s| (s + 32) as u8), row, &mut group[32..]);
        for (qs, lines) in self.qs.iter().zip(group[128..].chunks_exact_mut(256)) {
            nibbles(&low_high(qs), row, lines);
        }
    }
}

impl Pack for BlockMXFP4 {
    const DTYPE: DType = DType::MXFP4;

    fn pack(&self, row: usize, group: &mut [u8]) {
        group[row] = self.e;
        nibbles(&low_high(&self.qs), row, &mut group[16..]);
    }
}

impl Pack for BlockNVFP4 {
    const DTYPE: DType = DType::NVFP4;

    fn pack(&self, row: usize, group: &mut [u8]) {
        for (k, d) in self.d.iter().enumerate() {
            group[16 * k + row] = *d;
        }
        for (qs, lines) in self.qs.as_chunks::<2>().0.iter().zip(group[64..].chunks_exact_mut(256)) {
            let nibble = |i: usize| qs[i / 16][i % 8] >> (4 * (i / 8 % 2)) & 15;
            nibbles(&std::array::from_fn(nibble), row, lines);
        }
    }
}

impl Pack for BlockQ4_K {
    const DTYPE: DType = DType::Q4_K;

    fn pack(&self, row: usize, group: &mut [u8]) {
        pack_head45(self.d, self.dmin, &self.scales, row, group);
        for (b, lines) in group[256..].chunks_exact_mut(256).enumerate() {
            nibbles(&nibble_codes(&self.qs, b), row, lines);
        }
    }
}

impl Pack for BlockQ5_K {
    const DTYPE: DType = DType::Q5_K;

    fn pack(&self, row: usize, group: &mut [u8]) {
        pack_head45(self.d, self.dmin, &self.scales, row, group);
        for (b, lines) in group[256..].chunks_exact_mut(320).enumerate() {
            nibbles(&nibble_codes(&self.qs, b), row, lines);
            bits(&self.qh, b as u32, row, &mut lines[256..]);
        }
    }
}

fn pack_head45(d: Half, dmin: Half, packed: &[u8; 12], row: usize, group: &mut [u8]) {
    half(d, row, group);
    half(dmin, row, &mut group[32..]);
    let (scales, mins) = k::scales_mins(packed);
    six_bits(&scales, row, &mut group[64..]);
    six_bits(&mins, row, &mut group[160..]);
}

/// The low four bits of sub-block `b` of Q4_K or Q5_K.
fn nibble_codes(qs: &[u8; 128], b: usize) -> [u8; 32] {
    std::array::from_fn(|i| qs[32 * (b / 2) + i] >> (4 * (b % 2)) & 15)
}

impl Pack for BlockQ6_K {
    const DTYPE: DType = DType::Q6_K;

    fn pack(&self, row: usize, group: &mut [u8]) {
        half(self.d, row, group);
        for (k, scale) in self.scales.iter().enumerate() {
            group[32 + 16 * k + row] = *scale as u8;
        }
        for (b, lines) in group[288..].chunks_exact_mut(384).enumerate() {
            let (h, j) = (b / 4, b % 4);
            let low: [u8; 32] = std::array::from_fn(|i| self.ql[64 * h + 32 * (j % 2) + i] >> (4 * (j / 2)) & 15);
            let high: [u8; 32] = std::array::from_fn(|i| self.qh[32 * h + i]);
            nibbles(&low, row, lines);
            two_bits(&high, 2 * j as u32, row, &mut lines[256..]);
        }
    }
}

impl Pack for BlockQ2_K {
    const DTYPE: DType = DType::Q2_K;

    fn pack(&self, row: usize, group: &mut [u8]) {
        half(self.d, row, group);
        half(self.dmin, row, &mut group[32..]);
        for (k, scale) in self.scales.iter().enumerate() {
            group[64 + 16 * k + row] = *scale;
        }
        for (b, lines) in group[320..].chunks_exact_mut(128).enumerate() {
            two_bits(&quarter(&self.qs, b), 2 * (b % 4) as u32, row, lines);
        }
    }
}

impl Pack for BlockQ3_K {
    const DTYPE: DType = DType::Q3_K;

    fn pack(&self, row: usize, group: &mut [u8]) {
        half(self.d, row, group);
        for (k, scale) in k::scales3(&self.scales).into_iter().enumerate() {
            let scale = (scale + 32) as u8;
            group[32 + 16 * (k % 8) + row] |= (scale & 15) << (4 * (k / 8));
            group[160 + 16 * (k % 4) + row] |= (scale >> 4) << (2 * (k / 4));
        }
        for (b, lines) in group[224..].chunks_exact_mut(192).enumerate() {
            two_bits(&quarter(&self.qs, b), 2 * (b % 4) as u32, row, lines);
            bits(&self.hmask, b as u32, row, &mut lines[128..]);
        }
    }
}

/// The 32 bytes that hold the two-bit codes of sub-block `b` of Q2_K or Q3_K.
fn quarter(qs: &[u8; 64], b: usize) -> [u8; 32] {
    std::array::from_fn(|i| qs[32 * (b / 4) + i])
}

impl Pack for BlockQ8_K {
    const DTYPE: DType = DType::Q8_K;
    const BYTES: usize = 4 + 256;

    fn pack(&self, row: usize, group: &mut [u8]) {
        group[4 * row..][..4].copy_from_slice(&self.d);
        let codes: &[u8; 256] = bytemuck::cast_ref(&self.qs);
        for (codes, lines) in codes.as_chunks().0.iter().zip(group[64..].chunks_exact_mut(512)) {
            bytes(codes, row, lines);
        }
    }
}

impl Pack for BlockIQ1_S {
    const DTYPE: DType = DType::IQ1_S;
    const BYTES: usize = 2 + 4 + 64;

    fn pack(&self, row: usize, group: &mut [u8]) {
        half(self.d, row, group);
        for (k, lines) in group[96..].chunks_exact_mut(128).enumerate() {
            let word = u16::from_le_bytes(self.qh[k]);
            let mut codes = [0; 32];
            for (i, codes) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let q = usize::from(self.qs[4 * k + i]) | usize::from(word >> (3 * i) & 7) << 8;
                *codes = grids::IQ1[q].to_le_bytes().map(|value| value.wrapping_add(1));
            }
            two_bits(&codes, 0, row, lines);
        }
        for k in 0..8 {
            group[32 + ROWS * (k % 4) + row] |= self.qh[k][1] >> 4 << (4 * (k / 4));
        }
    }
}
