//! Kernels of our own on Metal, which MLX compiles when they first run.

use std::ffi::{CString, c_char, c_int};
use std::sync::Arc;

use mlxr_compute::Error;

use super::api::{Api, RawKernel, RawStrings};
use super::array::{Array, Dtype};
use super::device::{Device, ints};
use crate::NAME;

/// A kernel.
pub struct MetalKernel {
    raw: RawKernel,
    api: Arc<Api>,
}

// SAFETY: a kernel is a name and texts; MLX guards its cache of compiled ones.
unsafe impl Send for MetalKernel {}

impl Drop for MetalKernel {
    fn drop(&mut self) {
        // SAFETY: this is the only handle with this pointer.
        unsafe { (self.api.mlx_fast_metal_kernel_free)(self.raw) };
    }
}

/// C strings of a table or a text of ours.
fn c_string(text: &str) -> CString {
    CString::new(text).expect("our texts have no NUL")
}

impl Device {
    /// Whether the device runs Metal.
    pub fn has_metal(&self) -> bool {
        let mut available = false;
        // SAFETY: a valid pointer; a failure leaves it as it is.
        unsafe { (self.api.mlx_metal_is_available)(&mut available) };
        available
    }

    /// A kernel of this name, whose text reads and writes arrays of these names.
    ///
    /// # Errors
    /// If MLX has no Metal.
    pub fn metal_kernel(
        &self,
        name: &str,
        [inputs, outputs]: [&[&str]; 2],
        [header, text]: [&str; 2],
    ) -> Result<MetalKernel, Error> {
        let (name, header, text) = (c_string(name), c_string(header), c_string(text));
        let strings = |names: &[&str]| -> RawStrings {
            let owned: Vec<CString> = names.iter().map(|n| c_string(n)).collect();
            let pointers: Vec<*const c_char> = owned.iter().map(|n| n.as_ptr()).collect();
            // SAFETY: as many C strings as the length says; MLX copies them.
            unsafe { (self.api.mlx_vector_string_new_data)(pointers.as_ptr(), pointers.len()) }
        };
        let (inputs, outputs) = (strings(inputs), strings(outputs));
        // SAFETY: C strings and vectors of this library, which copies them; the vectors are freed once.
        let raw = unsafe {
            let (name, text, header) = (name.as_ptr(), text.as_ptr(), header.as_ptr());
            let raw = (self.api.mlx_fast_metal_kernel_new)(name, inputs, outputs, text, header, true, false);
            (self.api.mlx_vector_string_free)(inputs);
            (self.api.mlx_vector_string_free)(outputs);
            raw
        };
        if raw.0.is_null() {
            self.note(1);
            self.check()?;
            return Err(Error::Device { backend: NAME, message: "no Metal kernel could be made".to_owned() });
        }
        Ok(MetalKernel { raw, api: self.api.clone() })
    }

    /// The outputs of a kernel: f32 arrays of these lengths. `grid` counts groups of `n_thread` threads.
    pub fn launch(
        &self,
        kernel: &MetalKernel,
        inputs: &[&Array],
        outputs: &[usize],
        grid: [u32; 3],
        n_thread: u32,
    ) -> Vec<Array> {
        // SAFETY: everything is of this library; each pointer to dimensions comes with their number, and what is made
        // here is freed here.
        unsafe {
            let config = (self.api.mlx_fast_metal_kernel_config_new)();
            for &n in outputs {
                let dims = ints(&[n]);
                let add = self.api.mlx_fast_metal_kernel_config_add_output_arg;
                self.note(add(config, dims.as_ptr(), 1, Dtype::F32 as c_int));
            }
            // MLX's grid counts threads.
            let [x, y, z] = [grid[0] * n_thread, grid[1], grid[2]].map(|n| n as c_int);
            self.note((self.api.mlx_fast_metal_kernel_config_set_grid)(config, x, y, z));
            self.note((self.api.mlx_fast_metal_kernel_config_set_thread_group)(config, n_thread as c_int, 1, 1));
            let mut results = (self.api.mlx_vector_array_new)();
            let apply = self.api.mlx_fast_metal_kernel_apply;
            self.note(self.vector(inputs, |inputs| apply(&mut results, kernel.raw, inputs, config, self.stream)));
            let n = (self.api.mlx_vector_array_size)(results);
            let arrays = (0..n).map(|i| self.array(|out| (self.api.mlx_vector_array_get)(out, results, i))).collect();
            (self.api.mlx_vector_array_free)(results);
            (self.api.mlx_fast_metal_kernel_config_free)(config);
            arrays
        }
    }
}
