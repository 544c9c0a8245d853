//! Rows of encodings without a form, as panels of floats.

use super::kernel::ROWS;
use crate::MatrixData;

/// Floats of the memory that [`panel`] takes.
pub(super) fn scratch_floats(n_in: usize) -> usize {
    2 * ROWS * n_in
}

/// Decodes rows `first .. first + n` into a panel of floats, the first `[n_in, 16]` of `scratch`; rows beyond `n` are
/// zero.
pub(super) fn panel(matrix: &MatrixData, first: usize, n: usize, scratch: &mut [f32]) {
    let n_in = matrix.n_in;
    let (panel, rows) = scratch.split_at_mut(ROWS * n_in);
    let rows = &mut rows[..n * n_in];
    matrix.decode_rows(first, n, rows);
    for (k, line) in panel.as_chunks_mut::<ROWS>().0.iter_mut().enumerate() {
        *line = std::array::from_fn(|row| if row < n { rows[row * n_in + k] } else { 0.0 });
    }
}
