//! f32 to GGUF types: round to nearest, with a least-squares search for scales where the format leaves a choice.
//!
//! | module | types |
//! |---|---|
//! | `simple` | Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q1_0 Q2_0 TQ1_0 TQ2_0: without importance (but Q2_0) the bytes equal ggml's reference |
//! | `k` | Q2_K Q3_K Q4_K Q5_K Q6_K |
//! | `codebook` | IQ4_NL IQ4_XS MXFP4 NVFP4 |
//! | `iq` | IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S |
//! | `codes` | their search: scales and vectors of a codebook |
//! | `vectors` | codebooks, and what those types differ in |
//! | `neighbours` | which vectors of a codebook can be the best |
//! | `mlx` | MLX affine, mxfp4, mxfp8, nvfp4: [`encode_parts`] |
//! | `calibrated` | the same with GPTQ: [`encode_parts_calibrated`] |
//! | `search` | the least-squares searches of one block that these share |
//! | `nested` | scales of scales: a super-block's scales as small integers times one f16 |
//!
//! *Importance* is a weight per input column, the mean square of its activations. A search makes the sum of
//! `importance * sqrt(2 * mean square of the block + weight^2) * (weight - decoded)^2` small, as ggml's do.

mod calibrated;
mod codebook;
mod codes;
mod iq;
mod k;
mod mlx;
mod neighbours;
mod nested;
mod search;
mod simple;
mod vectors;

pub use calibrated::encode_parts_calibrated;
pub use mlx::encode_parts;
pub(super) use simple::{fifth_bits, nibbles};

use std::marker::PhantomData;

use half::slice::HalfFloatSliceExt;

use super::Block;
use super::{BlockIQ4_NL, BlockIQ4_XS, BlockMXFP4, BlockNVFP4, BlockTQ1_0, BlockTQ2_0};
use super::{BlockQ1_0, BlockQ2_0};
use super::{
    BlockQ2_K, BlockQ3_K, BlockQ4_0, BlockQ4_1, BlockQ4_K, BlockQ5_0, BlockQ5_1, BlockQ5_K, BlockQ6_K, BlockQ8_0,
};
use crate::cpu::Isa;
use crate::{DType, Error};

/// A block that can be made of weights.
trait Encode<const N: usize>: Block<N> {
    /// Weights are finite, importance is finite and not negative.
    fn encode(weights: &[f32; N], importance: Option<&[f32; N]>) -> Self;
}

/// Encodes whole blocks.
trait Blocks {
    /// Appends the blocks of whole rows.
    fn blocks(&self, weights: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>);
}

/// Blocks that are encoded one by one.
struct Each<B, const N: usize>(PhantomData<B>);

