//! Kernels of our own on a GPU, which MLX compiles when they first run.

use std::ffi::{CString, c_char, c_int};
use std::sync::Arc;

use mlxr_compute::Error;

use super::api::{Api, RawConfig, RawCudaConfig, RawCudaKernel, RawKernel, RawStrings};
use super::array::{Array, Dtype};
use super::device::{Device, ints};
use crate::NAME;
use crate::kernel::source::Platform;

/// A kernel.
pub struct GpuKernel {
    raw: Raw,
    api: Arc<Api>,
}

enum Raw {
    Metal(RawKernel),
    Cuda(RawCudaKernel),
}

// SAFETY: a kernel is a name and texts; MLX guards its cache of compiled ones.
unsafe impl Send for GpuKernel {}

impl Drop for GpuKernel {
    fn drop(&mut self) {
        // SAFETY: this is the only handle with this pointer.
        unsafe {
            match self.raw {
                Raw::Metal(raw) => (self.api.mlx_fast_metal_kernel_free)(raw),
                Raw::Cuda(raw) => (self.api.mlx_fast_cuda_kernel_free)(raw),
            }
        }
    }
}

/// An output of a kernel.
#[derive(Debug, Clone, Copy)]
pub struct Output<'a> {
    /// Its shape.
    pub shape: &'a [usize],
    /// Its numbers.
    pub dtype: Dtype,
}

/// C strings of a table or a text of ours.
fn c_string(text: &str) -> CString {
    CString::new(text).expect("our texts have no NUL")
}

impl Device {
    /// What compiles our kernels here, if anything does.
    pub fn platform(&self) -> Option<Platform> {
        let (mut metal, mut cuda) = (false, false);
        // SAFETY: valid pointers; a failure leaves the answers as they are.
        unsafe {
            (self.api.mlx_metal_is_available)(&mut metal);
            (self.api.mlx_cuda_is_available)(&mut cuda);
        }
        match (metal, cuda) {
            (true, _) => Some(Platform::Metal),
            (_, true) => Some(Platform::Cuda),
            _ => None,
        }
    }

    /// A kernel of this name, whose text reads and writes arrays of these names.
    ///
    /// # Errors
    /// If MLX has no such platform.
    pub fn kernel(
        &self,
        platform: Platform,
        name: &str,
        [inputs, outputs]: [&[&str]; 2],
        [header, text]: [&str; 2],
    ) -> Result<GpuKernel, Error> {
        let (name, header, text) = (c_string(name), c_string(header), c_string(text));
        let strings = |names: &[&str]| -> RawStrings {
            let owned: Vec<CString> = names.iter().map(|n| c_string(n)).collect();
            let pointers: Vec<*const c_char> = owned.iter().map(|n| n.as_ptr()).collect();
            // SAFETY: as many C strings as the length says; MLX copies them.
            unsafe { (self.api.mlx_vector_string_new_data)(pointers.as_ptr(), pointers.len()) }
        };
        let (inputs, outputs) = (strings(inputs), strings(outputs));
        // SAFETY: C strings and vectors of this library, which copies them; the vectors are freed once.
        let (raw, null) = unsafe {
            let (name, text, header) = (name.as_ptr(), text.as_ptr(), header.as_ptr());
            let made = match platform {
                Platform::Metal => {
                    let raw = (self.api.mlx_fast_metal_kernel_new)(name, inputs, outputs, text, header, true, false);
                    (Raw::Metal(raw), raw.0.is_null())
                }
                Platform::Cuda => {
                    let raw = (self.api.mlx_fast_cuda_kernel_new)(name, inputs, outputs, text, header, true, 0);
                    (Raw::Cuda(raw), raw.0.is_null())
                }
            };
            (self.api.mlx_vector_string_free)(inputs);
            (self.api.mlx_vector_string_free)(outputs);
            made
        };
        if null {
            self.note(1);
            self.check()?;
            return Err(Error::Device { backend: NAME, message: format!("no {platform:?} kernel could be made") });
        }
        Ok(GpuKernel { raw, api: self.api.clone() })
    }

    /// The outputs of a kernel. `grid` counts groups of `n_thread` threads.
    pub fn launch(
        &self,
        kernel: &GpuKernel,
        inputs: &[&Array],
        outputs: &[Output<'_>],
        grid: [u32; 3],
        n_thread: u32,
    ) -> Vec<Array> {
        // MLX's grid counts threads.
        let threads = [grid[0] * n_thread, grid[1], grid[2]].map(|n| n as c_int);
        // SAFETY: everything is of this library; what is made here is freed here.
        unsafe {
            let mut results = (self.api.mlx_vector_array_new)();
            let code = self.vector(inputs, |inputs| match kernel.raw {
                Raw::Metal(raw) => {
                    let config = self.metal_config(outputs, threads, n_thread as c_int);
                    let code = (self.api.mlx_fast_metal_kernel_apply)(&mut results, raw, inputs, config, self.stream);
                    (self.api.mlx_fast_metal_kernel_config_free)(config);
                    code
                }
                Raw::Cuda(raw) => {
                    let config = self.cuda_config(outputs, threads, n_thread as c_int);
                    let code = (self.api.mlx_fast_cuda_kernel_apply)(&mut results, raw, inputs, config, self.stream);
                    (self.api.mlx_fast_cuda_kernel_config_free)(config);
                    code
                }
            });
            self.note(code);
            let get = self.api.mlx_vector_array_get;
            // Where the call failed the arrays stay empty, so that what depends on them fails too.
            let one = |i: usize| self.array(|out| if code == 0 { get(out, results, i) } else { 0 });
            let arrays = (0..outputs.len()).map(one).collect();
            (self.api.mlx_vector_array_free)(results);
            arrays
        }
    }

    /// # Safety
    /// The caller frees the result.
    unsafe fn metal_config(&self, outputs: &[Output<'_>], [x, y, z]: [c_int; 3], n_thread: c_int) -> RawConfig {
        // SAFETY: each pointer to dimensions comes with their number.
        unsafe {
            let config = (self.api.mlx_fast_metal_kernel_config_new)();
            for output in outputs {
                let (dims, add) = (ints(output.shape), self.api.mlx_fast_metal_kernel_config_add_output_arg);
                self.note(add(config, dims.as_ptr(), dims.len(), output.dtype as c_int));
            }
            self.note((self.api.mlx_fast_metal_kernel_config_set_grid)(config, x, y, z));
            self.note((self.api.mlx_fast_metal_kernel_config_set_thread_group)(config, n_thread, 1, 1));
            config
        }
    }

    /// # Safety
    /// The caller frees the result.
    unsafe fn cuda_config(&self, outputs: &[Output<'_>], [x, y, z]: [c_int; 3], n_thread: c_int) -> RawCudaConfig {
        // SAFETY: each pointer to dimensions comes with their number.
        unsafe {
            let config = (self.api.mlx_fast_cuda_kernel_config_new)();
            for output in outputs {
                let (dims, add) = (ints(output.shape), self.api.mlx_fast_cuda_kernel_config_add_output_arg);
                self.note(add(config, dims.as_ptr(), dims.len(), output.dtype as c_int));
            }
            self.note((self.api.mlx_fast_cuda_kernel_config_set_grid)(config, x, y, z));
            self.note((self.api.mlx_fast_cuda_kernel_config_set_thread_group)(config, n_thread, 1, 1));
            config
        }
    }
}
