//! The tensors of a checkpoint: names, types, places in mapped files.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use mlxr_compute::{Bytes, DType};

use crate::error::{DAMAGED, printable};
use crate::{Limits, OpenError};

/// A tensor as a file describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name in the file.
    pub name: String,
    /// Type of its numbers or blocks.
    pub dtype: DType,
    /// Dimensions, outermost first, as in `[n_out, n_in]`.
    pub shape: Vec<usize>,
    /// Which of the checkpoint's files has it.
    pub file: usize,
    /// Where its bytes start in that file.
    pub offset: usize,
    /// How many bytes it has.
    pub bytes: usize,
}

impl TensorInfo {
    /// How many numbers it has.
    pub fn elements(&self) -> usize {
        self.shape.iter().product() // cannot overflow: checked when the file was opened
    }
}

/// A mapped file.
#[derive(Debug, Clone)]
pub(crate) struct Mapped {
    pub path: PathBuf,
    pub bytes: Bytes,
}

/// All tensors of a checkpoint, in the order of its files.
#[derive(Debug, Default)]
pub(crate) struct Tensors {
    pub files: Vec<Mapped>,
    pub list: Vec<TensorInfo>,
    index: HashMap<String, usize>,
}

impl Tensors {
    /// Adds a file and its tensors; their `file` is set here.
    ///
    /// # Errors
    /// If a name is taken, or there are too many tensors.
    pub fn add(
        &mut self,
        path: &Path,
        bytes: Bytes,
        tensors: Vec<TensorInfo>,
        limits: &Limits,
    ) -> Result<(), OpenError> {
        let n = (self.list.len() + tensors.len()) as u64;
        if n > limits.max_tensors {
            return Err(OpenError::limit(path, "number of tensors", n, "max_tensors", limits.max_tensors));
        }
        let file = self.files.len();
        for tensor in tensors {
            if let Some(&i) = self.index.get(&tensor.name) {
                let other = self.files.get(self.list[i].file).map_or(path, |f| f.path.as_path());
                let found = format!("a second tensor of that name, the first is in {}", other.display());
                let name = printable(tensor.name.as_bytes());
                return Err(OpenError::tensor(path, &name, [found, "unique names".to_owned()], DAMAGED));
            }
            self.index.insert(tensor.name.clone(), self.list.len());
            self.list.push(TensorInfo { file, ..tensor });
        }
        self.files.push(Mapped { path: path.to_owned(), bytes });
        Ok(())
    }

    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.index.get(name).map(|&i| &self.list[i])
    }

    /// The file that has a tensor.
    pub fn path(&self, tensor: &TensorInfo) -> &Path {
        &self.files[tensor.file].path
    }

    /// The bytes of a tensor of this table.
    pub fn bytes(&self, tensor: &TensorInfo) -> Bytes {
        let range = tensor.offset..tensor.offset + tensor.bytes;
        self.files[tensor.file].bytes.slice(range).expect("readers admit no tensor that ends outside its file")
    }
}

/// Bytes of a tensor of this shape, or `None` when rows are no whole blocks or the size overflows.
pub(crate) fn size_of_tensor(dtype: DType, shape: &[usize]) -> Option<usize> {
    let row = dtype.bytes_of(shape.last().copied().unwrap_or(1))?;
    let outer = &shape[..shape.len().saturating_sub(1)];
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    outer.iter().try_fold(row, |n, &d| n.checked_mul(d)).filter(|&n| n <= isize::MAX as usize)
}
