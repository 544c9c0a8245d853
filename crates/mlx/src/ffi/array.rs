//! A node of MLX's graph.

use std::ffi::c_int;
use std::sync::Arc;

use super::api::{Api, RawArray};

/// Types of numbers, as `mlx_dtype` counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
#[allow(missing_docs)] // MLX's own names
pub enum Dtype {
    Bool = 0,
    U8 = 1,
    U16 = 2,
    U32 = 3,
    I8 = 5,
    I32 = 7,
    F16 = 9,
    F32 = 10,
    BF16 = 12,
}

impl Dtype {
    const ALL: [Dtype; 9] =
        [Dtype::Bool, Dtype::U8, Dtype::U16, Dtype::U32, Dtype::I8, Dtype::I32, Dtype::F16, Dtype::F32, Dtype::BF16];

    /// Bytes of a number.
    pub fn size(self) -> usize {
        match self {
            Dtype::Bool | Dtype::U8 | Dtype::I8 => 1,
            Dtype::U16 | Dtype::F16 | Dtype::BF16 => 2,
            Dtype::U32 | Dtype::I32 | Dtype::F32 => 4,
        }
    }
}

/// An array: numbers, or the operation that will make them. Cloning shares both.
pub struct Array {
    pub(super) raw: RawArray,
    pub(super) api: Arc<Api>,
}

// SAFETY: an `mlx_array` is a shared pointer with an atomic count to a node that belongs to no thread; only streams do,
// and those of `Device` may be used by any thread, one at a time, which its not being `Sync` sees to.
unsafe impl Send for Array {}

impl Array {
    /// Its dimensions; empty where an operation failed.
    pub fn shape(&self) -> Vec<usize> {
        // SAFETY: `raw` is an array of this library; it keeps its shape alive.
        let (n, dims) = unsafe { ((self.api.mlx_array_ndim)(self.raw), (self.api.mlx_array_shape)(self.raw)) };
        if dims.is_null() {
            return Vec::new();
        }
        // SAFETY: mlx-c returns a pointer to as many dimensions as `ndim` says.
        let dims: &[c_int] = unsafe { std::slice::from_raw_parts(dims, n) };
        dims.iter().map(|&d| d as usize).collect()
    }
}

impl Array {
    /// Its type; that of an empty array is `F32`.
    pub fn dtype(&self) -> Dtype {
        // SAFETY: `raw` is an array of this library.
        let number = unsafe { (self.api.mlx_array_dtype)(self.raw) };
        Dtype::ALL.into_iter().find(|d| *d as i32 == number).unwrap_or(Dtype::F32)
    }
}

impl Clone for Array {
    fn clone(&self) -> Array {
        // SAFETY: both are arrays of this library; `set` makes the new one share the old one's node. It fails only for
        // an empty array, whose clone stays empty.
        let raw = unsafe {
            let mut raw = (self.api.mlx_array_new)();
            (self.api.mlx_array_set)(&mut raw, self.raw);
            raw
        };
        Array { raw, api: self.api.clone() }
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        // SAFETY: this is the only handle with this pointer.
        unsafe { (self.api.mlx_array_free)(self.raw) };
    }
}
