//! Encoders of IQ1, IQ2 and IQ3: a row each, which says what is searched and what is packed where. The search is in
//! [`super::codes`].

use bytemuck::Pod;

use super::super::float::Half;
use super::super::grids;
use super::codes::{Found, Search, Tables};
use super::nested::super_weights;
use super::vectors::{Codebook, Format, Signs};
use super::{Blocks, columns_of};
use crate::DType;
use crate::quant::{BlockIQ1_M, BlockIQ1_S, BlockIQ2_S, BlockIQ2_XS, BlockIQ2_XXS, BlockIQ3_S, BlockIQ3_XXS};

/// A codebook as the format defines it.
#[derive(Debug, Clone, Copy)]
enum Grid {
    Eights(&'static [u64]),
    /// Bytes with a sign.
    Signed(&'static [u64]),
    Fours(&'static [u32]),
}

/// A type.
struct Row {
    dtype: DType,
    grid: Grid,
    format: Format,
    /// Appends the block.
    pack: fn(&Found, &mut Vec<u8>),
}

/// Levels of IQ2.
const TWO: &[f32] = &[8.0, 25.0, 43.0];
/// Levels of IQ1.
const ONE: &[f32] = &[-1.0, 0.0, 1.0];

static ROWS: [Row; 7] = [
    Row {
        dtype: DType::IQ2_XXS,
        grid: Grid::Eights(&grids::IQ2_XXS),
        format: Format {
            levels: TWO,
            groups: 4,
            n_scale: 16,
            unit: 0.125,
            signs: Signs::Even,
            reaches: &[0.8, 0.95, 1.1, 1.28, 1.5],
        },
        pack: |found, out| {
            let of_sub = |sub: usize| {
                let [a, b, c, d] = signs_and_scale(found, sub);
                let code = |k: usize| found.codes[4 * sub + k] as u8;
                [code(0), code(1), code(2), code(3), a, b, c, d]
            };
            push(BlockIQ2_XXS { d: found.d, qs: std::array::from_fn(of_sub) }, out);
        },
    },
    Row {
        dtype: DType::IQ2_XS,
        grid: Grid::Eights(&grids::IQ2_XS),
        format: Format {
            levels: TWO,
            groups: 2,
            n_scale: 16,
            unit: 0.125,
            signs: Signs::Even,
            reaches: &[0.78, 0.92, 1.08, 1.25, 1.5],
        },
        pack: |found, out| {
            let code = |k: usize| (found.codes[k] | u16::from(found.signs[k] & 127) << 9).to_le_bytes();
            let qs = std::array::from_fn(code);
            push(BlockIQ2_XS { d: found.d, qs, scales: nibbles(&found.scales) }, out);
        },
    },
    Row {
        dtype: DType::IQ2_S,
        grid: Grid::Eights(&grids::IQ2_S),
        format: Format {
            levels: TWO,
            groups: 2,
            n_scale: 16,
            unit: 0.125,
            signs: Signs::Free,
            reaches: &[0.85, 1.0, 1.18, 1.4],
        },
        pack: |found, out| {
            let high = |i: usize| (0..4).fold(0, |byte, k| byte | (found.codes[4 * i + k] >> 8) << (2 * k)) as u8;
            let (qs, qh) = (low_bytes(found), std::array::from_fn(high));
            push(BlockIQ2_S { d: found.d, qs, signs: found.signs, qh, scales: nibbles(&found.scales) }, out);
        },
    },
    Row {
        dtype: DType::IQ3_XXS,
        grid: Grid::Fours(&grids::IQ3_XXS),
        format: Format {
            levels: &[4.0, 12.0, 20.0, 28.0, 36.0, 44.0, 52.0, 62.0],
            groups: 8,
            n_scale: 16,
            unit: 0.25,
            signs: Signs::Even,
            reaches: &[0.8, 0.93, 1.06, 1.2],
        },
        pack: |found, out| {
            let signs = std::array::from_fn(|sub| signs_and_scale(found, sub));
            push(BlockIQ3_XXS { d: found.d, qs: low_bytes(found), signs }, out);
        },
    },
    Row {
        dtype: DType::IQ3_S,
        grid: Grid::Fours(&grids::IQ3_S),
        format: Format {
            levels: &[1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0],
            groups: 8,
            n_scale: 16,
            unit: 1.0,
            signs: Signs::Free,
            reaches: &[0.85, 1.0, 1.15],
        },
        pack: |found, out| {
            let high = |i: usize| (0..8).fold(0, |byte, k| byte | (found.codes[8 * i + k] >> 8) << k) as u8;
            let (qs, qh) = (low_bytes(found), std::array::from_fn(high));
            push(BlockIQ3_S { d: found.d, qs, qh, signs: found.signs, scales: nibbles(&found.scales) }, out);
        },
    },
    Row {
        dtype: DType::IQ1_S,
        grid: Grid::Signed(&grids::IQ1),
        format: Format {
            levels: ONE,
            groups: 4,
            n_scale: 8,
            unit: 1.0,
            signs: Signs::ShiftOfSub,
            reaches: &[1.0, 1.25, 1.5, 1.8],
        },
        pack: |found, out| {
            let word = |sub: usize| {
                let high = (0..4).fold(0, |word, k| word | (found.codes[4 * sub + k] >> 8) << (3 * k));
                let down = u16::from(found.down[4 * sub]) << 15;
                (high | u16::from(found.scales[sub]) << 12 | down).to_le_bytes()
            };
            push(BlockIQ1_S { d: found.d, qs: low_bytes(found), qh: std::array::from_fn(word) }, out);
        },
    },
    Row {
        dtype: DType::IQ1_M,
        grid: Grid::Signed(&grids::IQ1),
        format: Format {
            levels: ONE,
            groups: 2,
            n_scale: 8,
            unit: 1.0,
            signs: Signs::ShiftOfGroup,
            reaches: &[1.0, 1.3, 1.65],
        },
        pack: |found, out| {
            let nibble = |k: usize| (found.codes[k] >> 8) as u8 | u8::from(found.down[k]) << 3;
            let Half(d) = found.d;
            let word = |k: usize| {
                let scales = (0..4).fold(0, |word, i| word | u16::from(found.scales[4 * k + i]) << (3 * i));
                (scales | (u16::from_le_bytes(d) >> (4 * k) & 15) << 12).to_le_bytes()
            };
            let qh = std::array::from_fn(|k| nibble(2 * k) | nibble(2 * k + 1) << 4);
            push(BlockIQ1_M { qs: low_bytes(found), qh, scales: std::array::from_fn(word) }, out);
        },
    },
];

fn push<B: Pod>(block: B, out: &mut Vec<u8>) {
    out.extend_from_slice(bytemuck::bytes_of(&block));
}

/// The low eight bits of codes.
fn low_bytes<const N: usize>(found: &Found) -> [u8; N] {
    std::array::from_fn(|k| found.codes[k] as u8)
}

/// Seven bits of signs of each eight weights of 32, then the scale.
fn signs_and_scale(found: &Found, sub: usize) -> [u8; 4] {
    let signs = (0..4).fold(0, |word, k| word | u32::from(found.signs[4 * sub + k] & 127) << (7 * k));
    (signs | u32::from(found.scales[sub]) << 28).to_le_bytes()
}

/// Two scales in each byte.
fn nibbles<const N: usize>(scales: &[u8]) -> [u8; N] {
    std::array::from_fn(|k| scales[2 * k] | scales[2 * k + 1] << 4)
}

/// Whether a type is one of these.
pub(super) fn has(dtype: DType) -> bool {
    ROWS.iter().any(|row| row.dtype == dtype)
}

/// The encoder of a type with vectors of `DIMS` weights.
pub(super) struct Vectors<const DIMS: usize, const LEVELS: usize, const ROW: usize> {
    book: Codebook<DIMS, LEVELS, ROW>,
    pack: fn(&Found, &mut Vec<u8>),
}

/// Vectors of eight weights with three levels.
pub(super) type Eights = Vectors<8, 3, 16>;
/// Vectors of four weights with eight levels.
pub(super) type Fours = Vectors<4, 8, 8>;

impl<const DIMS: usize, const LEVELS: usize, const ROW: usize> Vectors<DIMS, LEVELS, ROW> {
    /// The encoder of a type; `None` if that has no such vectors.
    pub(super) fn of(dtype: DType) -> Option<Self> {
        let row = ROWS.iter().find(|row| row.dtype == dtype)?;
        let book = match (row.grid, DIMS) {
            (Grid::Eights(grid), 8) => {
                Codebook::new(&row.format, grid.len(), |code, dim| f32::from(grid[code].to_le_bytes()[dim]))
            }
            (Grid::Signed(grid), 8) => {
                Codebook::new(&row.format, grid.len(), |code, dim| f32::from(grid[code].to_le_bytes()[dim] as i8))
            }
            (Grid::Fours(grid), 4) => {
                Codebook::new(&row.format, grid.len(), |code, dim| f32::from(grid[code].to_le_bytes()[dim]))
            }
            _ => return None,
        };
        Some(Vectors { book, pack: row.pack })
    }
}

impl<const DIMS: usize, const LEVELS: usize, const ROW: usize> Blocks for Vectors<DIMS, LEVELS, ROW> {
    #[inline(always)]
    fn blocks(&self, weights: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
        let mut tables = Tables::new();
        for (i, x) in weights.as_chunks::<256>().0.iter().enumerate() {
            let w = super_weights(x, columns_of(importance, i));
            let found = Search::new((&self.book, &mut tables), x, &w).run();
            (self.pack)(&found, out);
        }
    }
}
