//! The operations, as methods of [`Device`]. Names and meanings are MLX's (`mlx/ops.h`, `mlx/fast.h` @ 0.32.2).

use std::ffi::{CStr, c_int};
use std::ptr;

use super::api::{OptionalFloat, OptionalInt, RawArray};
use super::array::{Array, Dtype};
use super::device::{Device, ints};

/// How a quantized matrix is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    /// Bits a weight.
    pub bits: i32,
    /// Weights that share a scale.
    pub group: i32,
    /// `affine`, `mxfp4`, `mxfp8` or `nvfp4`.
    pub mode: &'static CStr,
}

/// What `rope` rotates.
#[derive(Debug, Clone, Copy)]
pub struct Rotation {
    /// Dimensions from the first on.
    pub dims: usize,
    /// Whether neighbours form a pair, instead of the halves.
    pub interleaved: bool,
}

/// Methods that pass arrays on: equal but for names.
macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident($($arg:ident),*) = $function:ident;)*) => {
        impl Device {
            $($(#[$doc])* pub fn $name(&self, $($arg: &Array),*) -> Array {
                // SAFETY: arrays and stream are of this library, and `out` is an array to fill.
                self.array(|out| unsafe { (self.api.$function)(out, $($arg.raw,)* self.stream) })
            })*
        }
    };
}

methods! {
    /// `-x`.
    negative(x) = mlx_negative;
    /// `|x|`.
    abs(x) = mlx_abs;
    /// `e^x`.
    exp(x) = mlx_exp;
    /// The error function.
    erf(x) = mlx_erf;
    /// `tanh(x)`.
    tanh(x) = mlx_tanh;
    /// `1 / (1 + e^-x)`.
    sigmoid(x) = mlx_sigmoid;
    /// `a + b`.
    add(a, b) = mlx_add;
    /// `a - b`.
    subtract(a, b) = mlx_subtract;
    /// `a * b`.
    multiply(a, b) = mlx_multiply;
    /// `a / b`.
    divide(a, b) = mlx_divide;
    /// The larger.
    maximum(a, b) = mlx_maximum;
    /// The smaller.
    minimum(a, b) = mlx_minimum;
    /// `ln(e^a + e^b)`.
    logaddexp(a, b) = mlx_logaddexp;
    /// `a < b`.
    less(a, b) = mlx_less;
    /// `a <= b`.
    less_equal(a, b) = mlx_less_equal;
    /// `a == b`.
    equal(a, b) = mlx_equal;
    /// `a && b`.
    logical_and(a, b) = mlx_logical_and;
    /// `a / b`, rounded down.
    floor_divide(a, b) = mlx_floor_divide;
    /// Product of matrices in the last two dimensions.
    matmul(a, b) = mlx_matmul;
    /// `a` where `condition`, else `b`.
    select(condition, a, b) = mlx_where;
}

/// An array that stands for none.
const NONE: RawArray = RawArray(ptr::null_mut());

fn raw(array: Option<&Array>) -> RawArray {
    array.map_or(NONE, |a| a.raw)
}

// SAFETY of every block below: arrays and stream are of this library, `out` is an array to fill, and each pointer to
// dimensions comes with their number and outlives the call; an array that may be null is null for none.
impl Device {
    /// Rounded to whole numbers, halves to even.
    pub fn round(&self, x: &Array) -> Array {
        // SAFETY: as said above.
        self.array(|out| unsafe { (self.api.mlx_round)(out, x.raw, 0, self.stream) })
    }

    /// The largest along the last axis, which stays with length 1.
    pub fn max_last(&self, x: &Array) -> Array {
        // SAFETY: as said above.
        self.array(|out| unsafe { (self.api.mlx_max_axis)(out, x.raw, -1, true, self.stream) })
    }

    /// The sum along `axis`, which stays with length 1 if `keep`.
    pub fn sum(&self, x: &Array, axis: i32, keep: bool) -> Array {
        // SAFETY: as said above.
        self.array(|out| unsafe { (self.api.mlx_sum_axis)(out, x.raw, axis, keep, self.stream) })
    }

    /// Softmax along the last axis, summed in f32.
    pub fn softmax(&self, x: &Array) -> Array {
        // SAFETY: as said above.
        self.array(|out| unsafe { (self.api.mlx_softmax_axis)(out, x.raw, -1, true, self.stream) })
    }

    /// Places in ascending order along the last axis.
    pub fn argsort(&self, x: &Array) -> Array {
        // SAFETY: as said above.
        self.array(|out| unsafe { (self.api.mlx_argsort_axis)(out, x.raw, -1, self.stream) })
    }