impl<B: Encode<N>, const N: usize> Blocks for Each<B, N> {
    #[inline(always)]
    fn blocks(&self, weights: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
        for (i, weights) in weights.as_chunks::<N>().0.iter().enumerate() {
            out.extend_from_slice(bytemuck::bytes_of(&B::encode(weights, columns_of(importance, i))));
        }
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
type EncodeFn = fn(Isa, &[f32], Option<&[f32]>, &mut Vec<u8>);

/// Blocks that are encoded one by one, under an instruction set.
fn each<B: Encode<N>, const N: usize>(isa: Isa, weights: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
    by_isa(&Each::<B, N>(PhantomData), isa, weights, importance, out);
}

/// One source for every instruction set: all that it calls is inlined, and so compiled for that one. Rust neither fuses
/// nor reorders arithmetic, so the bytes do not depend on it.
fn by_isa(blocks: &impl Blocks, isa: Isa, weights: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
    match isa {
        // SAFETY: `Encoder::with_isa` has asserted that the machine has the instruction set.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni | Isa::Avx512Bf16 => unsafe { avx512(blocks, weights, importance, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2(blocks, weights, importance, out) },
        _ => blocks.blocks(weights, importance, out), // NEON is part of every aarch64
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,f16c")]
fn avx512(blocks: &impl Blocks, weights: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
    blocks.blocks(weights, importance, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn avx2(blocks: &impl Blocks, weights: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
    blocks.blocks(weights, importance, out);
}

/// Numbers that are rounded a few hundred at a time, by the machine's own conversion.
fn halves(_: Isa, weights: &[f32], _: Option<&[f32]>, out: &mut Vec<u8>) {
    let mut numbers = [half::f16::ZERO; 256];
    for weights in weights.chunks(256) {
        numbers[..weights.len()].convert_from_f32_slice(weights);
        out.extend_from_slice(bytemuck::cast_slice(&numbers[..weights.len()]));
    }
}

/// Upper halves of f32.
struct Uppers;

impl Blocks for Uppers {
    #[inline(always)]
    fn blocks(&self, weights: &[f32], _: Option<&[f32]>, out: &mut Vec<u8>) {
        let mut numbers = [0u16; 256];
        for weights in weights.chunks(256) {
            for (number, weight) in numbers.iter_mut().zip(weights) {
                let bits = weight.to_bits();
                let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
                let quiet = bits >> 16 | 0x40;
                *number = if weight.is_nan() { quiet } else { nearest } as u16;
            }
            out.extend_from_slice(bytemuck::cast_slice(&numbers[..weights.len()]));
        }
    }
}

/// Largest magnitude of a weight: an f16's.
const LARGEST: f32 = 65504.0;
/// Bits of an f32 without its sign.
const MAGNITUDE: u32 = 0x7fff_ffff;

/// The types that can be encoded besides those of [`iq`].
const ROWS: [(DType, EncodeFn); 21] = [
    (DType::F32, |_, weights, _, out| out.extend_from_slice(bytemuck::cast_slice(weights))),
    (DType::F16, halves),
    (DType::BF16, |isa, weights, _, out| by_isa(&Uppers, isa, weights, None, out)),
    (DType::Q4_0, each::<BlockQ4_0, 32>),
    (DType::Q4_1, each::<BlockQ4_1, 32>),
    (DType::Q5_0, each::<BlockQ5_0, 32>),
    (DType::Q5_1, each::<BlockQ5_1, 32>),
    (DType::Q8_0, each::<BlockQ8_0, 32>),
    (DType::Q2_K, each::<BlockQ2_K, 256>),
    (DType::Q3_K, each::<BlockQ3_K, 256>),
    (DType::Q4_K, each::<BlockQ4_K, 256>),
    (DType::Q5_K, each::<BlockQ5_K, 256>),
    (DType::Q6_K, each::<BlockQ6_K, 256>),
    (DType::IQ4_NL, each::<BlockIQ4_NL, 32>),
    (DType::IQ4_XS, each::<BlockIQ4_XS, 256>),
    (DType::TQ1_0, each::<BlockTQ1_0, 256>),
    (DType::TQ2_0, each::<BlockTQ2_0, 256>),
    (DType::MXFP4, each::<BlockMXFP4, 32>),
    (DType::NVFP4, each::<BlockNVFP4, 64>),
    (DType::Q1_0, each::<BlockQ1_0, 128>),
    (DType::Q2_0, each::<BlockQ2_0, 64>),
];

/// Whether [`encode`] makes this type.
pub fn can_encode(dtype: DType) -> bool {
    ROWS.iter().any(|(row, _)| *row == dtype) || iq::has(dtype)
}

/// Encodes weights as one type. What IQ types look up is made once, so keep it for all weights, of any thread.
pub struct Encoder {
    dtype: DType,
    isa: Isa,
    kind: Kind,
}

enum Kind {
    Function(EncodeFn),
    Eights(Box<iq::Eights>),
    Fours(Box<iq::Fours>),
}

impl Encoder {
    /// An encoder of `dtype`.
    ///
    /// # Errors
    /// If there is none.
    pub fn new(dtype: DType) -> Result<Encoder, Error> {
        Encoder::with_isa(Isa::detect(), dtype)
    }

    /// [`Encoder::new`] with an instruction set, which changes the time and not the bytes.
    ///
    /// # Errors
    /// As [`Encoder::new`].
    ///
    /// # Panics
    /// If this machine lacks the instruction set.
    pub fn with_isa(isa: Isa, dtype: DType) -> Result<Encoder, Error> {
        assert!(isa.available(), "this machine has no {isa}");
        let function = ROWS.iter().find(|(row, _)| *row == dtype).map(|(_, function)| Kind::Function(*function));
        let kind = function
            .or_else(|| iq::Eights::of(dtype).map(|eights| Kind::Eights(Box::new(eights))))
            .or_else(|| iq::Fours::of(dtype).map(|fours| Kind::Fours(Box::new(fours))));
        let (found, expected) = ("a type without an encoder".to_owned(), "a type such as q8_0, q4_K or f16");
        let kind = kind.ok_or(Error::Encode { dtype: dtype.name(), found, expected })?;
        Ok(Encoder { dtype, isa, kind })
    }

    /// Appends `weights`, whole rows, to `out`. `importance` has a weight per column, so its length is that of a row;
    /// plain numbers and the ternary types ignore it.
    ///
    /// # Errors
    /// If a row is not whole blocks, importance does not fit or is negative or not finite, or a weight is not finite
    /// (F32, BF16 and F16 keep infinities and NaN) or too large for F16. `out` is as before then.
    pub fn encode(&self, weights: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) -> Result<(), Error> {
        self.check(weights, importance)?;
        out.reserve(weights.len() / self.dtype.block() * self.dtype.block_bytes());
        match &self.kind {
            Kind::Function(function) => function(self.isa, weights, importance, out),
            Kind::Eights(eights) => by_isa(&**eights, self.isa, weights, importance, out),
            Kind::Fours(fours) => by_isa(&**fours, self.isa, weights, importance, out),
        }
        Ok(())
    }

    fn check(&self, weights: &[f32], importance: Option<&[f32]>) -> Result<(), Error> {
        let dtype = self.dtype;
        let refused =
            |found: String, expected: &'static str| Err(Error::Encode { dtype: dtype.name(), found, expected });
        let block = dtype.block();
        if !weights.len().is_multiple_of(block) {
            return refused(format!("{} weights", weights.len()), "whole blocks");
        }
        if let Some(columns) = importance {
            let n = columns.len();
            if n == 0 || !n.is_multiple_of(block) || !weights.len().is_multiple_of(n) {
                let found = format!("{} weights with importance of {n} columns", weights.len());
                return refused(found, "rows of whole blocks, as long as the importance");
            }
            let refuses = |w: &f32| !w.is_finite() || *w < 0.0;
            if columns.iter().fold(false, |some, w| some | refuses(w))
                && let Some(i) = columns.iter().position(refuses)
            {
                return refused(format!("importance {} of column {i}", columns[i]), "a finite number, not negative");
            }
        }
        let fits = |w: f32| match dtype {
            DType::F32 | DType::BF16 => true,
            DType::F16 => !w.is_finite() || half::f16::from_f32(w).is_finite(),
            _ => w.abs() <= LARGEST, // so that f16 scales and minima hold it
        };
        // By hundreds first, since looking for a place does not vectorize.
        let bound = LARGEST.to_bits() as i32;
        let some = |w: &[f32]| w.iter().fold(false, |some, w| some | ((w.to_bits() & MAGNITUDE) as i32 > bound));
        let suspect = weights.chunks(256).position(some).map_or(weights.len(), |chunk| 256 * chunk);
        if let Some(i) = weights[suspect..].iter().position(|w| !fits(*w)).map(|i| suspect + i) {
            return refused(format!("weight {i} is {:e}", weights[i]), "finite numbers that the type can hold");
        }
        Ok(())
    }
}

/// [`Encoder::encode`] of an encoder for this once.
///
/// # Errors
/// Of [`Encoder::new`] and [`Encoder::encode`]. `out` is as before then.
pub fn encode(dtype: DType, weights: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) -> Result<(), Error> {
    Encoder::new(dtype)?.encode(weights, importance, out)
}
