//! Reads a GGUF header.

use std::collections::HashSet;
use std::path::Path;

use mlxr_compute::DType;

use super::cursor::Cursor;
use super::metadata::Metadata;
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT};
use crate::error::{CONVERT, DAMAGED, printable};
use crate::tensors::{TensorInfo, size_of_tensor};
use crate::{Limits, OpenError};

/// What a GGUF file says before its data.
#[derive(Debug)]
pub struct Header {
    /// Version of the format: 2 or 3.
    pub version: u32,
    /// Key-value pairs.
    pub metadata: Metadata,
    /// Tensors in the order of the file; their offsets count from the start of the file.
    pub tensors: Vec<TensorInfo>,
    /// Where tensor data starts.
    pub data_start: usize,
    /// Alignment of tensor data in bytes.
    pub alignment: u64,
}

/// Key-value pairs take at least a key's length and byte, a type and a value.
const MIN_KV_BYTES: u64 = 8 + 1 + 4 + 1;
/// Tensors take at least a name's length and byte, the number of dimensions, a type and an offset.
const MIN_TENSOR_BYTES: u64 = 8 + 1 + 4 + 4 + 8;

/// Reads the header of a GGUF file, all of whose bytes are `bytes`; `path` is named in errors.
///
/// # Errors
/// If the file is no GGUF, is damaged or truncated, has a type or version that is not known here, or exceeds a limit.
pub fn parse(path: &Path, bytes: &[u8], limits: &Limits) -> Result<Header, OpenError> {
    let mut cursor = Cursor::new(path, bytes, limits);
    let version = preamble(&mut cursor)?;
    let n_tensor = cursor.u64("number of tensors")?;
    let n_kv = cursor.u64("number of key-value pairs")?;
    let n_kv = cursor.count(n_kv, MIN_KV_BYTES, "number of key-value pairs", ("max_kv", limits.max_kv))?;
    let max = ("max_tensors", limits.max_tensors);
    let n_tensor = cursor.count(n_tensor, MIN_TENSOR_BYTES, "number of tensors", max)?;

    let mut metadata = Metadata::new(path);
    for i in 0..n_kv {
        let key = cursor.name(&format!("key {i}"))?;
        let value = cursor.value(key)?;
        let found = value.describe();
        if metadata.set(key, value).is_some() {
            let expected = "unique keys".to_owned();
            return Err(metadata.error(key, format!("the key twice, now with {found}"), expected));
        }
    }
    let alignment = alignment(&metadata)?;
    let mut tensors = Vec::with_capacity(n_tensor);
    for i in 0..n_tensor {
        tensors.push(tensor(&mut cursor, i)?);
    }
    let data_start = (cursor.position() as u64).next_multiple_of(alignment);
    let header = Header { version, metadata, tensors, data_start: data_start as usize, alignment };
    place(header, path, bytes.len())
}

/// Reads magic and version.
fn preamble(cursor: &mut Cursor<'_>) -> Result<u32, OpenError> {
    let path = cursor.path;
    let magic = cursor.take(4, "the magic \"GGUF\"")?;
    if magic != b"GGUF" {
        let hint = "give a .gguf file, or the folder of a Hugging Face or MLX model";
        return Err(OpenError::file(path, format!("first bytes \"{}\"", printable(magic)), "\"GGUF\"", hint));
    }
    let version = cursor.u32("the version")?;
    match version {
        2 | 3 => Ok(version),
        _ if matches!(version.swap_bytes(), 1..=0xff) => {
            let found = format!("a big-endian file of version {}", version.swap_bytes());
            Err(OpenError::file(path, found, "little endian", "convert the model again without --bigendian"))
        }
        _ => {
            let hint =
                if version == 1 { "convert the model again" } else { "update this program, or convert it again" };
            Err(OpenError::file(path, format!("GGUF version {version}"), "version 2 or 3", hint))
        }
    }
}

fn alignment(metadata: &Metadata) -> Result<u64, OpenError> {
    let alignment = metadata.get::<u32>(ALIGNMENT_KEY)?.map_or(DEFAULT_ALIGNMENT, u64::from);
    if !alignment.is_power_of_two() {
        return Err(metadata.error(ALIGNMENT_KEY, alignment.to_string(), "a power of two".to_owned()));
    }
    Ok(alignment)
}

