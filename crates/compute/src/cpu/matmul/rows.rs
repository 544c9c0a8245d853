//! Rows of any encoding to f32, for look-ups and for encodings without a form.

use super::kernel::ROWS;
use crate::quant;
use crate::{Encoding, Error, MatrixData};

/// Rows decoded at a time by [`panel`].
const STRIP: usize = 1024;

/// Whether the matrix is whole and of an encoding that this backend can decode.
///
/// # Errors
/// Names the tensor, with what was found and what was expected.
pub(super) fn check(matrix: &MatrixData) -> Result<(), Error> {
    matrix.check()?;
    match matrix.encoding {
        Encoding::Blocks(_) => Ok(()),
        _ => Err(Error::Unsupported {
            tensor: matrix.name.clone(),
            backend: "cpu",
            encoding: matrix.encoding.to_string(),
        }),
    }
}

/// Decodes row `row`: `out` `[n_in]`.
pub(super) fn decode(matrix: &MatrixData, row: usize, out: &mut [f32]) {
    let Encoding::Blocks(dtype) = matrix.encoding else { unreachable!("`check` refuses other encodings") };
    let bytes = matrix.parts[0].len() / matrix.n_out;
    quant::decode(dtype, &matrix.parts[0][row * bytes..][..bytes], out);
}

/// Decodes rows `first .. first + n` into a panel of floats: `out` `[n_in, 16]`, rows beyond `n` zero.
pub(super) fn panel(matrix: &MatrixData, first: usize, n: usize, out: &mut [f32]) {
    let lines = &mut out.as_chunks_mut::<ROWS>().0[..matrix.n_in];
    lines.iter_mut().for_each(|line| line[n..].fill(0.0));
    let mut strip = [0.0; STRIP];
    let Encoding::Blocks(dtype) = matrix.encoding else { unreachable!("`check` refuses other encodings") };
    let row_bytes = matrix.parts[0].len() / matrix.n_out;
    let (strip_weights, strip_bytes) = (STRIP, STRIP / dtype.block() * dtype.block_bytes());
    for row in 0..n {
        let bytes = &matrix.parts[0][(first + row) * row_bytes..][..row_bytes];
        for (bytes, lines) in bytes.chunks(strip_bytes).zip(lines.chunks_mut(strip_weights)) {
            quant::decode(dtype, bytes, &mut strip[..lines.len()]);
            lines.iter_mut().zip(&strip).for_each(|(line, w)| line[row] = *w);
        }
    }
}
