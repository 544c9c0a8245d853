//! Model files to named, typed, mapped bytes.
//!
//! [`open`] takes a .gguf file (or any file of a split set) or a folder as Hugging Face or mlx-lm write it, and gives
//! a [`Checkpoint`]: metadata, side files, and tensors as slices of the mapped files. [`open_memory_gguf`] and
//! [`open_memory`] do the same with bytes that are in memory.
//!
//! | module | what |
//! |---|---|
//! | [`checkpoint`] | an open model: what to ask it |
//! | [`gguf`] | reader and writer of GGUF |
//! | [`safetensors`] | reader and writer of safetensors |
//! | [`fields`] | typed access to JSON files with errors that name file and field |
//! | [`imatrix`] | importance matrices, for quantization |
//! | [`limits`] | how much an untrusted file may ask for |
//! | [`summary`] | what a checkpoint holds, for people |
//! | `folder` | `config.json`, index, side files |
//! | `quantization` | what `config.json` says about quantization |
//! | `join` | the parts of a quantized encoding to a matrix |
//! | `store` `map` | files on the disk, mapped (the only `unsafe`), or in memory |
//! | `atomic` | files that appear whole or not at all |
//!
//! GLOSSARY. *Stem*: name of a tensor without `.weight`, which the parts of a quantized encoding share. *Folder*: a
//! directory with a model. *Shard*: one of several files of a model. *Side file*: a file of a folder that has no
//! tensors.

mod atomic;
pub mod checkpoint;
mod error;
pub mod fields;
mod folder;
pub mod gguf;
pub mod imatrix;
mod join;
pub mod limits;
mod map;
mod quantization;
pub mod safetensors;
mod store;
pub mod summary;
mod tensors;

use std::path::{Path, PathBuf};

use mlxr_compute::Bytes;

pub use atomic::{AtomicFile, AtomicFolder};
pub use checkpoint::{Checkpoint, Kind, Vector};
pub use error::OpenError;
pub use fields::Fields;
pub use gguf::Metadata;
pub use limits::Limits;
pub use summary::{Stored, Summary};
pub use tensors::TensorInfo;

use store::Store;

/// Opens a model: a .gguf file, any file of a split set of them, or a folder.
///
/// # Errors
/// If there is no model at `path`, or its files are damaged, incomplete, of a kind that is not known here, or exceed
/// the default [`Limits`]. The message names file and place, what was found, what was expected and what to do.
pub fn open(path: &Path) -> Result<Checkpoint, OpenError> {
    open_with(path, &Limits::default())
}

/// [`open`] with other limits.
///
/// # Errors
/// As [`open`].
pub fn open_with(path: &Path, limits: &Limits) -> Result<Checkpoint, OpenError> {
    let stat = std::fs::metadata(path).map_err(OpenError::io(path, "open"))?;
    if stat.is_dir() {
        return folder::open(Store::Disk(path.to_owned()), limits);
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let name = path.file_name().map_or(path, Path::new);
    open_gguf(&Store::Disk(folder.to_owned()), name, limits)
}

/// Opens a folder whose files are in memory, each with its name.
///
/// # Errors
/// As [`open`].
pub fn open_memory(files: Vec<(String, Bytes)>, limits: &Limits) -> Result<Checkpoint, OpenError> {
    let files = files.into_iter().map(|(name, bytes)| (PathBuf::from(name), bytes)).collect();
    folder::open(Store::Memory(files), limits)
}

/// Opens a .gguf file that is in memory, such as one inside of a program. `name` is for messages and
/// [`Checkpoint::path`].
///
/// # Errors
/// As [`open`].
pub fn open_memory_gguf(name: &str, bytes: Bytes, limits: &Limits) -> Result<Checkpoint, OpenError> {
    let files = [(PathBuf::from(name), bytes)];
    open_gguf(&Store::Memory(files.into()), Path::new(name), limits)
}

fn open_gguf(store: &Store, name: &Path, limits: &Limits) -> Result<Checkpoint, OpenError> {
    let (meta, tensors) = gguf::open_set(store, name, limits)?;
    Ok(Checkpoint { kind: Kind::Gguf, path: store.path(name), meta, tensors, folder: None, limits: limits.clone() })
}
