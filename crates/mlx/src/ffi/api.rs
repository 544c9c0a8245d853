//! The functions of mlx-c 0.7.0 that this crate calls, found in the library at run time.
//!
//! Signatures: mlx-c 0.7.0, `mlx/c/{array,cuda,device,error,fast,memory,ops,stream,string,transforms,vector,version}.h`. A
//! function returns 0, or another number after it has called the error handler.

use std::ffi::{c_char, c_int, c_void};

use libloading::Library;

/// `mlx_array`: a reference-counted node of the graph.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawArray(pub *mut c_void);
/// `mlx_stream`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawStream(pub *mut c_void);
/// `mlx_device`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawDevice(pub *mut c_void);
/// `mlx_device_info`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawInfo(pub *mut c_void);
/// `mlx_string`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawString(pub *mut c_void);
/// `mlx_vector_array`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawVector(pub *mut c_void);
/// `mlx_vector_string`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawStrings(pub *mut c_void);
/// `mlx_fast_metal_kernel`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawKernel(pub *mut c_void);
/// `mlx_fast_metal_kernel_config`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawConfig(pub *mut c_void);
/// `mlx_fast_cuda_kernel`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawCudaKernel(pub *mut c_void);
/// `mlx_fast_cuda_kernel_config`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawCudaConfig(pub *mut c_void);
/// `mlx_optional_int` and, whose values are ints too, `mlx_optional_dtype`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct OptionalInt {
    pub value: c_int,
    pub has_value: bool,
}
/// `mlx_optional_float`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct OptionalFloat {
    pub value: f32,
    pub has_value: bool,
}

impl From<c_int> for OptionalInt {
    fn from(value: c_int) -> OptionalInt {
        OptionalInt { value, has_value: true }
    }
}

