//! Writes GGUF files, tensor by tensor, without holding them.

use std::path::Path;

use mlxr_compute::DType;

use super::metadata::Metadata;
use super::value::{Array, Value};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT};
use crate::OpenError;
use crate::atomic::AtomicFile;
use crate::error::{CONVERT, DAMAGED};
use crate::tensors::size_of_tensor;

/// Version that is written.
const VERSION: u32 = 3;

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name in the file.
    pub name: String,
    /// Type of its numbers or blocks; one that GGUF has.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
}

/// A GGUF file being written. It gets its name in [`Writer::finish`]; dropped before, it leaves nothing.
///
/// ```no_run
/// # use mlxr_weights::gguf::{Entry, Metadata, Value, Writer};
/// # use mlxr_compute::DType;
/// # fn main() -> Result<(), mlxr_weights::OpenError> {
/// let path = std::path::Path::new("model.gguf");
/// let mut metadata = Metadata::new(path);
/// metadata.set("general.architecture", Value::Str("llama".into()));
/// let entries = [Entry { name: "output_norm.weight".into(), dtype: DType::F32, shape: vec![2] }];
/// let mut writer = Writer::create(path, &metadata, &entries)?;
/// writer.push(&1f32.to_le_bytes())?;
/// writer.push(&2f32.to_le_bytes())?;
/// writer.finish()
/// # }
/// ```
pub struct Writer {
    file: AtomicFile,
    path: std::path::PathBuf,
    alignment: usize,
    /// Names and sizes of the tensors that are to come, the next one last.
    todo: Vec<(String, usize)>,
    /// Bytes of the next tensor that are written.
    done: usize,
}

impl Writer {
    /// Writes the header. The tensors' bytes follow through [`Writer::push`], in the order of `entries`.
    ///
    /// # Errors
    /// If the file cannot be written, a type is none of GGUF's, or a shape has no whole blocks.
    pub fn create(path: &Path, metadata: &Metadata, entries: &[Entry]) -> Result<Writer, OpenError> {
        let alignment = metadata.get::<u32>(ALIGNMENT_KEY)?.map_or(DEFAULT_ALIGNMENT as usize, |a| a as usize);
        if !alignment.is_power_of_two() {
            return Err(metadata.error(ALIGNMENT_KEY, alignment.to_string(), "a power of two".to_owned()));
        }
        let (header, sizes) = header(path, metadata, entries, alignment)?;
        let mut file = AtomicFile::create(path)?;
        file.write(&header)?;
        file.zeros(header.len().next_multiple_of(alignment) - header.len())?;
        let todo = entries.iter().map(|e| e.name.clone()).zip(sizes).rev().collect();
        Ok(Writer { file, path: path.to_owned(), alignment, todo, done: 0 })
    }

    /// Appends bytes to the current tensor; when it is complete, the next one is current. Bytes of two tensors may
    /// not come in one call.
    ///
    /// # Errors
    /// If the file cannot be written, or the tensor is full.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), OpenError> {
        let (name, size) = match self.todo.last() {
            Some((name, size)) => (name.as_str(), *size),
            None => ("after the last", 0),
        };
        let done = self.done + bytes.len();
        if done > size {
            let found = [format!("{done} bytes to write"), format!("{size}")];
            return Err(OpenError::tensor(&self.path, name, found, "write as many bytes as shape and type need"));
        }
        self.file.write(bytes)?;
        self.done = done;
        if done == size {
            self.file.zeros(size.next_multiple_of(self.alignment) - size)?;
            self.todo.pop();
            self.done = 0;
        }
        Ok(())
    }

    /// Gives the complete file its name.
    ///
    /// # Errors
    /// If tensors are missing, or the file cannot be written.
    pub fn finish(self) -> Result<(), OpenError> {
        if let Some((name, size)) = self.todo.last() {
            let found = [format!("{} bytes written", self.done), format!("{size}")];
            return Err(OpenError::tensor(&self.path, name, found, "write all tensors before `finish`"));
        }
        self.file.finish()
    }
}

/// The header without padding, and the size of each tensor.
fn header(
    path: &Path,
    metadata: &Metadata,
    entries: &[Entry],
    alignment: usize,
) -> Result<(Vec<u8>, Vec<usize>), OpenError> {
    let mut out = Vec::new();
    out.extend_from_slice(b"GGUF");
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&(entries.len() as u64).to_le_bytes());
    out.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata.iter() {
        put_string(&mut out, key.as_bytes());
        out.extend_from_slice(&value.type_id().to_le_bytes());
        put_value(&mut out, value);
    }
    let mut sizes = Vec::with_capacity(entries.len());
    let mut offset = 0usize;
    for entry in entries {
        let Some(id) = entry.dtype.row().ggml else {
            let found = [format!("type {}", entry.dtype.name()), "a type that GGUF has".to_owned()];
            return Err(OpenError::tensor(path, &entry.name, found, CONVERT));
        };
        let size = size_of_tensor(entry.dtype, &entry.shape).filter(|&n| n > 0).ok_or_else(|| {
            let found = format!("shape {:?} of type {}", entry.shape, entry.dtype.name());
            let expected = format!("dimensions of at least 1, rows of a multiple of {}", entry.dtype.block());
            OpenError::tensor(path, &entry.name, [found, expected], DAMAGED)
        })?;
        put_string(&mut out, entry.name.as_bytes());
        out.extend_from_slice(&(entry.shape.len() as u32).to_le_bytes());
        entry.shape.iter().rev().for_each(|&d| out.extend_from_slice(&(d as u64).to_le_bytes()));
        out.extend_from_slice(&id.to_le_bytes());
        out.extend_from_slice(&(offset as u64).to_le_bytes());
        offset += size.next_multiple_of(alignment);
        sizes.push(size);
    }
    Ok((out, sizes))
}

fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text);
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(x) => out.push(*x),
        Value::I8(x) => out.extend_from_slice(&x.to_le_bytes()),
        Value::U16(x) => out.extend_from_slice(&x.to_le_bytes()),
        Value::I16(x) => out.extend_from_slice(&x.to_le_bytes()),
        Value::U32(x) => out.extend_from_slice(&x.to_le_bytes()),
        Value::I32(x) => out.extend_from_slice(&x.to_le_bytes()),
        Value::U64(x) => out.extend_from_slice(&x.to_le_bytes()),
        Value::I64(x) => out.extend_from_slice(&x.to_le_bytes()),
        Value::F32(x) => out.extend_from_slice(&x.to_le_bytes()),
        Value::F64(x) => out.extend_from_slice(&x.to_le_bytes()),
        Value::Bool(x) => out.push((*x).into()),
        Value::Str(x) => put_string(out, x.as_bytes()),
        Value::RawStr(x) => put_string(out, x),
        Value::Array(x) => put_array(out, x),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    out.extend_from_slice(&array.type_id().to_le_bytes());
    out.extend_from_slice(&(array.len() as u64).to_le_bytes());
    match array {
        Array::U8(a) => out.extend_from_slice(a),
        Array::I8(a) => a.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
        Array::U16(a) => a.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
        Array::I16(a) => a.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
        Array::U32(a) => a.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
        Array::I32(a) => a.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
        Array::U64(a) => a.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
        Array::I64(a) => a.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
        Array::F32(a) => a.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
        Array::F64(a) => a.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
        Array::Bool(a) => a.iter().for_each(|&x| out.push(x.into())),
        Array::Str(a) => a.iter().for_each(|x| put_string(out, x)),
        Array::Array(a) => a.iter().for_each(|x| put_array(out, x)),
    }
}
