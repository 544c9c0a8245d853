//! From the blocks of a file to panels: permutations of bits, no rounding.

use bytemuck::Pod;

use super::kernel::ROWS;
use crate::quant::*;
use crate::{DType, Encoding, MatrixData};

/// A GGUF block whose rows can lie side by side in a group of a panel.
pub(super) trait Pack: Pod {
    /// Its type.
    const DTYPE: DType;

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
    for (i, group) in panel.chunks_exact_mut(ROWS * size_of::<B>()).enumerate() {
        for row in 0..n {
            blocks[row * per_row + i].pack(row, group);
        }
    }
}

/// Packs rows of numbers of `SIZE` bytes: weight `k` of each row lies in line `k`.
pub(super) fn numbers<const SIZE: usize>(matrix: &MatrixData, first: usize, n: usize, panel: &mut [u8]) {
    let row_bytes = matrix.n_in * SIZE;
    for row in 0..n {
        let numbers = matrix.parts[0][(first + row) * row_bytes..][..row_bytes].as_chunks::<SIZE>().0;
        for (line, number) in panel.chunks_exact_mut(ROWS * SIZE).zip(numbers) {
            line[row * SIZE..][..SIZE].copy_from_slice(number);
        }
    }
}

/// Writes 32 codes of four bits as row `row` of nibble lines.
fn nibbles(codes: &[u8; 32], row: usize, lines: &mut [u8]) {
    for (g, line) in lines.chunks_exact_mut(64).take(4).enumerate() {
        for i in 0..4 {
            line[4 * row + i] = codes[4 * g + i] & 15 | codes[16 + 4 * g + i] << 4;
        }
    }
}

/// The codes of a block of 16 bytes whose low nibbles come first.
fn low_high(qs: &[u8; 16]) -> [u8; 32] {
    std::array::from_fn(|i| if i < 16 { qs[i] & 15 } else { qs[i - 16] >> 4 })
}

impl Pack for BlockQ4_0 {
    const DTYPE: DType = DType::Q4_0;

    fn pack(&self, row: usize, group: &mut [u8]) {
        group[2 * row..][..2].copy_from_slice(&self.d.0);
        nibbles(&low_high(&self.qs), row, &mut group[32..]);
    }
}
