//! An open model: its metadata, side files and tensors.

use std::path::{Path, PathBuf};

use mlxr_compute::{Bytes, MatrixData, quant};

use crate::error::printable;
use crate::folder::Folder;
use crate::gguf::Metadata;
use crate::join::{self, Joined};
use crate::tensors::{TensorInfo, Tensors};
use crate::{Limits, OpenError};

/// Where a checkpoint's conventions come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A .gguf file or a split set of them.
    Gguf,
    /// A Hugging Face folder: `config.json` and safetensors.
    HuggingFace,
    /// A folder written by mlx-lm: as Hugging Face, with MLX's quantized layout.
    Mlx,
}

/// A small parameter: its shape, outermost first, and its numbers in that order.
pub type Vector = (Vec<usize>, Vec<f32>);

/// An open model. Files stay mapped as long as this, or any [`Bytes`] of it, lives; nothing is copied to open.
///
/// *Names* are those of the files. Methods that take a *stem* want the name without `.weight` (a trailing `.weight`
/// is dropped), since a quantized encoding has several tensors of that stem: `q_proj.qweight`, `q_proj.scales`. A
/// stem also finds a tensor that is called exactly so (`mlp.experts.gate_up_proj`).
#[derive(Debug)]
pub struct Checkpoint {
    /// Where its conventions come from.
    pub kind: Kind,
    pub(crate) path: PathBuf,
    pub(crate) meta: Metadata,
    pub(crate) tensors: Tensors,
    pub(crate) folder: Option<Folder>,
    pub(crate) limits: Limits,
}

impl Checkpoint {
    /// The file or folder that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// GGUF key-values; empty for folders.
    pub fn meta(&self) -> &Metadata {
        &self.meta
    }

    /// `config.json` of a folder.
    pub fn config(&self) -> Option<&serde_json::Value> {
        self.folder.as_ref().map(|f| &f.config)
    }

    /// A side file of a folder as JSON, such as `generation_config.json`; `None` when there is no such file.
    ///
    /// # Errors
    /// If the file cannot be read, is larger than `max_side_file`, or is no JSON.
    pub fn json(&self, name: &str) -> Result<Option<serde_json::Value>, OpenError> {
        self.folder.as_ref().map_or(Ok(None), |f| f.json(name))
    }

    /// A side file of a folder, such as `tokenizer.json`; `None` when there is no such file. GGUF has none.
    ///
    /// # Errors
    /// If the file cannot be read or is larger than `max_side_file`.
    pub fn file(&self, name: &str) -> Result<Option<Bytes>, OpenError> {
        self.folder.as_ref().map_or(Ok(None), |f| f.file(name))
    }

    /// Names of the side files of a folder (everything in it that is no directory), sorted.
    pub fn files(&self) -> &[String] {
        self.folder.as_ref().map_or(&[], |f| &f.files)
    }

    /// Names of all tensors, in the order of the files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.list.iter().map(|t| t.name.as_str())
    }

    /// All tensors, in the order of the files.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors.list
    }

    /// A tensor by its full name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// The bytes of a tensor by its full name, as they lie in the mapped file. They may start at any address:
    /// GGUF aligns tensors to 32 bytes, safetensors not at all.
    ///
    /// # Errors
    /// If there is no such tensor.
    pub fn bytes(&self, name: &str) -> Result<Bytes, OpenError> {
        let tensor = self.tensors.get(name).ok_or_else(|| {
            let found = ["no such tensor".to_owned(), "a tensor of that name".to_owned()];
            OpenError::tensor(&self.path, name, found, "use a checkpoint that has it")
        })?;
        Ok(self.tensors.bytes(tensor))
    }

    /// The matrix `[n_out, n_in]` of a stem, in whatever encoding the file has it; `None` when there is no tensor of
    /// that stem. A tensor of one dimension is a matrix of one row.
    ///
    /// # Errors
    /// If a part of the encoding is missing or of the wrong size or type, the encoding is not known here, or the
    /// tensor has more than two dimensions.
    pub fn matrix(&self, stem: &str) -> Result<Option<MatrixData>, OpenError> {
        self.joined(stem)?.map(|j| j.into_matrix(&self.path)).transpose()
    }

    /// The matrices of a stacked tensor `[n_expert, n_out, n_in]`; `None` when there is no tensor of that stem.
    ///
    /// # Errors
    /// As [`Checkpoint::matrix`], and if the tensor has not three dimensions.
    pub fn experts(&self, stem: &str) -> Result<Option<Vec<MatrixData>>, OpenError> {
        self.joined(stem)?.map(|j| j.into_experts(&self.path)).transpose()
    }

    /// A small parameter of any shape and type as f32, by its full name or its stem: its shape, outermost first, and
    /// its numbers in that order. `None` when there is no such tensor. Tensors that other parts explain (MLX, GPTQ,
    /// ...) are for [`Checkpoint::matrix`].
    ///
    /// # Errors
    /// If it has more than `max_vector` elements.
    pub fn vector(&self, name: &str) -> Result<Option<Vector>, OpenError> {
        let Some(tensor) = self.tensors.get(name).or_else(|| self.tensors.get(&format!("{name}.weight"))) else {
            return Ok(None);
        };
        let (n, max) = (tensor.elements(), self.limits.max_vector);
        if n as u64 > max {
            let what = format!("number of elements of tensor `{}`", printable(tensor.name.as_bytes()));
            return Err(OpenError::limit(self.tensors.path(tensor), what, n as u64, "max_vector", max));
        }
        let mut numbers = vec![0.0; n];
        quant::decode(tensor.dtype, &self.tensors.bytes(tensor), &mut numbers);
        Ok(Some((tensor.shape.clone(), numbers)))
    }

    pub(crate) fn joined(&self, stem: &str) -> Result<Option<Joined>, OpenError> {
        let stem = stem.strip_suffix(".weight").unwrap_or(stem);
        join::find(&self.tensors, self.folder.as_ref().map(|f| &f.quantization), stem)
    }
}
