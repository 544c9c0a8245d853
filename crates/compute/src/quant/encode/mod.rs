//! f32 to GGUF types: round to nearest, with a least-squares search for scales where the format leaves a choice.
//!
//! | module | types |
//! |---|---|
//! | `simple` | Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q1_0 Q2_0 TQ1_0 TQ2_0: without importance (but Q2_0) the bytes equal ggml's reference |
//! | `k` | Q2_K Q3_K Q4_K Q5_K Q6_K |
//! | `codebook` | IQ4_NL IQ4_XS MXFP4 NVFP4 |
//! | `iq` | IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S |
//! | `codes` | their search: scales and vectors of a codebook |
//! | `mlx` | MLX affine, mxfp4, mxfp8, nvfp4: [`encode_parts`] |
//! | `search` | the least-squares searches of one block that these share |
//! | `nested` | scales of scales: a super-block's scales as small integers times one f16 |
//!
//! *Importance* is a weight per input column, the mean square of its activations. A search makes the sum of
//! `importance * sqrt(2 * mean square of the block + weight^2) * (weight - decoded)^2` small, as ggml's do.

mod codebook;
mod codes;
mod iq;
mod k;
mod mlx;
mod nested;
mod search;
mod simple;

pub use mlx::encode_parts;
pub(super) use simple::{fifth_bits, nibbles};

use std::marker::PhantomData;

use half::slice::HalfFloatSliceExt;

use super::Block;
use super::{BlockIQ1_M, BlockIQ1_S, BlockIQ2_S, BlockIQ2_XS, BlockIQ2_XXS, BlockIQ3_S, BlockIQ3_XXS};
use super::{BlockIQ4_NL, BlockIQ4_XS, BlockMXFP4, BlockNVFP4, BlockTQ1_0, BlockTQ2_0};
use super::{BlockQ1_0, BlockQ2_0};
use super::{
    BlockQ2_K, BlockQ3_K, BlockQ4_0, BlockQ4_1, BlockQ4_K, BlockQ5_0, BlockQ5_1, BlockQ5_K, BlockQ6_K, BlockQ8_0,
};
use crate::cpu::Isa;
use crate::{DType, Error};
use iq::Codes;

/// A block that can be made of weights.
trait Encode<const N: usize>: Block<N> {
    /// Weights are finite, importance is finite and not negative.
    fn encode(weights: &[f32; N], importance: Option<&[f32; N]>) -> Self;
}

/// Encodes whole blocks.
trait Blocks {
    /// Appends the blocks of whole rows.
    fn blocks(weights: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>);
}

/// Blocks that are encoded one by one.
struct Each<B, const N: usize>(PhantomData<B>);

impl<B: Encode<N>, const N: usize> Blocks for Each<B, N> {
    #[inline(always)]
    fn blocks(weights: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
        for (i, weights) in weights.as_chunks::<N>().0.iter().enumerate() {
            out.extend_from_slice(bytemuck::bytes_of(&B::encode(weights, columns_of(importance, i))));
        }
    }
}

/// Blocks whose codes index a codebook of vectors, which they share.
struct Vectors<B>(PhantomData<B>);

impl<B: Codes> Blocks for Vectors<B> {
    #[inline(always)]
    fn blocks(weights: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
        iq::blocks::<B>(weights, importance, out);
    }
}

/// The importance of block `i` of `N` weights, of rows one after another.
#[inline(always)]
fn columns_of<const N: usize>(importance: Option<&[f32]>, i: usize) -> Option<&[f32; N]> {
    importance.map(|columns| {
        let columns = columns.as_chunks::<N>().0;
        &columns[i % columns.len()]
    })
}

/// An encoder under an instruction set.
type Encoder = fn(Isa, &[f32], Option<&[f32]>, &mut Vec<u8>);