    /// The `k` largest along the last axis, in any order.
    pub fn topk(&self, x: &Array, k: usize) -> Array {
        // SAFETY: as said above.
        self.array(|out| unsafe { (self.api.mlx_topk_axis)(out, x.raw, k as c_int, -1, self.stream) })
    }

    /// Entries `indices` along `axis`.
    pub fn take(&self, x: &Array, indices: &Array, axis: i32) -> Array {
        // SAFETY: as said above.
        self.array(|out| unsafe { (self.api.mlx_take_axis)(out, x.raw, indices.raw, axis, self.stream) })
    }

    /// Along the last axis, for each index of `indices` the entry of the same line.
    pub fn take_along(&self, x: &Array, indices: &Array) -> Array {
        // SAFETY: as said above.
        self.array(|out| unsafe { (self.api.mlx_take_along_axis)(out, x.raw, indices.raw, -1, self.stream) })
    }

    /// `x` with rows `indices` replaced by `updates` `[n, 1, ...]`.
    pub fn scatter(&self, x: &Array, indices: &Array, updates: &Array) -> Array {
        // SAFETY: as said above.
        self.array(|out| unsafe { (self.api.mlx_scatter_single)(out, x.raw, indices.raw, updates.raw, 0, self.stream) })
    }

    /// The same numbers in another shape.
    pub fn reshape(&self, x: &Array, shape: &[usize]) -> Array {
        let dims = ints(shape);
        // SAFETY: as said above.
        self.array(|out| unsafe { (self.api.mlx_reshape)(out, x.raw, dims.as_ptr(), dims.len(), self.stream) })
    }

    /// The axes in another order.
    pub fn transpose(&self, x: &Array, axes: &[usize]) -> Array {
        let axes = ints(axes);
        // SAFETY: as said above.
        self.array(|out| unsafe { (self.api.mlx_transpose_axes)(out, x.raw, axes.as_ptr(), axes.len(), self.stream) })
    }

    /// Repeated to fill a shape.
    pub fn broadcast(&self, x: &Array, shape: &[usize]) -> Array {
        let dims = ints(shape);
        // SAFETY: as said above.
        self.array(|out| unsafe { (self.api.mlx_broadcast_to)(out, x.raw, dims.as_ptr(), dims.len(), self.stream) })
    }

    /// Zeros.
    pub fn zeros(&self, shape: &[usize], dtype: Dtype) -> Array {
        let dims = ints(shape);
        // SAFETY: as said above.
        self.array(|out| unsafe { (self.api.mlx_zeros)(out, dims.as_ptr(), dims.len(), dtype as c_int, self.stream) })
    }

    /// Entries `from..to` of each axis.
    pub fn slice(&self, x: &Array, from: &[usize], to: &[usize]) -> Array {
        let (from, to, step) = (ints(from), ints(to), vec![1; from.len()]);
        let (n, stream) = (from.len(), self.stream);
        // SAFETY: as said above.
        self.array(|out| unsafe {
            (self.api.mlx_slice)(out, x.raw, from.as_ptr(), n, to.as_ptr(), n, step.as_ptr(), n, stream)
        })
    }

    /// `x` with the entries `from..to` of each axis replaced by `update`.
    pub fn slice_update(&self, x: &Array, update: &Array, from: &[usize], to: &[usize]) -> Array {
        let (from, to, step) = (ints(from), ints(to), vec![1; from.len()]);
        let (n, stream) = (from.len(), self.stream);
        // SAFETY: as said above.
        self.array(|out| unsafe {
            let function = self.api.mlx_slice_update;
            function(out, x.raw, update.raw, from.as_ptr(), n, to.as_ptr(), n, step.as_ptr(), n, stream)
        })
    }

    /// The arrays after each other along `axis`.
    pub fn concatenate(&self, arrays: &[&Array], axis: i32) -> Array {
        self.vector(arrays, |vector| {
            // SAFETY: as said above.
            self.array(|out| unsafe { (self.api.mlx_concatenate_axis)(out, vector, axis, self.stream) })
        })
    }

    /// Converted to another type.
    pub fn astype(&self, x: &Array, dtype: Dtype) -> Array {
        // SAFETY: as said above.
        self.array(|out| unsafe { (self.api.mlx_astype)(out, x.raw, dtype as c_int, self.stream) })
    }

    /// The same bytes as numbers of another type.
    pub fn view(&self, x: &Array, dtype: Dtype) -> Array {
        // SAFETY: as said above.
        self.array(|out| unsafe { (self.api.mlx_view)(out, x.raw, dtype as c_int, self.stream) })
    }

    /// Row after row in memory.
    pub fn contiguous(&self, x: &Array) -> Array {
        // SAFETY: as said above.
        self.array(|out| unsafe { (self.api.mlx_contiguous)(out, x.raw, false, self.stream) })
    }

