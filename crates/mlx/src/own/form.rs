//! Rows in 16 bits, as kernels that multiply them read them.

use mlxr_compute::op::Act;

use super::Own;
use crate::ffi::{Array, Device, Dtype};
use crate::kernel::Instance;

/// Rows in a layout of `rows_half`, and the scales by which they are multiplied.
#[derive(Clone)]
pub(crate) struct Form {
    pub(crate) layout: u32,
    pub(crate) x: Array,
    pub(crate) scales: Array,
}

/// What of rows is to be in 16 bits.
pub(crate) enum Of<'a> {
    /// They themselves.
    Rows,
    /// Their RMS norm: weight and epsilon.
    Norm(&'a Array, f32),
    /// They as a gate, and what it lets through; rows of both begin every so many numbers, those of the other after so many. The caller
    /// has asked [`glu`].
    Gate(Act, &'a Array, [usize; 2]),
}

/// From this on a constant GLU is one of `rows_half` alone.
pub(crate) const OF_ROWS_ALONE: u32 = 3;

/// The constant GLU of kernels; `None` where they do not compute it.
pub(crate) fn glu(act: Act) -> Option<u32> {
    match act {
        Act::Silu => Some(1),
        Act::GeluTanh => Some(2),
        Act::SwigluOai { .. } => Some(OF_ROWS_ALONE),
        _ => None,
    }
}

impl Form {
    /// Of pairs that a kernel made of `n_tok` rows beside its output, divided by `scale`; `None` where it made none.
    pub(crate) fn new(own: &Own, d: &Device, layout: u32, (x, n_tok): (Array, usize), scale: f32) -> Option<Form> {
        (layout > 0).then(|| Form { layout, x, scales: own.floats(d, &vec![scale; n_tok]) })
    }

    /// Of rows `[n_tok, n_in]`.
    pub(crate) fn of(own: &Own, d: &Device, (x, [n_tok, n_in]): (&Array, [usize; 2]), of: Of<'_>, layout: u32) -> Form {
        let (none, [mut norm, mut gate]) = (own.floats(d, &[0.0]), [0; 2]);
        let ([mut weight, mut other], mut from, mut factors) = ([&none; 2], [n_in, 0], [0.0; 2]);
        match of {
            Of::Rows => {}
            Of::Norm(of_norm, eps) => (norm, weight, factors[0]) = (1, of_norm, eps),
            Of::Gate(act, through, places) => {
                (gate, other, from) = (glu(act).expect("the caller has asked"), through, places);
                if let Act::SwigluOai { alpha, limit } = act {
                    factors = [alpha, limit];
                }
            }
        }
        let instance = Instance::new("rows_half", &[norm, layout, gate], "float");
        let [n_row, n_col] = match layout {
            0 | 1 => [n_tok, n_in],
            _ => [n_tok.next_multiple_of(8), n_in.next_multiple_of(128)],
        };
        let shapes: [&[usize]; 2] = [&[n_row, n_col / 2], &[n_tok, 1]];
        let inputs = [x, weight, other, &own.sizes(d, &[n_in, from[0], from[1]]), &own.floats(d, &factors)];
        let [x, scales] = own.launch(d, instance, &inputs, &shapes, [n_tok, 1, 1]);
        Form { layout, x, scales }
    }
}

/// The layout of rows that MLX multiplies, f16 or bf16 as they are.
pub(crate) fn layout_of(dtype: Dtype) -> u32 {
    u32::from(dtype == Dtype::BF16)
}

/// The name of such numbers in kernels.
pub(crate) fn parameter(dtype: Dtype) -> &'static str {
    if dtype == Dtype::BF16 { "bfloat" } else { "half" }
}

/// What products `[n, n_out]` of rows in [`layout_of`] stand for, each scale that of so many neighbours; with a gate, of `y` as one of `z`.
pub(crate) fn finish(
    own: &Own,
    d: &Device,
    [y, z]: [&Array; 2],
    (dtype, [n, n_out]): (Dtype, [usize; 2]),
    (scales, share): (&Array, usize),
    (glu, residual): (u32, Option<&Array>),
) -> Array {
    let instance = Instance::new("rows_finish", &[glu, u32::from(residual.is_some())], parameter(dtype));
    let inputs = [y, z, scales, residual.unwrap_or(scales), &own.sizes(d, &[n_out, share])];
    let [out] = own.launch(d, instance, &inputs, &[&[n, n_out]], [n_out.div_ceil(256), n, 1]);
    out
}
