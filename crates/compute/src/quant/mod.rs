//! The definition of every encoding: bytes to f32.
//!
//! | module | encodings |
//! |---|---|
//! | [`float`] | f16, bf16, e4m3, e5m2, e8m0, e2m1, ue4m3, one number at a time |
//! | [`legacy`] | Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 |
//! | [`k`] | Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K |
//! | [`iq1`] | IQ1_S IQ1_M |
//! | [`iq2`] | IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S |
//! | [`iq4`] | IQ4_NL IQ4_XS MXFP4 NVFP4 |
//! | [`ternary`] | TQ1_0 TQ2_0 Q1_0 Q2_0 |
//! | [`grids`] | codebooks of the IQ types |
//! | `parts` | which parts an encoding has, and how large: [`MatrixData::check`] |
//! | `mlx` `gptq` `awq` `bnb` `fp8` | encodings of several parts: [`MatrixData::decode_rows`] |
//! | `encode` | f32 to GGUF types: [`encode()`] |
//! | [`compensate`] | GPTQ: later columns make up for the rounding of earlier ones |
//! | `rows` | some rows of a matrix as a matrix: [`MatrixData::take_rows`] |
//! | `repack` | any encoding as GGUF blocks: [`MatrixData::gguf_type`], [`MatrixData::to_gguf_blocks`], [`MatrixData::to_blocks`] |
//! | `to_mlx` | GGUF blocks in MLX's packed formats: [`MatrixData::to_mlx`] |
//!
//! GGUF blocks are structs of bytes (alignment 1), so a mapped file is cast in place with
//! `bytemuck::cast_slice::<u8, BlockQ4_K>`. Their decoders equal ggml bit for bit, multiplication order and all.

#![allow(non_camel_case_types)] // block structs are named as the formats are

mod awq;
mod bnb;
pub mod compensate;
mod encode;
pub mod float;
mod fp8;
mod gptq;
pub mod grids;
pub mod iq1;
pub mod iq2;
pub mod iq4;
pub mod k;
pub mod legacy;
mod mlx;
pub(crate) mod parts;
mod plain;
mod repack;
mod rows;
pub mod ternary;
mod to_mlx;
mod transposed;

use bytemuck::Pod;

use crate::{DType, Encoding, MatrixData};

pub use encode::{Encoder, can_encode, encode, encode_parts, encode_parts_calibrated};
pub use iq1::{BlockIQ1_M, BlockIQ1_S};
pub use iq2::{BlockIQ2_S, BlockIQ2_XS, BlockIQ2_XXS, BlockIQ3_S, BlockIQ3_XXS};
pub use iq4::{BlockIQ4_NL, BlockIQ4_XS, BlockMXFP4, BlockNVFP4};
pub use k::{BlockQ2_K, BlockQ3_K, BlockQ4_K, BlockQ5_K, BlockQ6_K, BlockQ8_K};
pub use legacy::{BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0};
pub use ternary::{BlockQ1_0, BlockQ2_0, BlockTQ1_0, BlockTQ2_0};

/// A GGUF block of `N` weights.
pub trait Block<const N: usize>: Pod {
    /// The weights.
    fn decode(&self, out: &mut [f32; N]);
}

/// One row of [`ROWS`].
#[derive(Clone, Copy)]
struct Row {
    dtype: DType,
    /// Decodes whole blocks; both lengths fit each other.
    decode: fn(&[u8], &mut [f32]),
}

fn blocks<B: Block<N>, const N: usize>(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytemuck::cast_slice::<u8, B>(bytes).iter().zip(out.as_chunks_mut::<N>().0) {
        block.decode(out);
    }
}

const fn plain(dtype: DType, decode: fn(&[u8], &mut [f32])) -> Row {
    Row { dtype, decode }
}

const fn block<B: Block<N>, const N: usize>(dtype: DType) -> Row {
    assert!(align_of::<B>() == 1 && size_of::<B>() == dtype.block_bytes() && N == dtype.block());
    Row { dtype, decode: blocks::<B, N> }
}

