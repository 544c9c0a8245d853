//! Formats of blocks that MLX has none for and our kernels read: `TYPE_matmul` and `TYPE_decode`, from one text each in which only
//! `kernels/blocks/TYPE.h` differs. [`pack`] lays the blocks out.

use mlxr_compute::quant::grids;
use mlxr_compute::{DType, Encoding, MatrixData};

use super::pack::{self, Lanes, Planes, Source};

/// A format.
#[derive(Debug)]
pub struct Blocks {
    /// The GGUF type; `None`: bitsandbytes.
    pub dtype: Option<DType>,
    /// Its name in kernels.
    pub name: &'static str,
    codes: Codes,
    /// What a lane has of a super-block.
    pub planes: Planes,
    /// A super-block as the lanes have it.
    pub(super) pack: fn(Source<'_>) -> Lanes,
}

/// What a format's codes index.
#[derive(Debug)]
enum Codes {
    /// Nothing: they are numbers.
    None,
    /// Bytes.
    Bytes(&'static [i8; 16]),
    /// Numbers that a matrix brings along.
    Own,
    /// Vectors of eight.
    Eights(&'static [u64]),
    /// Vectors of eight of -1, 0, 1.
    Threes(&'static [u64]),
    /// Vectors of four.
    Fours(&'static [u32]),
}

/// A row of the table: type, name, codes; quads, words, shorts, bytes of factors.
macro_rules! row {
    ($dtype:expr, $name:ident, $codes:expr, [$quads:literal, $words:literal, $shorts:literal, $tail:literal]) => {
        Blocks {
            dtype: $dtype,
            name: stringify!($name),
            codes: $codes,
            planes: Planes { quads: $quads, words: $words, shorts: $shorts, tail: $tail },
            pack: pack::$name,
        }
    };
}

/// Every format.
pub static BLOCKS: [Blocks; 13] = [
    row!(Some(DType::Q2_K), q2_k, Codes::None, [1, 1, 0, 4]),
    row!(Some(DType::Q3_K), q3_k, Codes::None, [1, 3, 0, 2]),
    row!(Some(DType::Q6_K), q6_k, Codes::None, [3, 1, 0, 2]),
    row!(Some(DType::IQ4_NL), iq4_nl, Codes::Bytes(&grids::IQ4_VALUES), [2, 1, 0, 0]),
    row!(Some(DType::IQ4_XS), iq4_xs, Codes::Bytes(&grids::IQ4_VALUES), [2, 0, 1, 2]),
    row!(Some(DType::IQ1_S), iq1_s, Codes::Threes(&grids::IQ1), [0, 3, 0, 2]),
    row!(Some(DType::IQ1_M), iq1_m, Codes::Threes(&grids::IQ1), [0, 3, 1, 2]),
    row!(Some(DType::IQ2_XXS), iq2_xxs, Codes::Eights(&grids::IQ2_XXS), [1, 0, 0, 2]),
    row!(Some(DType::IQ2_XS), iq2_xs, Codes::Eights(&grids::IQ2_XS), [1, 0, 1, 2]),
    row!(Some(DType::IQ2_S), iq2_s, Codes::Eights(&grids::IQ2_S), [1, 1, 0, 2]),
    row!(Some(DType::IQ3_XXS), iq3_xxs, Codes::Fours(&grids::IQ3_XXS), [1, 2, 0, 2]),
    row!(Some(DType::IQ3_S), iq3_s, Codes::Fours(&grids::IQ3_S), [1, 3, 0, 2]),
    row!(None, bnb4, Codes::Own, [2, 1, 0, 0]),
];

impl Blocks {
    /// The row of an encoding of rows of `n_in` weights, if it has one.
    pub fn of(encoding: Encoding, n_in: usize) -> Option<&'static Blocks> {
        let dtype = match encoding {
            Encoding::Blocks(dtype) => Some(dtype),
            Encoding::Bnb4 { block, .. } if block.is_multiple_of(32) && n_in.is_multiple_of(32) => None,
            _ => return None,
        };
        BLOCKS.iter().find(|row| row.dtype == dtype)
    }

    /// The matrix as kernels take it: rows of [`Planes::row_bytes`].
    pub fn packed(&self, data: &MatrixData) -> Vec<u8> {
        pack::packed(self, data)
    }

    /// The codebook as kernels take it: at least eight words.
    pub fn codes(&self, data: &MatrixData) -> Vec<u32> {
        let mut codes = match self.codes {
            Codes::None => Vec::new(),
            Codes::Bytes(values) => words(&values.map(|x| x as u8 ^ 128)),
            Codes::Own => {
                let values = data.parts[2].as_chunks::<4>().0.iter();
                let halves: Vec<[u8; 2]> =
                    values.map(|x| half::f16::from_f32(f32::from_le_bytes(*x)).to_le_bytes()).collect();
                [0, 1].iter().flat_map(|&i| words(&halves.iter().map(|half| half[i]).collect::<Vec<u8>>())).collect()
            }
            Codes::Eights(grid) => grid
                .iter()
                .flat_map(|eight| {
                    let e = eight.to_le_bytes();
                    [[e[0], e[1], e[4], e[5]], [e[2], e[3], e[6], e[7]]].map(u32::from_le_bytes)
                })
                .collect(),
            Codes::Threes(grid) => grid
                .iter()
                .map(|eight| {
                    let code = |(i, x): (usize, u8)| u32::from(x.wrapping_add(1)) << (2 * (i % 4) + 16 * (i / 4));
                    eight.to_le_bytes().into_iter().enumerate().map(code).sum()
                })
                .collect(),
            Codes::Fours(grid) => grid.to_vec(),
        };
        codes.resize(codes.len().max(8), 0);
        codes
    }
}

/// Bytes as words.
fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(*four)).collect()
}
