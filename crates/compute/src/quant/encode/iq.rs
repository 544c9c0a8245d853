//! Encoders of IQ1, IQ2 and IQ3: what each packs where. The search is in [`super::codes`].

use super::super::float::Half;
use super::super::{Block, grids};
use super::codes::{Codebook, Format, Found, Search, Signs, Tables};
use super::nested::super_weights;
use crate::quant::{BlockIQ1_M, BlockIQ1_S, BlockIQ2_S, BlockIQ2_XS, BlockIQ2_XXS, BlockIQ3_S, BlockIQ3_XXS};

/// A block whose codes index a codebook of vectors.
pub(super) trait Codes: Block<256> {
    /// What is searched.
    const FORMAT: Format;
    /// Vectors of the codebook.
    const N: usize;
    /// Value `dim` of vector `code`.
    fn value(code: usize, dim: usize) -> f32;
    /// Packs what was found.
    fn pack(found: &Found) -> Self;
}

/// Encodes whole blocks.
#[inline(always)]
pub(super) fn blocks<B: Codes>(weights: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
    let book = Codebook::new(&B::FORMAT, B::N, B::value);
    let mut tables = Tables::new(&B::FORMAT, &book);
    for (i, x) in weights.as_chunks::<256>().0.iter().enumerate() {
        let importance = super::columns_of(importance, i);
        let w = super_weights(x, importance);
        let found = Search::new((&B::FORMAT, &book, &mut tables), x, &w).run();
        out.extend_from_slice(bytemuck::bytes_of(&B::pack(&found)));
    }
}

/// Seven bits of signs of each eight weights of 32, then the scale.
#[inline(always)]
fn signs_and_scale(found: &Found, sub: usize) -> [u8; 4] {
    let signs = (0..4).fold(0, |word, k| word | u32::from(found.signs[4 * sub + k] & 127) << (7 * k));
    (signs | u32::from(found.scales[sub]) << 28).to_le_bytes()
}

/// Two scales in each byte.
#[inline(always)]
fn nibbles<const N: usize>(scales: &[u8]) -> [u8; N] {
    std::array::from_fn(|k| scales[2 * k] | scales[2 * k + 1] << 4)
}

impl Codes for BlockIQ2_XXS {
    const FORMAT: Format = Format { dims: 8, groups: 4, n_scale: 16, unit: 0.125, signs: Signs::Even };
    const N: usize = 256;

    #[inline(always)]
    fn value(code: usize, dim: usize) -> f32 {
        f32::from(grids::IQ2_XXS[code].to_le_bytes()[dim])
    }

    #[inline(always)]
    fn pack(found: &Found) -> Self {
        let of_sub = |sub: usize| {
            let [a, b, c, d] = signs_and_scale(found, sub);
            let code = |k: usize| found.codes[4 * sub + k] as u8;
            [code(0), code(1), code(2), code(3), a, b, c, d]
        };
        BlockIQ2_XXS { d: found.d, qs: std::array::from_fn(of_sub) }
    }
}

impl Codes for BlockIQ2_XS {
    const FORMAT: Format = Format { dims: 8, groups: 2, n_scale: 16, unit: 0.125, signs: Signs::Even };
    const N: usize = 512;

    #[inline(always)]
    fn value(code: usize, dim: usize) -> f32 {
        f32::from(grids::IQ2_XS[code].to_le_bytes()[dim])
    }

    #[inline(always)]
    fn pack(found: &Found) -> Self {
        let code = |k: usize| (found.codes[k] | u16::from(found.signs[k] & 127) << 9).to_le_bytes();
        BlockIQ2_XS { d: found.d, qs: std::array::from_fn(code), scales: nibbles(&found.scales) }
    }
}

impl Codes for BlockIQ2_S {
    const FORMAT: Format = Format { dims: 8, groups: 2, n_scale: 16, unit: 0.125, signs: Signs::Free };
    const N: usize = 1024;

    #[inline(always)]
    fn value(code: usize, dim: usize) -> f32 {
        f32::from(grids::IQ2_S[code].to_le_bytes()[dim])
    }