/// A table of functions, one row each: equal but for names and types.
macro_rules! functions {
    ($($name:ident: fn($($arg:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions.
        pub(super) struct Api {
            $(pub(super) $name: unsafe extern "C" fn($($arg),*) $(-> $result)?,)*
        }

        impl Api {
            /// Finds every function; the error is the name of one that is missing.
            ///
            /// # Safety
            /// The library must be mlx-c, with these signatures, and must never be unloaded.
            pub(super) unsafe fn find(library: &Library) -> Result<Api, &'static str> {
                Ok(Api {
                    // SAFETY: the caller says that the library's functions have these signatures.
                    $($name: *unsafe { library.get(concat!(stringify!($name), "\0").as_bytes()) }
                        .map_err(|_| stringify!($name))?,)*
                })
            }
        }
    };
}

type A = RawArray;
type S = RawStream;
type Out = *mut RawArray;
type Ints = *const c_int;

functions! {
    mlx_version: fn(*mut RawString) -> c_int;
    mlx_string_new: fn() -> RawString;
    mlx_string_data: fn(RawString) -> *const c_char;
    mlx_string_free: fn(RawString) -> c_int;
    mlx_set_error_handler: fn(
        Option<unsafe extern "C" fn(*const c_char, *mut c_void)>, *mut c_void, Option<unsafe extern "C" fn(*mut c_void)>);

    mlx_device_count: fn(*mut c_int, c_int) -> c_int;
    mlx_device_new_type: fn(c_int, c_int) -> RawDevice;
    mlx_device_free: fn(RawDevice) -> c_int;
    mlx_set_default_device: fn(RawDevice) -> c_int;
    mlx_stream_new_thread_unsafe: fn(RawDevice) -> RawStream;
    mlx_stream_free: fn(RawStream) -> c_int;
    mlx_synchronize: fn(RawStream) -> c_int;
    mlx_device_info_new: fn() -> RawInfo;
    mlx_device_info_get: fn(*mut RawInfo, RawDevice) -> c_int;
    mlx_device_info_get_size: fn(*mut usize, RawInfo, *const c_char) -> c_int;
    mlx_device_info_free: fn(RawInfo) -> c_int;
    mlx_set_cache_limit: fn(*mut usize, usize) -> c_int;
    mlx_get_memory_limit: fn(*mut usize) -> c_int;
    mlx_get_active_memory: fn(*mut usize) -> c_int;

    mlx_array_new: fn() -> A;
    mlx_array_free: fn(A) -> c_int;
    mlx_array_set: fn(Out, A) -> c_int;
    mlx_array_new_float32: fn(f32) -> A;
    mlx_array_new_data: fn(*const c_void, Ints, c_int, c_int) -> A;
    mlx_array_new_data_managed_payload: fn(
        *mut c_void, Ints, c_int, c_int, *mut c_void, unsafe extern "C" fn(*mut c_void)) -> A;
    mlx_array_ndim: fn(A) -> usize;
    mlx_array_shape: fn(A) -> Ints;
    mlx_array_nbytes: fn(A) -> usize;
    mlx_array_dtype: fn(A) -> c_int;
    mlx_array_data_uint8: fn(A) -> *const u8;
    mlx_vector_array_new_data: fn(*const A, usize) -> RawVector;
    mlx_vector_array_free: fn(RawVector) -> c_int;
    mlx_eval: fn(RawVector) -> c_int;
    mlx_async_eval: fn(RawVector) -> c_int;

    mlx_metal_is_available: fn(*mut bool) -> c_int;
    mlx_vector_string_new_data: fn(*const *const c_char, usize) -> RawStrings;
    mlx_vector_string_free: fn(RawStrings) -> c_int;
    mlx_vector_array_new: fn() -> RawVector;
    mlx_vector_array_get: fn(Out, RawVector, usize) -> c_int;
    mlx_fast_metal_kernel_new: fn(
        *const c_char, RawStrings, RawStrings, *const c_char, *const c_char, bool, bool) -> RawKernel;
    mlx_fast_metal_kernel_free: fn(RawKernel);
    mlx_fast_metal_kernel_apply: fn(*mut RawVector, RawKernel, RawVector, RawConfig, S) -> c_int;
    mlx_fast_metal_kernel_config_new: fn() -> RawConfig;
    mlx_fast_metal_kernel_config_free: fn(RawConfig);
    mlx_fast_metal_kernel_config_add_output_arg: fn(RawConfig, Ints, usize, c_int) -> c_int;
    mlx_fast_metal_kernel_config_set_grid: fn(RawConfig, c_int, c_int, c_int) -> c_int;
    mlx_fast_metal_kernel_config_set_thread_group: fn(RawConfig, c_int, c_int, c_int) -> c_int;

    mlx_cuda_is_available: fn(*mut bool) -> c_int;
    mlx_fast_cuda_kernel_new: fn(
        *const c_char, RawStrings, RawStrings, *const c_char, *const c_char, bool, c_int) -> RawCudaKernel;
    mlx_fast_cuda_kernel_free: fn(RawCudaKernel);
    mlx_fast_cuda_kernel_apply: fn(*mut RawVector, RawCudaKernel, RawVector, RawCudaConfig, S) -> c_int;
    mlx_fast_cuda_kernel_config_new: fn() -> RawCudaConfig;
    mlx_fast_cuda_kernel_config_free: fn(RawCudaConfig);
    mlx_fast_cuda_kernel_config_add_output_arg: fn(RawCudaConfig, Ints, usize, c_int) -> c_int;
    mlx_fast_cuda_kernel_config_set_grid: fn(RawCudaConfig, c_int, c_int, c_int) -> c_int;
    mlx_fast_cuda_kernel_config_set_thread_group: fn(RawCudaConfig, c_int, c_int, c_int) -> c_int;

    mlx_negative: fn(Out, A, S) -> c_int;
    mlx_abs: fn(Out, A, S) -> c_int;
    mlx_exp: fn(Out, A, S) -> c_int;
    mlx_erf: fn(Out, A, S) -> c_int;
    mlx_tanh: fn(Out, A, S) -> c_int;
    mlx_sigmoid: fn(Out, A, S) -> c_int;
    mlx_add: fn(Out, A, A, S) -> c_int;
    mlx_subtract: fn(Out, A, A, S) -> c_int;
    mlx_multiply: fn(Out, A, A, S) -> c_int;
    mlx_divide: fn(Out, A, A, S) -> c_int;
    mlx_maximum: fn(Out, A, A, S) -> c_int;
    mlx_minimum: fn(Out, A, A, S) -> c_int;
    mlx_logaddexp: fn(Out, A, A, S) -> c_int;
    mlx_less: fn(Out, A, A, S) -> c_int;
    mlx_less_equal: fn(Out, A, A, S) -> c_int;
    mlx_equal: fn(Out, A, A, S) -> c_int;
    mlx_logical_and: fn(Out, A, A, S) -> c_int;
    mlx_floor_divide: fn(Out, A, A, S) -> c_int;
    mlx_matmul: fn(Out, A, A, S) -> c_int;
    mlx_where: fn(Out, A, A, A, S) -> c_int;
    mlx_round: fn(Out, A, c_int, S) -> c_int;
    mlx_max_axis: fn(Out, A, c_int, bool, S) -> c_int;
    mlx_sum_axis: fn(Out, A, c_int, bool, S) -> c_int;
    mlx_softmax_axis: fn(Out, A, c_int, bool, S) -> c_int;
    mlx_argsort_axis: fn(Out, A, c_int, S) -> c_int;
    mlx_topk_axis: fn(Out, A, c_int, c_int, S) -> c_int;
    mlx_take_axis: fn(Out, A, A, c_int, S) -> c_int;
    mlx_take_along_axis: fn(Out, A, A, c_int, S) -> c_int;
    mlx_scatter_single: fn(Out, A, A, A, c_int, S) -> c_int;
    mlx_reshape: fn(Out, A, Ints, usize, S) -> c_int;
    mlx_transpose_axes: fn(Out, A, Ints, usize, S) -> c_int;
    mlx_broadcast_to: fn(Out, A, Ints, usize, S) -> c_int;
    mlx_zeros: fn(Out, Ints, usize, c_int, S) -> c_int;
    mlx_slice: fn(Out, A, Ints, usize, Ints, usize, Ints, usize, S) -> c_int;
    mlx_slice_update: fn(Out, A, A, Ints, usize, Ints, usize, Ints, usize, S) -> c_int;
    mlx_concatenate_axis: fn(Out, RawVector, c_int, S) -> c_int;
    mlx_astype: fn(Out, A, c_int, S) -> c_int;
    mlx_view: fn(Out, A, c_int, S) -> c_int;
    mlx_contiguous: fn(Out, A, bool, S) -> c_int;
    mlx_gather_mm: fn(Out, A, A, A, A, bool, S) -> c_int;
    mlx_quantized_matmul: fn(
        Out, A, A, A, A, bool, OptionalInt, OptionalInt, *const c_char, S) -> c_int;
    mlx_gather_qmm: fn(
        Out, A, A, A, A, A, A, bool, OptionalInt, OptionalInt, *const c_char, bool, S) -> c_int;
    mlx_dequantize: fn(
        Out, A, A, A, OptionalInt, OptionalInt, *const c_char, A, OptionalInt, S) -> c_int;
    mlx_fast_rms_norm: fn(Out, A, A, f32, S) -> c_int;
    mlx_fast_layer_norm: fn(Out, A, A, A, f32, S) -> c_int;
    mlx_fast_rope_dynamic: fn(Out, A, c_int, bool, OptionalFloat, f32, A, A, S) -> c_int;
    mlx_fast_scaled_dot_product_attention: fn(Out, A, A, A, f32, *const c_char, A, A, bool, S) -> c_int;
}
