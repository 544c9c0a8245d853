//! safetensors: named tensors in one file.
//!
//! ```text
//! n       u64 little endian    bytes of the header
//! header  JSON                 {"__metadata__": {..}, NAME: {"dtype": "F32", "shape": [..], "data_offsets": [from, to]}}
//! data                         offsets count from here; tensors neither overlap nor reach beyond the end
//! ```
//! Source: huggingface/safetensors, README "Format" and `safetensors/src/tensor.rs`.

mod read;
mod write;

pub use read::{Header, parse};
pub use write::{Entry, Writer};

use mlxr_compute::DType;

/// Names of types in the file. Source: `enum Dtype`, huggingface/safetensors `safetensors/src/tensor.rs`.
pub(crate) const DTYPES: [(&str, DType); 16] = [
    ("F32", DType::F32),
    ("F16", DType::F16),
    ("BF16", DType::BF16),
    ("F64", DType::F64),
    ("I8", DType::I8),
    ("I16", DType::I16),
    ("I32", DType::I32),
    ("I64", DType::I64),
    ("U8", DType::U8),
    ("U16", DType::U16),
    ("U32", DType::U32),
    ("U64", DType::U64),
    ("BOOL", DType::Bool),
    ("F8_E4M3", DType::F8E4M3),
    ("F8_E5M2", DType::F8E5M2),
    ("F8_E8M0", DType::F8E8M0),
];
