//! Reads a safetensors header.

use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::DTYPES;
use crate::error::{CONVERT, DAMAGED, printable};
use crate::tensors::{TensorInfo, size_of_tensor};
use crate::{Limits, OpenError};

/// What a safetensors file says before its data.
#[derive(Debug)]
pub struct Header {
    /// `__metadata__`: strings, in the order of the file.
    pub metadata: Vec<(String, String)>,
    /// Tensors in the order of their data; their offsets count from the start of the file.
    pub tensors: Vec<TensorInfo>,
}

/// Reads the header of a safetensors file, all of whose bytes are `bytes`; `path` is named in errors.
///
/// # Errors
/// If the file is no safetensors, is damaged or truncated, has a type that is not known here, or exceeds a limit.
pub fn parse(path: &Path, bytes: &[u8], limits: &Limits) -> Result<Header, OpenError> {
    let truncated = |what: &str, at: u64, need: u64| {
        let (path, what, left) = (path.to_owned(), what.to_owned(), bytes.len() as u64 - at);
        OpenError::Truncated { path, what, at, need, left }
    };
    let Some((size, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(truncated("the size of the header", 0, 8));
    };
    let size = u64::from_le_bytes(*size);
    if size > limits.max_header_bytes {
        let max = limits.max_header_bytes;
        return Err(OpenError::limit(path, "size of the header", size, "max_header_bytes", max));
    }
    if size > rest.len() as u64 {
        return Err(truncated("the header", 8, size));
    }
    let (json, data) = rest.split_at(size as usize);
    let raw: RawHeader = serde_json::from_slice(json).map_err(|e| {
        OpenError::file(path, format!("a header that is no valid JSON: {e}"), "a safetensors header", DAMAGED)
    })?;
    if raw.tensors.len() as u64 > limits.max_tensors {
        let n = raw.tensors.len() as u64;
        return Err(OpenError::limit(path, "number of tensors", n, "max_tensors", limits.max_tensors));
    }
    let data_start = 8 + json.len();
    let tensors = raw.tensors.into_iter().map(|(name, t)| tensor(path, name, t, data_start, limits));
    let mut tensors = tensors.collect::<Result<Vec<_>, _>>()?;
    tensors.sort_by_key(|t| (t.offset, t.bytes));
    let mut end = data_start;
    let mut last = "the header";
    for tensor in &tensors {
        let shown = printable(tensor.name.as_bytes());
        if tensor.offset < end {
            let found = format!("an overlap with {}", printable(last.as_bytes()));
            return Err(OpenError::tensor(path, &shown, [found, "tensors side by side".to_owned()], DAMAGED));
        }
        end = tensor.offset + tensor.bytes;
        if end > bytes.len() {
            return Err(truncated(
                &format!("tensor `{shown}`"),
                tensor.offset.min(bytes.len()) as u64,
                tensor.bytes as u64,
            ));
        }
        last = &tensor.name;
    }
    debug_assert!(end <= data_start + data.len());
    Ok(Header { metadata: raw.metadata, tensors })
}

/// Checks one entry; its offsets then count from the start of the file.
fn tensor(
    path: &Path,
    name: String,
    raw: RawTensor,
    data_start: usize,
    limits: &Limits,
) -> Result<TensorInfo, OpenError> {
    let shown = printable(name.as_bytes());
    let bad = |found: String, expected: String| OpenError::tensor(path, &shown, [found, expected], DAMAGED);
    if name.is_empty() {
        return Err(bad("an empty name".to_owned(), "a name".to_owned()));
    }
    if raw.shape.len() as u64 > limits.max_dims {
        let what = format!("number of dimensions of tensor `{shown}`");
        return Err(OpenError::limit(path, what, raw.shape.len() as u64, "max_dims", limits.max_dims));
    }
    let Some(&(_, dtype)) = DTYPES.iter().find(|(name, _)| *name == raw.dtype) else {
        let known: Vec<&str> = DTYPES.iter().map(|(name, _)| *name).collect();
        let found = [format!("type \"{}\"", printable(raw.dtype.as_bytes())), known.join(" ")];
        return Err(OpenError::tensor(path, &shown, found, CONVERT));
    };
    let shape: Vec<usize> = raw
        .shape
        .iter()
        .map(|&d| usize::try_from(d))
        .collect::<Result<_, _>>()
        .map_err(|_| bad(format!("shape {:?}", raw.shape), "dimensions that fit the memory".to_owned()))?;
    let Some(bytes) = size_of_tensor(dtype, &shape) else {
        return Err(bad(format!("shape {shape:?}"), "a size that fits the memory".to_owned()));
    };
    let [from, to] = raw.data_offsets;
    if from.checked_add(bytes as u64) != Some(to) {
        let expected = format!("{bytes} bytes, as shape {shape:?} of {} needs", raw.dtype);
        return Err(bad(format!("data_offsets [{from}, {to}]"), expected));
    }
    let offset = usize::try_from(from).ok().and_then(|f| f.checked_add(data_start));
    let offset = offset.filter(|o| o.checked_add(bytes).is_some());
    let Some(offset) = offset else {
        return Err(bad(format!("data_offsets [{from}, {to}]"), "offsets within the file".to_owned()));
    };
    Ok(TensorInfo { name, dtype, shape, file: 0, offset, bytes })
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object of dtype, shape and data_offsets")]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

#[derive(Default)]
struct RawHeader {
    metadata: Vec<(String, String)>,
    tensors: Vec<(String, RawTensor)>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawHeader, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut header = RawHeader::default();
        let mut has_metadata = false;
        while let Some(name) = map.next_key::<String>()? {
            if name != "__metadata__" {
                let tensor = map.next_value::<RawTensor>();
                header.tensors.push((name.clone(), tensor.map_err(|e| in_entry(&name, e))?));
                continue;
            }
            if std::mem::replace(&mut has_metadata, true) {
                return Err(A::Error::custom("`__metadata__` twice"));
            }
            let strings = map.next_value::<Strings>().map_err(|e| in_entry(&name, e))?;
            header.metadata = strings.0;
        }
        Ok(header)
    }
}

fn in_entry<E: serde::de::Error>(name: &str, error: E) -> E {
    E::custom(format_args!("`{}`: {error}", printable(name.as_bytes())))
}

/// An object of strings, in order.
struct Strings(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Strings, D::Error> {
        struct StringsVisitor;
        impl<'de> Visitor<'de> for StringsVisitor {
            type Value = Strings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Strings, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Strings(pairs))
            }
        }
        deserializer.deserialize_map(StringsVisitor)
    }
}
