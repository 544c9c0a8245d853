//! Formats of blocks that our kernels read: `TYPE_matmul`, `TYPE_experts` and `TYPE_decode`, from one text each in which only
//! `kernels/blocks/TYPE.h` differs. [`pack`] lays the blocks out. MLX has formats like some of them: which are whose, [`Reads`] says.

use mlxr_compute::matrix::MlxFloat;
use mlxr_compute::quant::grids;
use mlxr_compute::{DType, Encoding, MatrixData};

use super::pack::{self, Lanes, Planes, Source};
use super::source::Platform;
use super::tiles;

/// A format.
#[derive(Debug)]
pub struct Blocks {
    /// What has it.
    pub format: Format,
    /// Its name in kernels.
    pub name: &'static str,
    codes: Codes,
    /// What a lane has of a super-block.
    pub planes: Planes,
    /// A super-block as the lanes have it.
    pub(super) pack: fn(Source<'_>) -> Lanes,
}

/// What has a format.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Format {
    /// A GGUF type.
    Gguf(DType),
    /// bitsandbytes.
    Bnb4,
    /// MLX, with scales and biases of 16 bits: bits and group.
    Affine(u8, u16),
    /// MLX.
    Float(MlxFloat),
}

/// Of which matrices our kernels of blocks read the formats that they have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// Of none.
    Nothing,
    /// Of those in formats that MLX does not have.
    Foreign,
    /// Of those and of dense ones that `affine_tiles` does not read.
    Dense,
    /// Of all.
    All,
}

impl Reads {
    /// Of dense matrices where our kernels compute. Those of MLX are tuned on Metal, where its formats need not be laid out anew, and
    /// slow on CUDA.
    pub fn dense(platform: Option<Platform>) -> Reads {
        match platform {
            None => Reads::Nothing,
            Some(Platform::Metal) => Reads::Foreign,
            Some(Platform::Cuda) => Reads::Dense,
        }
    }

    /// Of experts, as [`Reads::dense`].
    pub fn experts(platform: Option<Platform>) -> Reads {
        match Reads::dense(platform) {
            Reads::Dense => Reads::All,
            other => other,
        }
    }
}

/// The kernels of ours that multiply by a matrix of rows of `n_in` weights, or by each of `stacked` ones; `None` where MLX's do.
pub fn multiplier(platform: Platform, encoding: Encoding, n_in: usize, stacked: bool) -> Option<&'static str> {
    let reads = if stacked { Reads::experts } else { Reads::dense };
    match encoding {
        Encoding::MlxAffine { bits, group, scale: DType::F16 | DType::BF16 }
            if !stacked && tiles::read(bits, group, n_in) =>
        {
            Some("affine_tiles")
        }
        _ => Blocks::of(encoding, n_in, reads(Some(platform))).map(|row| row.name),
    }
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

/// A row of the table: format, name, codes; quads, words, shorts, bytes of factors.
macro_rules! row {
    ($format:expr, $name:ident, $codes:expr, [$quads:literal, $words:literal, $shorts:literal, $tail:literal]) => {
        Blocks {
            format: $format,
            name: stringify!($name),
            codes: $codes,
            planes: Planes { quads: $quads, words: $words, group: 0, shorts: $shorts, tail: $tail },
            pack: pack::$name,
        }
    };
}

/// A row of integers of MLX: bits, group; name; quads, words.
macro_rules! affine {
    ($bits:literal, $group:literal, $name:ident, [$quads:literal, $words:literal]) => {
        Blocks {
            format: Format::Affine($bits, $group),
            name: stringify!($name),
            codes: Codes::None,
            planes: Planes { quads: $quads, words: $words, group: $group, shorts: 0, tail: 0 },
            pack: pack::$name,
        }
    };
}