/// One source for every instruction set: all that it calls is inlined, and so compiled for that one. Rust neither fuses
/// nor reorders arithmetic, so the bytes do not depend on it.
fn by_isa<T: Blocks>(isa: Isa, weights: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
    match isa {
        // SAFETY: `encode_with` has asserted that the machine has the instruction set.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => unsafe { avx512::<T>(weights, importance, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2::<T>(weights, importance, out) },
        _ => T::blocks(weights, importance, out), // NEON is part of every aarch64
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,f16c")]
fn avx512<T: Blocks>(weights: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
    T::blocks(weights, importance, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn avx2<T: Blocks>(weights: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
    T::blocks(weights, importance, out);
}

/// Numbers that are rounded a few hundred at a time, by the machine's own conversion.
fn halves(_: Isa, weights: &[f32], _: Option<&[f32]>, out: &mut Vec<u8>) {
    let mut numbers = [half::f16::ZERO; 256];
    for weights in weights.chunks(256) {
        numbers[..weights.len()].convert_from_f32_slice(weights);
        out.extend(numbers[..weights.len()].iter().flat_map(|number| number.to_le_bytes()));
    }
}

/// Largest magnitude of a weight: an f16's.
const LARGEST: f32 = 65504.0;
/// Bits of an f32 without its sign.
const MAGNITUDE: u32 = 0x7fff_ffff;

/// The types that can be encoded.
const ROWS: [(DType, Encoder); 28] = [
    (DType::F32, |_, weights, _, out| out.extend(weights.iter().flat_map(|w| w.to_le_bytes()))),
    (DType::F16, halves),
    (DType::BF16, |_, weights, _, out| out.extend(weights.iter().flat_map(|w| half::bf16::from_f32(*w).to_le_bytes()))),
    (DType::Q4_0, by_isa::<Each<BlockQ4_0, 32>>),
    (DType::Q4_1, by_isa::<Each<BlockQ4_1, 32>>),
    (DType::Q5_0, by_isa::<Each<BlockQ5_0, 32>>),
    (DType::Q5_1, by_isa::<Each<BlockQ5_1, 32>>),
    (DType::Q8_0, by_isa::<Each<BlockQ8_0, 32>>),
    (DType::Q2_K, by_isa::<Each<BlockQ2_K, 256>>),
    (DType::Q3_K, by_isa::<Each<BlockQ3_K, 256>>),
    (DType::Q4_K, by_isa::<Each<BlockQ4_K, 256>>),
    (DType::Q5_K, by_isa::<Each<BlockQ5_K, 256>>),
    (DType::Q6_K, by_isa::<Each<BlockQ6_K, 256>>),
    (DType::IQ1_S, by_isa::<Vectors<BlockIQ1_S>>),
    (DType::IQ1_M, by_isa::<Vectors<BlockIQ1_M>>),
    (DType::IQ2_XXS, by_isa::<Vectors<BlockIQ2_XXS>>),
    (DType::IQ2_XS, by_isa::<Vectors<BlockIQ2_XS>>),
    (DType::IQ2_S, by_isa::<Vectors<BlockIQ2_S>>),
    (DType::IQ3_XXS, by_isa::<Vectors<BlockIQ3_XXS>>),
    (DType::IQ3_S, by_isa::<Vectors<BlockIQ3_S>>),
    (DType::IQ4_NL, by_isa::<Each<BlockIQ4_NL, 32>>),
    (DType::IQ4_XS, by_isa::<Each<BlockIQ4_XS, 256>>),
    (DType::TQ1_0, by_isa::<Each<BlockTQ1_0, 256>>),
    (DType::TQ2_0, by_isa::<Each<BlockTQ2_0, 256>>),
    (DType::MXFP4, by_isa::<Each<BlockMXFP4, 32>>),
    (DType::NVFP4, by_isa::<Each<BlockNVFP4, 64>>),
    (DType::Q1_0, by_isa::<Each<BlockQ1_0, 128>>),
    (DType::Q2_0, by_isa::<Each<BlockQ2_0, 64>>),
];

/// Whether [`encode`] makes this type.
pub fn can_encode(dtype: DType) -> bool {
    ROWS.iter().any(|(row, _)| *row == dtype)
}

/// Appends `weights`, whole rows, as `dtype` to `out`. `importance` has a weight per column, so its length is that of
/// a row; plain numbers and the ternary types ignore it.
///
/// # Errors
/// If the type has no encoder, a row is not whole blocks, importance does not fit or is negative or not finite, or a
/// weight is not finite (F32, BF16 and F16 keep infinities and NaN) or too large for F16. `out` is as before then.
pub fn encode(dtype: DType, weights: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) -> Result<(), Error> {
    encode_with(Isa::detect(), dtype, weights, importance, out)
}

/// [`encode`] with an instruction set, which changes the time and not the bytes.
///
/// # Errors
/// As [`encode`].
///
/// # Panics
/// If this machine lacks the instruction set.
pub fn encode_with(
    isa: Isa,
    dtype: DType,
    weights: &[f32],
    importance: Option<&[f32]>,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    assert!(isa.available(), "this machine has no {isa}");
    let refused = |found: String, expected: &'static str| Err(Error::Encode { dtype: dtype.name(), found, expected });
    let Some((_, encoder)) = ROWS.iter().find(|(row, _)| *row == dtype) else {
        return refused("a type without an encoder".to_owned(), "a type such as q8_0, q4_K or f16");
    };
    let block = dtype.block();
    if !weights.len().is_multiple_of(block) {
        return refused(format!("{} weights", weights.len()), "whole blocks");
    }
    if let Some(columns) = importance {
        if columns.is_empty() || !columns.len().is_multiple_of(block) || !weights.len().is_multiple_of(columns.len()) {
            let found = format!("{} weights with importance of {} columns", weights.len(), columns.len());
            return refused(found, "rows of whole blocks, as long as the importance");
        }
        if let Some(i) = columns.iter().position(|w| !w.is_finite() || *w < 0.0) {
            return refused(format!("importance {} of column {i}", columns[i]), "a finite number, not negative");
        }
    }
    let fits = |w: f32| match dtype {
        DType::F32 | DType::BF16 => true,
        DType::F16 => !w.is_finite() || half::f16::from_f32(w).is_finite(),
        _ => w.abs() <= LARGEST, // so that f16 scales and minima hold it
    };
    // By hundreds first, since looking for a place does not vectorize.
    let some = |weights: &&[f32]| weights.iter().fold(0, |m, w| m.max(w.to_bits() & MAGNITUDE)) > LARGEST.to_bits();
    let suspect = weights.chunks(256).position(|weights| some(&weights)).map_or(weights.len(), |chunk| 256 * chunk);
    if let Some(i) = weights[suspect..].iter().position(|w| !fits(*w)).map(|i| suspect + i) {
        return refused(format!("weight {i} is {:e}", weights[i]), "finite numbers that the type can hold");
    }
    out.reserve(weights.len() / block * dtype.block_bytes());
    encoder(isa, weights, importance, out);
    Ok(())
}
