//! Writes safetensors files, tensor by tensor, without holding them.

use std::path::{Path, PathBuf};

use mlxr_compute::DType;

use super::DTYPES;
use crate::OpenError;
use crate::atomic::AtomicFile;
use crate::error::{CONVERT, DAMAGED};
use crate::tensors::size_of_tensor;

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name in the file.
    pub name: String,
    /// Type of its numbers; one that safetensors has.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
}

/// A safetensors file being written. It gets its name in [`Writer::finish`]; dropped before, it leaves nothing.
pub struct Writer {
    file: AtomicFile,
    path: PathBuf,
    /// Bytes that are still to come.
    left: usize,
}

impl Writer {
    /// Writes the header. The tensors' bytes follow through [`Writer::push`], in the order of `entries`.
    ///
    /// # Errors
    /// If the file cannot be written, a type is none of safetensors', or a size overflows.
    pub fn create(path: &Path, metadata: &[(&str, &str)], entries: &[Entry]) -> Result<Writer, OpenError> {
        let (header, left) = header(path, metadata, entries)?;
        let mut file = AtomicFile::create(path)?;
        file.write(&header)?;
        Ok(Writer { file, path: path.to_owned(), left })
    }

    /// Appends bytes of tensors.
    ///
    /// # Errors
    /// If the file cannot be written, or is full.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), OpenError> {
        self.left = self.left.checked_sub(bytes.len()).ok_or_else(|| {
            let found = format!("{} bytes to write", bytes.len());
            OpenError::file(&self.path, found, format!("at most {}", self.left), "write what the entries announce")
        })?;
        self.file.write(bytes)
    }

    /// Gives the complete file its name.
    ///
    /// # Errors
    /// If bytes are missing, or the file cannot be written.
    pub fn finish(self) -> Result<(), OpenError> {
        if self.left > 0 {
            let found = format!("{} bytes missing", self.left);
            return Err(OpenError::file(&self.path, found, "0", "write all tensors before `finish`"));
        }
        self.file.finish()
    }
}

/// Size and header, padded with spaces so that the data starts at a multiple of 8; and the size of the data.
fn header(path: &Path, metadata: &[(&str, &str)], entries: &[Entry]) -> Result<(Vec<u8>, usize), OpenError> {
    let mut json = serde_json::Map::new();
    if !metadata.is_empty() {
        let pairs: serde_json::Map<_, _> = metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect();
        json.insert("__metadata__".to_owned(), pairs.into());
    }
    let mut at = 0usize;
    for entry in entries {
        let Some((name, _)) = DTYPES.iter().find(|(_, dtype)| *dtype == entry.dtype) else {
            let found = [format!("type {}", entry.dtype.name()), "a type that safetensors has".to_owned()];
            return Err(OpenError::tensor(path, &entry.name, found, CONVERT));
        };
        let end = size_of_tensor(entry.dtype, &entry.shape).and_then(|n| n.checked_add(at));
        let end = end.ok_or_else(|| {
            let found = [format!("shape {:?}", entry.shape), "a size that fits the memory".to_owned()];
            OpenError::tensor(path, &entry.name, found, DAMAGED)
        })?;
        let value = serde_json::json!({"dtype": name, "shape": entry.shape, "data_offsets": [at, end]});
        json.insert(entry.name.clone(), value);
        at = end;
    }
    let mut text = serde_json::Value::from(json).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.append(&mut text);
    Ok((out, at))
}
