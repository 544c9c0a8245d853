//! GGUF: metadata and tensors in one little-endian file, or several.
//!
//! ```text
//! magic    "GGUF"
//! version  u32             2 or 3
//! n_tensor u64
//! n_kv     u64
//! n_kv x     key string, type u32, value
//! n_tensor x name string, n_dim u32, n_dim x u64 (innermost first), type u32, offset u64 (from `data`)
//! padding to `general.alignment` (32)
//! data     each tensor at a multiple of the alignment
//! ```
//! A string is a `u64` length and that many bytes; an array is an element type `u32`, a `u64` count, the elements.
//! A split set has `split.no`, `split.count` and `split.tensors.count` in every file and names them
//! `PREFIX-00001-of-00003.gguf`. Source: ggml `docs/gguf.md`, `src/gguf.cpp` and llama.cpp `tools/gguf-split`.

mod cursor;
mod metadata;
mod read;
mod shard;
mod value;
mod write;

pub use metadata::Metadata;
pub use read::{Header, parse};
pub use shard::shard_path;
pub use value::{Array, Element, FromElement, Strings, Value};
pub use write::{Entry, Writer};

pub(crate) use shard::{open_set, shard_number};

/// Alignment of tensor data where a file names none.
pub const DEFAULT_ALIGNMENT: u64 = 32;
/// Key of the alignment.
pub const ALIGNMENT_KEY: &str = "general.alignment";
