//! GPTQ, which stores the transposed matrix: packed words run along the outputs.
//!
//! ```text
//! qweight  [n_in * bits / 32, n_out] u32       column j is a little-endian stream of bits over the inputs
//! qzeros   [n_group, n_out * bits / 32] u32    a row is such a stream over the outputs
//! scales   [n_group, n_out]
//! w[j][i] = scale[g][j] * (q - zero[g][j])     g = g_idx[i], or i / group
//! ```
//!
//! "v1" files store `zero - 1` modulo `2^bits`, so a stored 15 of 4 bits means 0.
//!
//! Source: AutoGPTQ `auto_gptq/nn_modules/qlinear/qlinear_cuda_old.py` (which masks `zero + 1` as here);
//! GPTQModel `checkpoint_format`.

use super::mlx::unpack_bits;
use super::parts::groups;
use super::transposed::{Grid, grid_line, weights};
use crate::{DType, MatrixData};

/// Outputs decoded at a time: their words of one row are four cache lines.
const BAND: usize = 64;

/// The format of a GPTQ matrix.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gptq {
    pub bits: u8,
    pub group: u32,
    pub zero_plus_one: bool,
    pub scale: DType,
}

/// Group of each input.
pub(super) fn group_index(matrix: &MatrixData, group: u32) -> Vec<u32> {
    match &matrix.parts[3] {
        ids if ids.is_empty() => (0..matrix.n_in).map(|i| (i / group as usize) as u32).collect(),
        ids => ids.as_chunks::<4>().0.iter().map(|id| u32::from_le_bytes(*id)).collect(),
    }
}

/// Whether input `i` is of group `i / group`: no act-order, though files without it list their groups too.
pub(super) fn in_order(matrix: &MatrixData, group: u32) -> bool {
    let index = group_index(matrix, group);
    index.iter().enumerate().all(|(i, &g)| g as usize == i / group as usize)
}

/// The zeros of group `g` of `n_row` outputs from `first`.
pub(super) fn zeros(matrix: &MatrixData, format: Gptq, g: usize, [first, n_row]: [usize; 2]) -> Vec<u8> {
    let bits = usize::from(format.bits);
    let line_bytes = matrix.n_out * bits / 8;
    // Whole eights of codes, which are whole bytes, around the rows; 8-bit lines may end in half an eight.
    let (from, to) = (first / 8 * 8, (first + n_row).next_multiple_of(8));
    let (start, end) = (from * bits / 8, line_bytes.min(to * bits / 8));
    let mut bytes = matrix.parts[1][g * line_bytes..][start..end].to_vec();
    bytes.resize((to - from) * bits / 8, 0);
    let mut zeros = vec![0; to - from];
    unpack_bits(format.bits, &bytes, &mut zeros);
    zeros.drain(..first - from);
    zeros.truncate(n_row);
    if format.zero_plus_one {
        let mask = 0xff >> (8 - format.bits);
        zeros.iter_mut().for_each(|zero| *zero = zero.wrapping_add(1) & mask);
    }
    zeros
}

/// Rows from `first` on, as many as fill `out`.
pub(super) fn decode(matrix: &MatrixData, format: Gptq, first: usize, out: &mut [f32]) {
    let n_in = matrix.n_in;
    let index = group_index(matrix, format.group);
    for (band, out) in out.chunks_mut(BAND * n_in).enumerate() {
        let (first, n_row) = (first + band * BAND, out.len() / n_in);
        let mut grid = Grid::new(n_row, groups(n_in, format.group));
        for g in 0..grid.n_group {
            let rows = [first, n_row];
            grid.set(g, &grid_line(matrix, format.scale, g, rows), &zeros(matrix, format, g, rows));
        }
        for (chunk, index) in index.chunks(32).enumerate() {
            for r in 0..n_row {
                let codes = codes(matrix, format.bits, chunk, first + r);
                let (scales, zeros) = grid.row(r);
                weights(&mut out[r * n_in + 32 * chunk..][..index.len()], &codes, index, scales, zeros);
            }
        }
    }
}

/// Codes of inputs `32 * chunk` to `32 * chunk + 31` of an output; those beyond the matrix are 0.
#[inline]
pub(super) fn codes(matrix: &MatrixData, bits: u8, chunk: usize, output: usize) -> [u8; 32] {
    let (qweight, per_chunk) = (&matrix.parts[0], usize::from(bits));
    let n_line = matrix.n_in * per_chunk / 32;
    let mut bytes = [0; 32];
    let lines = chunk * per_chunk..n_line.min((chunk + 1) * per_chunk);
    for (word, line) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(lines) {
        word.copy_from_slice(&qweight[4 * (line * matrix.n_out + output)..][..4]);
    }
    let mut codes = [0; 32];
    unpack_bits(bits, &bytes[..4 * per_chunk], &mut codes);
    codes
}