/// Reads one tensor description. Its offset still counts from the start of the data.
fn tensor(cursor: &mut Cursor<'_>, i: usize) -> Result<TensorInfo, OpenError> {
    let path = cursor.path;
    let name = cursor.name(&format!("name of tensor {i}"))?;
    let shown = printable(name.as_bytes());
    let what = format!("description of tensor `{shown}`");
    let bad = |found: String, expected: &str| OpenError::tensor(path, &shown, [found, expected.to_owned()], DAMAGED);

    let n_dim = cursor.u32(&what)?.into();
    if n_dim > cursor.limits.max_dims {
        let what = format!("number of dimensions of tensor `{shown}`");
        return Err(OpenError::limit(path, what, n_dim, "max_dims", cursor.limits.max_dims));
    }
    let mut shape = Vec::with_capacity(n_dim as usize);
    for _ in 0..n_dim {
        let dim = cursor.u64(&what)?;
        match usize::try_from(dim) {
            Ok(dim) if dim > 0 => shape.push(dim),
            _ => return Err(bad(format!("a dimension of {dim}"), "at least 1")),
        }
    }
    shape.reverse();
    let id = cursor.u32(&what)?;
    let offset = cursor.u64(&what)?;
    let Some(dtype) = DType::from_ggml(id) else {
        let found = [unknown_type(id), "a type that has a decoder here".to_owned()];
        return Err(OpenError::tensor(path, &shown, found, CONVERT));
    };
    let Some(bytes) = size_of_tensor(dtype, &shape) else {
        let expected = format!("rows of a multiple of {}, and a size that fits the memory", dtype.block());
        return Err(bad(format!("shape {shape:?} of type {}", dtype.name()), &expected));
    };
    let Ok(offset) = usize::try_from(offset) else {
        return Err(bad(format!("offset {offset}"), "an offset within the file"));
    };
    Ok(TensorInfo { name: name.to_owned(), dtype, shape, file: 0, offset, bytes })
}

/// What a type number that has no [`DType`] once meant. Source: ggml `ggml.h`.
fn unknown_type(id: u32) -> String {
    match id {
        4 | 5 | 31..=33 | 36..=38 => format!("type {id}, which GGUF has removed"),
        9 => "type 9 (q8_1), which is no type for files".to_owned(),
        _ => format!("unknown type {id}"),
    }
}

/// Checks where tensors lie and makes their offsets count from the start of the file.
fn place(mut header: Header, path: &Path, file_bytes: usize) -> Result<Header, OpenError> {
    let (start, alignment) = (header.data_start, header.alignment);
    let mut seen = HashSet::with_capacity(header.tensors.len());
    for tensor in &mut header.tensors {
        let bad = |found: String, expected: String| {
            OpenError::tensor(path, &printable(tensor.name.as_bytes()), [found, expected], DAMAGED)
        };
        if !(tensor.offset as u64).is_multiple_of(alignment) {
            return Err(bad(format!("offset {}", tensor.offset), format!("a multiple of {alignment}")));
        }
        let at = start.saturating_add(tensor.offset);
        if at.checked_add(tensor.bytes).is_none_or(|end| end > file_bytes) {
            let what = format!("tensor `{}`", printable(tensor.name.as_bytes()));
            let (at, need, left) = (at as u64, tensor.bytes as u64, file_bytes.saturating_sub(at) as u64);
            return Err(OpenError::Truncated { path: path.to_owned(), what, at, need, left });
        }
        if !seen.insert(tensor.name.as_str()) {
            return Err(bad("a second tensor of that name".to_owned(), "unique names".to_owned()));
        }
        tensor.offset = at;
    }
    let mut order: Vec<&TensorInfo> = header.tensors.iter().collect();
    order.sort_by_key(|t| t.offset);
    for pair in order.windows(2) {
        if pair[0].offset + pair[0].bytes > pair[1].offset {
            let name = printable(pair[1].name.as_bytes());
            let found = format!("an overlap with tensor `{}`", printable(pair[0].name.as_bytes()));
            return Err(OpenError::tensor(path, &name, [found, "tensors side by side".to_owned()], DAMAGED));
        }
    }
    Ok(header)
}
