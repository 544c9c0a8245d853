//! Everything `unsafe` of this crate: mlx-c behind safe types.
//!
//! | file | what |
//! |---|---|
//! | `api` | the functions, found in the library |
//! | [`mod@array`] | a node of the graph |
//! | [`device`] | the library, the device that computes, memory, evaluation, reading |
//! | `ending` | the end of a process that used CUDA |
//! | `image` | kernels of our own compiled for CUDA, where MLX looks for them |
//! | [`mod@kernel`] | kernels of our own on a GPU |
//! | `ops` | the operations, as methods of [`Device`] |
//!
//! An operation cannot fail where it is called: MLX is lazy, and model code builds the graph of a whole step. The first
//! error is kept by the [`Device`], what depends on it becomes empty, and evaluation returns it.

mod api;
pub mod array;
pub mod device;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod ending;
mod image;
pub mod kernel;
mod ops;

pub use array::{Array, Dtype};
pub use device::{Device, Kind, OpenError};
pub(crate) use image::{Compiler, Text};
pub use kernel::{GpuKernel, Output};
pub use ops::{Packing, Rotation};