    /// `a` times the matrices `indices` of `b` `[n, k, m]`.
    pub fn gather_mm(&self, a: &Array, b: &Array, indices: &Array, sorted: bool) -> Array {
        // SAFETY: as said above.
        self.array(|out| unsafe { (self.api.mlx_gather_mm)(out, a.raw, b.raw, NONE, indices.raw, sorted, self.stream) })
    }

    /// `x` times the transposed quantized matrix `[w, scales, biases]`.
    pub fn quantized_matmul(&self, x: &Array, [w, scales]: [&Array; 2], biases: Option<&Array>, p: Packing) -> Array {
        // SAFETY: as said above; the mode is a C string.
        self.array(|out| unsafe {
            let (group, bits, mode) = (p.group.into(), p.bits.into(), p.mode.as_ptr());
            let function = self.api.mlx_quantized_matmul;
            function(out, x.raw, w.raw, scales.raw, raw(biases), true, group, bits, mode, self.stream)
        })
    }

    /// `x` times the transposed quantized matrices `indices`.
    pub fn gather_qmm(
        &self,
        x: &Array,
        [w, scales]: [&Array; 2],
        biases: Option<&Array>,
        p: Packing,
        indices: &Array,
        sorted: bool,
    ) -> Array {
        // SAFETY: as said above; the mode is a C string.
        self.array(|out| unsafe {
            let (group, bits, mode) = (p.group.into(), p.bits.into(), p.mode.as_ptr());
            let (biases, function) = (raw(biases), self.api.mlx_gather_qmm);
            let (w, scales, indices) = (w.raw, scales.raw, indices.raw);
            function(out, x.raw, w, scales, biases, NONE, indices, true, group, bits, mode, sorted, self.stream)
        })
    }

    /// A quantized matrix as plain numbers.
    pub fn dequantize(&self, [w, scales]: [&Array; 2], biases: Option<&Array>, p: Packing, dtype: Dtype) -> Array {
        // SAFETY: as said above; the mode is a C string.
        self.array(|out| unsafe {
            let (group, bits, mode) = (p.group.into(), p.bits.into(), p.mode.as_ptr());
            let dtype = OptionalInt::from(dtype as c_int);
            let function = self.api.mlx_dequantize;
            function(out, w.raw, scales.raw, raw(biases), group, bits, mode, NONE, dtype, self.stream)
        })
    }

    /// Root mean square norm along the last axis.
    pub fn rms_norm(&self, x: &Array, weight: Option<&Array>, eps: f32) -> Array {
        // SAFETY: as said above.
        self.array(|out| unsafe { (self.api.mlx_fast_rms_norm)(out, x.raw, raw(weight), eps, self.stream) })
    }

    /// Layer norm along the last axis.
    pub fn layer_norm(&self, x: &Array, weight: Option<&Array>, bias: Option<&Array>, eps: f32) -> Array {
        // SAFETY: as said above.
        self.array(|out| unsafe {
            (self.api.mlx_fast_layer_norm)(out, x.raw, raw(weight), raw(bias), eps, self.stream)
        })
    }

    /// Rotates `x` `[n, n_head, 1, d_head]`, token `i` at `positions[i]`; pair `j` turns `1 / periods[j]` a position.
    pub fn rope(&self, x: &Array, positions: &Array, periods: &Array, rotation: Rotation) -> Array {
        let base = OptionalFloat { value: 0.0, has_value: false };
        let Rotation { dims, interleaved } = rotation;
        // SAFETY: as said above.
        self.array(|out| unsafe {
            let function = self.api.mlx_fast_rope_dynamic;
            function(out, x.raw, dims as c_int, interleaved, base, 1.0, positions.raw, periods.raw, self.stream)
        })
    }

    /// Attention of `q` `[n, n_head, n_q, d]` over `k` and `v` `[n, n_kv_head, n_k, ..]`; `causal` aligns the last query
    /// with the last key; `mask` is true where a query sees a key.
    pub fn attention(
        &self,
        [q, k, v]: [&Array; 3],
        scale: f32,
        causal: bool,
        mask: Option<&Array>,
        sinks: Option<&Array>,
    ) -> Array {
        let mode = match (causal, mask) {
            (true, _) => c"causal",
            (false, Some(_)) => c"array",
            (false, None) => c"",
        };
        // SAFETY: as said above; the mode is a C string.
        self.array(|out| unsafe {
            let (mask, sinks, mode) = (raw(mask), raw(sinks), mode.as_ptr());
            let function = self.api.mlx_fast_scaled_dot_product_attention;
            function(out, q.raw, k.raw, v.raw, scale, mode, mask, sinks, false, self.stream)
        })
    }
}
