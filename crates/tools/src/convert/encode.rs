//! A matrix in another encoding, band after band on several threads, so that no more of it is held than a band.

use std::thread;

use mlxr_compute::{Bytes, DType, Encoding, MatrixData, quant};

use crate::ToolError;

/// Weights of a band of one thread, about.
pub const BAND: usize = 1 << 20;
/// Bytes that are copied at once.
const COPY: usize = 1 << 24;

/// Who gets the bytes, in order.
pub type Take<'a> = dyn FnMut(&[u8]) -> Result<(), ToolError> + 'a;

/// Whether every weight of `from` is a weight of `to`, whatever it is: every encoding but f64 has f32 numbers.
pub fn holds(to: Encoding, from: Encoding) -> bool {
    from == to || to == Encoding::Blocks(DType::F32) && from != Encoding::Blocks(DType::F64)
}

/// Hands over bytes as they are.
///
/// # Errors
/// Those of `take`.
pub fn copy(bytes: &Bytes, take: &mut Take<'_>) -> Result<(), ToolError> {
    for start in (0..bytes.len()).step_by(COPY) {
        let part = bytes.slice(start..bytes.len().min(start + COPY)).expect("it lies within");
        take(&part)?;
        part.release();
    }
    Ok(())
}

/// Encodes the matrix as `to`, plain numbers, blocks or MLX's formats, on `n_thread` threads. `take` gets the first part
/// row after row; the others, which are small, come back.
///
/// # Errors
/// If `to` cannot hold a weight or rows are not whole groups, and those of `take`.
pub fn encode(
    matrix: &MatrixData,
    to: Encoding,
    n_thread: usize,
    take: &mut Take<'_>,
) -> Result<[Vec<u8>; 2], ToolError> {
    let n_band = (BAND / matrix.n_in.max(1)).max(1);
    let band = |first: usize| -> Result<[Vec<u8>; 3], ToolError> {
        let mut parts: [Vec<u8>; 3] = Default::default();
        let mut row = vec![0.0; matrix.n_in];
        for r in first..matrix.n_out.min(first + n_band) {
            matrix.decode_rows(r, 1, &mut row);
            quant::encode_parts(to, &row, matrix.n_in, None, &mut parts)?;
        }
        Ok(parts)
    };
    let mut rest: [Vec<u8>; 2] = Default::default();
    for first in (0..matrix.n_out).step_by(n_band * n_thread.max(1)) {
        let last = matrix.n_out.min(first + n_band * n_thread.max(1));
        let bands: Vec<_> = match last - first <= n_band {
            true => vec![band(first)],
            false => thread::scope(|scope| {
                let band = &band;
                let threads: Vec<_> =
                    (first..last).step_by(n_band).map(|first| scope.spawn(move || band(first))).collect();
                threads.into_iter().map(|t| t.join().expect("encoders do not panic")).collect()
            }),
        };
        for parts in bands {
            let [weights, scales, biases] = parts?;
            take(&weights)?;
            rest[0].extend(scales);
            rest[1].extend(biases);
        }
        release(matrix, first, last);
    }
    Ok(rest)
}

/// Says that these rows will hardly be read again, where they lie one after another.
fn release(matrix: &MatrixData, first: usize, last: usize) {
    if let (
        Encoding::Blocks(_) | Encoding::MlxAffine { .. } | Encoding::MlxFloat(_) | Encoding::Fp8 { .. },
        [weights, ..],
    ) = (matrix.encoding, matrix.parts.as_slice())
    {
        let row = weights.len() / matrix.n_out.max(1);
        if let Some(rows) = weights.slice(first * row..last * row) {
            rows.release();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_make_what_the_whole_makes() {
        let (n_out, n_in) = (70, 1 << 15);
        let bytes: Vec<u8> = (0..n_out * n_in).flat_map(|i| ((i * 37 % 1013) as f32 / 50.0).to_le_bytes()).collect();
        let matrix = MatrixData::blocks("m", [n_out, n_in], DType::F32, bytes.into()).expect("it fits");
        let affine = Encoding::MlxAffine { bits: 4, group: 64, scale: DType::F16 };
        for to in [Encoding::Blocks(DType::Q8_0), Encoding::Blocks(DType::BF16), affine] {
            let mut weights = vec![0.0; n_out * n_in];
            matrix.decode_rows(0, n_out, &mut weights);
            let mut want: [Vec<u8>; 3] = Default::default();
            quant::encode_parts(to, &weights, n_in, None, &mut want).expect("it can be encoded");
            for n_thread in [1, 3] {
                let mut got = Vec::new();
                let take: &mut Take<'_> = &mut |bytes| {
                    got.extend_from_slice(bytes);
                    Ok(())
                };
                let rest = encode(&matrix, to, n_thread, take).expect("it can be encoded");
                let [scales, biases] = rest;
                assert!([got, scales, biases] == want, "{to} on {n_thread} threads");
            }
        }
    }
}
