//! AWQ ("GEMM" layout), which stores the transposed matrix: packed words run along the outputs.
//!
//! ```text
//! qweight  [n_in, n_out / 8] u32      nibble n of a word is output 8 * column + [0 2 4 6 1 3 5 7][n]
//! qzeros   [n_group, n_out / 8] u32   the same
//! scales   [n_group, n_out]
//! w[j][i] = scale[i / group][j] * (q - zero[i / group][j])
//! ```
//!
//! Source: AutoAWQ `awq/utils/packing_utils.py`, `awq/modules/linear/gemm.py`.

use super::parts::groups;
use super::transposed::{Grid, grid_line, weights};
use crate::{DType, MatrixData};

/// Outputs decoded at a time: their words of one row are a cache line.
const BAND: usize = 128;
/// Inputs decoded at a time.
const TILE: usize = 64;
/// Output within its eight that nibble n of a word holds.
const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// The eight codes of a word, in the order of outputs.
#[inline]
fn unpack(word: [u8; 4]) -> [u8; 8] {
    let word = u32::from_le_bytes(word);
    let mut codes = [0; 8];
    for (n, output) in ORDER.into_iter().enumerate() {
        codes[output] = (word >> (4 * n)) as u8 & 15;
    }
    codes
}

/// The word of eight codes in the order of outputs.
#[inline]
pub(super) fn pack(codes: [u8; 8]) -> [u8; 4] {
    let nibbles = ORDER.iter().enumerate().map(|(n, &output)| u32::from(codes[output]) << (4 * n));
    nibbles.fold(0, |word, nibble| word | nibble).to_le_bytes()
}

/// The codes of line `i` of `qweight` or `qzeros` of `n_row` outputs from `first`.
pub(super) fn line(words: &[u8], n_out: usize, i: usize, [first, n_row]: [usize; 2]) -> Vec<u8> {
    let words = &words[i * (n_out / 2)..][first / 8 * 4..(first + n_row).div_ceil(8) * 4];
    let mut codes: Vec<u8> = words.as_chunks::<4>().0.iter().flat_map(|word| unpack(*word)).collect();
    codes.drain(..first % 8);
    codes.truncate(n_row);
    codes
}

/// Rows from `first` on, as many as fill `out`.
pub(super) fn decode(matrix: &MatrixData, group: u32, scale: DType, first: usize, out: &mut [f32]) {
    let n_in = matrix.n_in;
    let index: Vec<u32> = (0..n_in).map(|i| (i / group as usize) as u32).collect();
    for (band, out) in out.chunks_mut(BAND * n_in).enumerate() {
        let (first, n_row) = (first + band * BAND, out.len() / n_in);
        let mut grid = Grid::new(n_row, groups(n_in, group));
        for g in 0..grid.n_group {
            let zeros = line(&matrix.parts[1], matrix.n_out, g, [first, n_row]);
            grid.set(g, &grid_line(matrix, scale, g, [first, n_row]), &zeros);
        }
        for (tile, index) in index.chunks(TILE).enumerate() {
            for column in first / 8..(first + n_row).div_ceil(8) {
                let codes = tile_codes(matrix, [TILE * tile, index.len()], column);
                let rows = (8 * column).max(first)..(8 * column + 8).min(first + n_row);
                for output in rows {
                    let r = output - first;
                    let (scales, zeros) = grid.row(r);
                    let out = &mut out[r * n_in + TILE * tile..][..index.len()];
                    weights(out, &codes[output % 8], index, scales, zeros);
                }
            }
        }
    }
}

/// Codes of inputs `32 * run` to `32 * run + 31` of an output.
pub(super) fn codes(matrix: &MatrixData, run: usize, output: usize) -> [u8; 32] {
    let line_bytes = matrix.n_out / 2;
    let nibble = ORDER.iter().position(|o| *o == output % 8).expect("ORDER has every output of eight");
    std::array::from_fn(|i| {
        let byte = matrix.parts[0][(32 * run + i) * line_bytes + output / 8 * 4 + nibble / 2];
        byte >> (4 * (nibble % 2)) & 15
    })
}

/// Codes of `n` inputs from `from` of the eight outputs of a column of words.
fn tile_codes(matrix: &MatrixData, [from, n]: [usize; 2], column: usize) -> [[u8; TILE]; 8] {
    let line_bytes = matrix.n_out / 2;
    let mut codes = [[0; TILE]; 8];
    for t in 0..n {
        let word = &matrix.parts[0][(from + t) * line_bytes + 4 * column..][..4];
        let eight = unpack(word.try_into().expect("a slice of four bytes"));
        for (codes, code) in codes.iter_mut().zip(eight) {
            codes[t] = code;
        }
    }
    codes
}
