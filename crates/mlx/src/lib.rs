//! The MLX backend: Apple GPUs through MLX's C interface, found and opened at run time.
//!
//! | module | what |
//! |---|---|
//! | [`find`] | where the library may lie |
//! | [`ffi`] | mlx-c behind safe types; everything `unsafe` |
//! | [`backend`] | the operations of a decoder as a graph of MLX's operations |
//! | [`kernel`] | our own kernels, one text for Metal, CUDA and a processor |
//! | [`own`] | where those take the place of MLX's operations |
//! | `matrix` | weights in MLX's packed formats, products with them |
//! | `tensor` | what operations take and make |
//! | `rows` | norms, rotation, activations, columns and rows |
//! | `store` | pages of keys and values, recurrent slots |
//! | `plan` | where a batch's keys lie and what its tokens see, once a step |
//! | `choice` | whose kernels compute, and in which numbers |
//! | `ahead` | the next step, built before its turn |
//! | `attention` | attention over the stored pages |
//! | `recurrent` | causal convolution, state space scan |
//! | `moe` | routing and experts |
//!
//! GLOSSARY. *array*: a node of MLX's lazy graph. *stream*: the queue that evaluates it. *packing*: how MLX packs
//! quantized weights. The rest is `mlxr_compute`'s.

mod ahead;
mod attention;
pub mod backend;
mod choice;
pub mod ffi;
pub mod find;
pub mod kernel;
mod matrix;
mod moe;
pub mod own;
mod plan;
mod recurrent;
mod rows;
mod store;
mod tensor;

pub use backend::Mlx;
pub use choice::{Kernels, Precision};
pub use ffi::{Device, Kind, OpenError};
pub use matrix::{Matrix, loaded_bytes};
pub use own::trial::Way;
pub use store::Kv;
pub use tensor::Tensor;

/// Name of the backend, in `--backend` and messages.
pub const NAME: &str = "mlx";
