//! Encodings without a form of their own: panels of floats, made each time they are used, in the memory of the thread that
//! uses them, once for all columns.

use super::kernel::ROWS;
use crate::{Encoding, MatrixData};

/// Decodes rows `first .. first + n` into a panel of floats, all bytes of which are zero.
pub(super) fn floats(matrix: &MatrixData, first: usize, n: usize, panel: &mut [u8]) {
    // Encodings that store the transposed matrix decode several rows in little more time than one.
    let at_once = if matches!(matrix.encoding, Encoding::Gptq { .. } | Encoding::Awq { .. }) { n } else { 1 };
    let mut rows = vec![0.0; at_once * matrix.n_in];
    for from in (0..n).step_by(at_once) {
        matrix.decode_rows(first + from, at_once, &mut rows);
        for (row, weights) in (from..).zip(rows.chunks_exact(matrix.n_in)) {
            for (line, weight) in panel.as_chunks_mut::<{ 4 * ROWS }>().0.iter_mut().zip(weights) {
                line[4 * row..][..4].copy_from_slice(&weight.to_le_bytes());
            }
        }
    }
}
