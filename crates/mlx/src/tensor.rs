//! What operations take and make.

use crate::ffi::Array;
use crate::own::form::Form;

/// An activation or a small parameter: f32 `[n_row, n_col]`.
pub struct Tensor {
    pub(crate) array: Array,
    pub(crate) shape: [usize; 2],
    /// The same in 16 bits, where the kernel that made it made this too.
    pub(crate) form: Option<Form>,
    /// So many of its largest numbers, where they were asked for already.
    pub(crate) best: Option<(usize, Array)>,
}

impl Tensor {
    pub(crate) fn new(array: Array, shape: [usize; 2]) -> Tensor {
        Tensor { array, shape, form: None, best: None }
    }
}