/// The decoder of every type, in the order of [`DType`].
const ROWS: [Row; 42] = [
    plain(DType::F32, plain::f32),
    plain(DType::F16, plain::f16),
    plain(DType::BF16, plain::bf16),
    plain(DType::F64, plain::f64),
    plain(DType::I8, plain::i8),
    plain(DType::I16, plain::i16),
    plain(DType::I32, plain::i32),
    plain(DType::I64, plain::i64),
    plain(DType::U8, plain::u8),
    plain(DType::U16, plain::u16),
    plain(DType::U32, plain::u32),
    plain(DType::U64, plain::u64),
    plain(DType::Bool, plain::bool),
    plain(DType::F8E4M3, plain::e4m3),
    plain(DType::F8E5M2, plain::e5m2),
    plain(DType::F8E8M0, plain::e8m0),
    block::<BlockQ4_0, 32>(DType::Q4_0),
    block::<BlockQ4_1, 32>(DType::Q4_1),
    block::<BlockQ5_0, 32>(DType::Q5_0),
    block::<BlockQ5_1, 32>(DType::Q5_1),
    block::<BlockQ8_0, 32>(DType::Q8_0),
    block::<BlockQ2_K, 256>(DType::Q2_K),
    block::<BlockQ3_K, 256>(DType::Q3_K),
    block::<BlockQ4_K, 256>(DType::Q4_K),
    block::<BlockQ5_K, 256>(DType::Q5_K),
    block::<BlockQ6_K, 256>(DType::Q6_K),
    block::<BlockQ8_K, 256>(DType::Q8_K),
    block::<BlockIQ1_S, 256>(DType::IQ1_S),
    block::<BlockIQ1_M, 256>(DType::IQ1_M),
    block::<BlockIQ2_XXS, 256>(DType::IQ2_XXS),
    block::<BlockIQ2_XS, 256>(DType::IQ2_XS),
    block::<BlockIQ2_S, 256>(DType::IQ2_S),
    block::<BlockIQ3_XXS, 256>(DType::IQ3_XXS),
    block::<BlockIQ3_S, 256>(DType::IQ3_S),
    block::<BlockIQ4_NL, 32>(DType::IQ4_NL),
    block::<BlockIQ4_XS, 256>(DType::IQ4_XS),
    block::<BlockTQ1_0, 256>(DType::TQ1_0),
    block::<BlockTQ2_0, 256>(DType::TQ2_0),
    block::<BlockMXFP4, 32>(DType::MXFP4),
    block::<BlockNVFP4, 64>(DType::NVFP4),
    block::<BlockQ1_0, 128>(DType::Q1_0),
    block::<BlockQ2_0, 64>(DType::Q2_0),
];

const _: () = {
    let mut i = 0;
    while i < ROWS.len() {
        assert!(ROWS[i].dtype as usize == i, "ROWS is in the order of DType");
        i += 1;
    }
};

/// Weights of type `F32` as they lie, where they are aligned.
pub fn as_f32(dtype: DType, bytes: &[u8]) -> Option<&[f32]> {
    let plain = dtype == DType::F32 && cfg!(target_endian = "little");
    if plain { bytemuck::try_cast_slice(bytes).ok() } else { None }
}

/// Decodes `out.len()` weights of type `dtype`. Integers give their value, `Bool` 0 or 1.
///
/// # Panics
/// If `bytes` has not the size of that many weights, which `MatrixData::check` rules out for a file's matrix.
pub fn decode(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(Some(bytes.len()), dtype.bytes_of(out.len()), "bytes of {} weights of {}", out.len(), dtype.name());
    (ROWS[dtype as usize].decode)(bytes, out);
}

impl MatrixData {
    /// By what the value of weight `at`, counted through all rows, is multiplied in a matrix of bitsandbytes.
    ///
    /// # Panics
    /// If the matrix has another encoding, or fewer weights.
    pub fn bnb_absmax(&self, at: usize) -> f32 {
        let Encoding::Bnb4 { block, nested_block, nested_offset } = self.encoding else {
            panic!("{}: {} has no absmax", self.name, self.encoding);
        };
        bnb::absmax(self, bnb::Bnb4 { block, nested_block, nested_offset }, at / block as usize)
    }

    /// Decodes rows `first_row..first_row + n_rows` into `out` `[n_rows, n_in]`: the meaning of every encoding.
    ///
    /// GPTQ and AWQ lie transposed; they decode some times faster by bands of 64 rows or more.
    ///
    /// # Panics
    /// If the rows are not within the matrix, `out` has another size, or [`MatrixData::check`] would fail.
    pub fn decode_rows(&self, first_row: usize, n_rows: usize, out: &mut [f32]) {
        assert!(first_row <= self.n_out && n_rows <= self.n_out - first_row, "{}: rows are outside", self.name);
        assert_eq!(out.len(), n_rows * self.n_in, "{}: size of the output", self.name);
        match self.encoding {
            Encoding::Blocks(dtype) => {
                let row = dtype.bytes_of(self.n_in).expect("`check` has found whole blocks in a row");
                decode(dtype, &self.parts[0][first_row * row..][..n_rows * row], out);
            }
            Encoding::MlxAffine { bits, group, scale } => {
                mlx::affine(self, mlx::Affine { bits, group, scale }, first_row, out);
            }
            Encoding::MlxFloat(kind) => mlx::floats(self, kind, first_row, out),
            Encoding::Gptq { bits, group, zero_plus_one, scale } => {
                gptq::decode(self, gptq::Gptq { bits, group, zero_plus_one, scale }, first_row, out);
            }
            Encoding::Awq { group, scale } => awq::decode(self, group, scale, first_row, out),
            Encoding::Bnb4 { block, nested_block, nested_offset } => {
                bnb::decode(self, bnb::Bnb4 { block, nested_block, nested_offset }, first_row, out);
            }
            Encoding::Fp8 { dtype, rows, cols, scale } => {
                fp8::decode(self, fp8::Fp8 { dtype, rows, cols, scale }, first_row, out);
            }
        }
    }
}