/// Every format.
pub static BLOCKS: [Blocks; 34] = [
    row!(Format::Gguf(DType::Q2_K), q2_k, Codes::None, [1, 1, 0, 4]),
    row!(Format::Gguf(DType::Q3_K), q3_k, Codes::None, [1, 3, 0, 2]),
    row!(Format::Gguf(DType::Q6_K), q6_k, Codes::None, [3, 1, 0, 2]),
    row!(Format::Gguf(DType::IQ4_NL), iq4_nl, Codes::Bytes(&grids::IQ4_VALUES), [2, 1, 0, 0]),
    row!(Format::Gguf(DType::IQ4_XS), iq4_xs, Codes::Bytes(&grids::IQ4_VALUES), [2, 0, 1, 2]),
    row!(Format::Gguf(DType::IQ1_S), iq1_s, Codes::Threes(&grids::IQ1), [0, 3, 0, 2]),
    row!(Format::Gguf(DType::IQ1_M), iq1_m, Codes::Threes(&grids::IQ1), [0, 3, 1, 2]),
    row!(Format::Gguf(DType::IQ2_XXS), iq2_xxs, Codes::Eights(&grids::IQ2_XXS), [1, 0, 0, 2]),
    row!(Format::Gguf(DType::IQ2_XS), iq2_xs, Codes::Eights(&grids::IQ2_XS), [1, 0, 1, 2]),
    row!(Format::Gguf(DType::IQ2_S), iq2_s, Codes::Eights(&grids::IQ2_S), [1, 1, 0, 2]),
    row!(Format::Gguf(DType::IQ3_XXS), iq3_xxs, Codes::Fours(&grids::IQ3_XXS), [1, 2, 0, 2]),
    row!(Format::Gguf(DType::IQ3_S), iq3_s, Codes::Fours(&grids::IQ3_S), [1, 3, 0, 2]),
    row!(Format::Bnb4, bnb4, Codes::Own, [2, 1, 0, 0]),
    affine!(2, 32, affine2, [1, 0]),
    affine!(2, 64, affine2, [1, 0]),
    affine!(2, 128, affine2, [1, 0]),
    affine!(3, 32, affine3, [1, 2]),
    affine!(3, 64, affine3, [1, 2]),
    affine!(3, 128, affine3, [1, 2]),
    affine!(4, 32, affine4, [2, 0]),
    affine!(4, 64, affine4, [2, 0]),
    affine!(4, 128, affine4, [2, 0]),
    affine!(5, 32, affine5, [2, 2]),
    affine!(5, 64, affine5, [2, 2]),
    affine!(5, 128, affine5, [2, 2]),
    affine!(6, 32, affine6, [3, 0]),
    affine!(6, 64, affine6, [3, 0]),
    affine!(6, 128, affine6, [3, 0]),
    affine!(8, 32, affine8, [4, 0]),
    affine!(8, 64, affine8, [4, 0]),
    affine!(8, 128, affine8, [4, 0]),
    row!(Format::Float(MlxFloat::Mxfp4), mxfp4, Codes::None, [2, 0, 1, 0]),
    row!(Format::Float(MlxFloat::Nvfp4), nvfp4, Codes::None, [2, 1, 0, 0]),
    row!(Format::Float(MlxFloat::Mxfp8), mxfp8, Codes::None, [4, 0, 1, 0]),
];

/// If a kernel of this name reads a format that MLX has.
pub(super) fn of_mlx(name: &str) -> bool {
    BLOCKS.iter().any(|row| row.is_mlx() && name.strip_prefix(row.name).is_some_and(|rest| rest.starts_with('_')))
}

impl Blocks {
    /// The row of an encoding of rows of `n_in` weights, if it has one and it is to be read.
    pub fn of(encoding: Encoding, n_in: usize, reads: Reads) -> Option<&'static Blocks> {
        let format = match encoding {
            Encoding::Blocks(dtype) => Format::Gguf(dtype),
            Encoding::Bnb4 { block, .. } if block.is_multiple_of(32) && n_in.is_multiple_of(32) => Format::Bnb4,
            // The kernels have f16, to which f32 would be rounded.
            Encoding::MlxAffine { bits, group, scale: DType::F16 | DType::BF16 } => Format::Affine(bits, group),
            Encoding::MlxFloat(kind) if n_in.is_multiple_of(32) => Format::Float(kind),
            _ => return None,
        };
        let tiled = matches!(format, Format::Affine(bits, group) if tiles::read(bits, group, n_in));
        let row = BLOCKS.iter().find(|row| row.format == format)?;
        let is_read = match reads {
            Reads::Nothing => false,
            Reads::Foreign => !row.is_mlx(),
            Reads::Dense => !tiled,
            Reads::All => true,
        };
        is_read.then_some(row)
    }

    /// If MLX has the format too.
    pub fn is_mlx(&self) -> bool {
        matches!(self.format, Format::Affine(..) | Format::Float(_))
    }

    /// If its kernels compute what this matrix says, exactly but for what an f16 rounds: scales of floats may be beyond it.
    pub fn holds(&self, data: &MatrixData) -> bool {
        match self.format {
            Format::Float(kind) => pack::holds(kind, data),
            _ => true,
        }
    }

    /// If each matrix brings a codebook along.
    pub fn has_own_codes(&self) -> bool {
        matches!(self.codes, Codes::Own)
    }

    /// Weights of which rows are multiples.
    pub fn block(&self) -> usize {
        match self.format {
            Format::Gguf(dtype) => dtype.block(),
            Format::Affine(_, group) => usize::from(group),
            Format::Bnb4 | Format::Float(_) => 32,
        }
    }

    /// The constant GROUP of its kernels.
    pub fn group(&self) -> u32 {
        self.planes.group.max(32) as u32
    }

    /// The matrices as kernels take them, one after the other: rows of [`Planes::row_bytes`].
    pub fn packed<'a>(&self, data: impl IntoIterator<Item = &'a MatrixData>) -> Vec<u8> {
        pack::packed(self, &data.into_iter().collect::<Vec<_>>())
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
