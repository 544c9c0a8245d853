//! What a checkpoint holds, for people: architecture, parameters, sizes, types.

use std::collections::{BTreeMap, HashSet};

use mlxr_compute::Encoding;
use serde_json::Value as Json;

use crate::fields::describe;
use crate::{Checkpoint, Kind, OpenError};

/// What a checkpoint holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Where its conventions come from.
    pub kind: Kind,
    /// `general.architecture` of a GGUF; the first of `architectures` in `config.json`, or else `model_type`.
    pub architecture: Option<String>,
    /// Weights of all tensors, quantized ones counted as what they stand for, scales not counted.
    pub n_parameter: u64,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// How many tensors the files have.
    pub n_tensor: usize,
    /// The files with tensors, and the bytes of each.
    pub files: Vec<(String, u64)>,
    /// How the weights are stored, the most bytes first.
    pub types: Vec<TypeCount>,
    /// Key-values of a GGUF, or the fields of `config.json`: names and shown values, in the order of the file.
    pub metadata: Vec<(String, String)>,
}

/// Weights of one tensor, joined matrix or stack of matrices.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stored {
    /// How they are stored.
    pub encoding: Encoding,
    /// Whether they are matrices stacked on each other, as those of experts.
    pub stacked: bool,
    /// How many weights.
    pub n_parameter: u64,
    /// How many of them a row has.
    pub n_col: usize,
    /// Their bytes, scales included.
    pub bytes: u64,
}

/// One way to store weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeCount {
    /// Its name: a type such as `q4_K`, or an encoding such as `mlx 4-bit g64`.
    pub name: String,
    /// How many tensors, or joined matrices and stacks of them.
    pub n_tensor: usize,
    /// How many weights.
    pub n_parameter: u64,
    /// Their bytes, scales included.
    pub bytes: u64,
}

impl Checkpoint {
    /// Counts what this checkpoint holds.
    ///
    /// # Errors
    /// If the parts of a quantized encoding do not fit together.
    pub fn summary(&self) -> Result<Summary, OpenError> {
        let types = self.types()?;
        let name = |path: &std::path::Path| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok(Summary {
            kind: self.kind,
            architecture: self.architecture(),
            n_parameter: types.iter().map(|t| t.n_parameter).sum(),
            bytes: self.tensors().iter().map(|t| t.bytes as u64).sum(),
            n_tensor: self.tensors().len(),
            files: self.tensors.files.iter().map(|f| (name(&f.path), f.bytes.len() as u64)).collect(),
            types,
            metadata: self.metadata(),
        })
    }

    fn architecture(&self) -> Option<String> {
        let Some(config) = self.config() else {
            return self.meta().get::<String>("general.architecture").ok().flatten();
        };
        let first = config.get("architectures").and_then(|a| a.get(0));
        first.or_else(|| config.get("model_type")).and_then(Json::as_str).map(str::to_owned)
    }

    fn metadata(&self) -> Vec<(String, String)> {
        match self.config() {
            None => self.meta().iter().map(|(key, value)| (key.to_owned(), value.describe())).collect(),
            Some(Json::Object(map)) => map.iter().map(|(key, value)| (key.clone(), describe(value))).collect(),
            Some(_) => Vec::new(),
        }
    }

    fn types(&self) -> Result<Vec<TypeCount>, OpenError> {
        let mut counts: BTreeMap<String, TypeCount> = BTreeMap::new();
        for stored in self.stored()? {
            let name = match stored.encoding {
                Encoding::Blocks(dtype) => dtype.name().to_owned(),
                joined => joined.to_string(),
            };
            let entry = TypeCount { name: name.clone(), n_tensor: 0, n_parameter: 0, bytes: 0 };
            let row = counts.entry(name).or_insert(entry);
            row.n_tensor += 1;
            row.n_parameter += stored.n_parameter;
            row.bytes += stored.bytes;
        }
        let mut types: Vec<TypeCount> = counts.into_values().collect();
        types.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
        Ok(types)
    }

    /// How the weights of each tensor are stored, or of those that make a quantized matrix together.
    ///
    /// # Errors
    /// If the parts of a quantized encoding do not fit together.
    pub fn stored(&self) -> Result<Vec<Stored>, OpenError> {
        let mut all = Vec::new();
        let joined = self.joined_stems()?;
        let of = |encoding, shape: &[usize], bytes| Stored {
            encoding,
            stacked: shape.len() > 2,
            n_parameter: shape.iter().map(|&d| d as u64).product(),
            n_col: shape.last().copied().unwrap_or(1),
            bytes,
        };
        for stem in &joined {
            let Some(matrix) = self.joined(stem)? else { continue };
            all.push(of(matrix.encoding, &matrix.shape, matrix.parts.iter().map(|p| p.len() as u64).sum()));
        }
        for tensor in self.tensors().iter().filter(|t| !is_part(&t.name, &joined)) {
            all.push(of(Encoding::Blocks(tensor.dtype), &tensor.shape, tensor.bytes as u64));
        }
        Ok(all)
    }

    /// Stems whose weights have an encoding of several parts.
    fn joined_stems(&self) -> Result<HashSet<&str>, OpenError> {
        let mut stems = HashSet::new();
        if self.kind == Kind::Gguf {
            return Ok(stems);
        }
        for tensor in self.tensors() {
            // Only these types can be codes; asking for the rest would fail for, say, integer buffers.
            use mlxr_compute::DType::{F8E4M3, F8E5M2, I8, I32, U8, U32};
            let codes = matches!(tensor.dtype, U8 | U32 | I8 | I32 | F8E4M3 | F8E5M2);
            let ending =
                ["_blocks", ".qweight", ".weight_packed", ".weight"].into_iter().find(|e| tensor.name.ends_with(e));
            let stem = match (codes, ending) {
                (true, Some(ending)) => &tensor.name[..tensor.name.len() - ending.len()],
                (true, None) if matches!(tensor.dtype, F8E4M3 | F8E5M2) => tensor.name.as_str(),
                _ => continue,
            };
            if self.joined(stem)?.is_some_and(|j| !matches!(j.encoding, Encoding::Blocks(_))) {
                stems.insert(stem);
            }
        }
        Ok(stems)
    }
}

/// Whether a tensor is a part of one of these stems.
fn is_part(name: &str, stems: &HashSet<&str>) -> bool {
    const ENDINGS: [&str; 21] = [
        "",
        ".weight",
        ".scales",
        ".biases",
        ".qweight",
        ".qzeros",
        ".g_idx",
        "_blocks",
        "_scales",
        "_scale",
        "_scale_inv",
        ".scale",
        ".weight_scale",
        ".weight_scale_inv",
        ".input_scale",
        ".activation_scale",
        ".weight_shape",
        ".weight_packed",
        ".weight_zero_point",
        ".weight_g_idx",
        ".SCB",
    ];
    if ENDINGS.iter().any(|e| name.strip_suffix(e).is_some_and(|stem| stems.contains(stem))) {
        return true;
    }
    name.find(".weight.").is_some_and(|at| stems.contains(&name[..at])) // bitsandbytes
}