    #[inline(always)]
    fn pack(found: &Found) -> Self {
        let high = |i: usize| (0..4).fold(0, |byte, k| byte | (found.codes[4 * i + k] >> 8) << (2 * k)) as u8;
        BlockIQ2_S {
            d: found.d,
            qs: std::array::from_fn(|k| found.codes[k] as u8),
            signs: found.signs,
            qh: std::array::from_fn(high),
            scales: nibbles(&found.scales),
        }
    }
}

impl Codes for BlockIQ3_XXS {
    const FORMAT: Format = Format { dims: 4, groups: 8, n_scale: 16, unit: 0.25, signs: Signs::Even };
    const N: usize = 256;

    #[inline(always)]
    fn value(code: usize, dim: usize) -> f32 {
        f32::from(grids::IQ3_XXS[code].to_le_bytes()[dim])
    }

    #[inline(always)]
    fn pack(found: &Found) -> Self {
        BlockIQ3_XXS {
            d: found.d,
            qs: std::array::from_fn(|k| found.codes[k] as u8),
            signs: std::array::from_fn(|sub| signs_and_scale(found, sub)),
        }
    }
}

impl Codes for BlockIQ3_S {
    const FORMAT: Format = Format { dims: 4, groups: 8, n_scale: 16, unit: 1.0, signs: Signs::Free };
    const N: usize = 512;

    #[inline(always)]
    fn value(code: usize, dim: usize) -> f32 {
        f32::from(grids::IQ3_S[code].to_le_bytes()[dim])
    }

    #[inline(always)]
    fn pack(found: &Found) -> Self {
        let high = |i: usize| (0..8).fold(0, |byte, k| byte | (found.codes[8 * i + k] >> 8) << k) as u8;
        BlockIQ3_S {
            d: found.d,
            qs: std::array::from_fn(|k| found.codes[k] as u8),
            qh: std::array::from_fn(high),
            signs: found.signs,
            scales: nibbles(&found.scales),
        }
    }
}

#[inline(always)]
fn value1(code: usize, dim: usize) -> f32 {
    f32::from(grids::IQ1[code].to_le_bytes()[dim] as i8)
}

impl Codes for BlockIQ1_S {
    const FORMAT: Format = Format { dims: 8, groups: 4, n_scale: 8, unit: 1.0, signs: Signs::ShiftOfSub };
    const N: usize = 2048;

    #[inline(always)]
    fn value(code: usize, dim: usize) -> f32 {
        value1(code, dim)
    }

    #[inline(always)]
    fn pack(found: &Found) -> Self {
        let word = |sub: usize| {
            let high = (0..4).fold(0, |word, k| word | (found.codes[4 * sub + k] >> 8) << (3 * k));
            let down = u16::from(found.down[4 * sub]) << 15;
            (high | u16::from(found.scales[sub]) << 12 | down).to_le_bytes()
        };
        BlockIQ1_S { d: found.d, qs: std::array::from_fn(|k| found.codes[k] as u8), qh: std::array::from_fn(word) }
    }
}

impl Codes for BlockIQ1_M {
    const FORMAT: Format = Format { dims: 8, groups: 2, n_scale: 8, unit: 1.0, signs: Signs::ShiftOfGroup };
    const N: usize = 2048;

    #[inline(always)]
    fn value(code: usize, dim: usize) -> f32 {
        value1(code, dim)
    }

    #[inline(always)]
    fn pack(found: &Found) -> Self {
        let nibble = |k: usize| (found.codes[k] >> 8) as u8 | u8::from(found.down[k]) << 3;
        let Half(d) = found.d;
        let word = |k: usize| {
            let scales = (0..4).fold(0, |word, i| word | u16::from(found.scales[4 * k + i]) << (3 * i));
            (scales | (u16::from_le_bytes(d) >> (4 * k) & 15) << 12).to_le_bytes()
        };
        BlockIQ1_M {
            qs: std::array::from_fn(|k| found.codes[k] as u8),
            qh: std::array::from_fn(|k| nibble(2 * k) | nibble(2 * k + 1) << 4),
            scales: std::array::from_fn(word),
        }
    }
}
