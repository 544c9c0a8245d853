//! Products of weight matrices with columns of activations.
//!
//! ```text
//! PackedMatrix   weights: panels of 16 rows, packed when first used; other encodings are decoded panel by panel
//! Activations    inputs: int8 with a scale per 32 or 128, f32 or bf16, in tiles of up to 16 columns
//! matmul         panels x tiles, shared out over a pool; each result passes an epilogue on its way out
//! ```
//!
//! | module | what |
//! |---|---|
//! | `table` | one row a form: layout, packing, kernels |
//! | `forms`, `pack`, `coded` | how rows lie in a panel; from blocks of a file to panels |
//! | `kernel`, `wide`, `scaled` | the bodies of the kernels, over `simd` |
//! | `scalar`, `avx2`, `avx512`, `neon`; `both` | `simd` for each instruction set; two vectors as one |
//! | `packed` | matrices |
//! | `unpack` | panels unpacked for many columns |
//! | `expand` | panels of encodings without a form, made when used |
//! | `activations`, `quantize`, `quantize_avx512` | inputs |
//! | `product` | the loop over panels and tiles |
//!
//! Results depend neither on the number of threads nor on the other columns of the batch. Weights are exact; inputs of
//! quantized weights are rounded to int8, those of bf16 weights to bf16 where the instruction set multiplies such pairs;
//! see `quantize` for the errors.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod both;
mod coded;
mod expand;
mod forms;
mod kernel;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pack;
mod packed;
mod product;
mod quantize;
#[cfg(target_arch = "x86_64")]
mod quantize_avx512;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod scaled;
mod simd;
mod table;
#[cfg(target_arch = "x86_64")]
mod unpack;
mod wide;

pub use activations::{Activations, Columns};
pub use packed::PackedMatrix;
pub use product::{Epilogue, Out, Place, Product, Weights, matmul};
