//! A matrix in another type.

use std::thread;

use mlxr_compute::quant::Encoder;
use mlxr_compute::{DType, Encoding, MatrixData};

use super::Change;
use crate::ToolError;

/// Plain numbers, the one with the widest range last.
const FLOATS: [DType; 3] = [DType::F16, DType::BF16, DType::F32];

/// Whether every weight of `from` is a weight of `to`, whatever it is.
pub fn holds(to: DType, from: Encoding) -> bool {
    let Encoding::Blocks(from) = from else { return false };
    from == to || (to == DType::F32 && FLOATS.contains(&from))
}

/// The matrix as blocks of `dtype`, encoded on `n_thread` threads.
///
/// # Errors
/// If `dtype` cannot hold a weight or rows are not whole blocks.
pub fn to_blocks(matrix: &MatrixData, dtype: DType, n_thread: usize) -> Result<(Vec<u8>, Change), ToolError> {
    let change = if holds(dtype, matrix.encoding) { Change::Exact } else { Change::Rounded };
    let n_part = matrix.n_out.div_ceil(n_thread.max(1)).max(1);
    let ranges: Vec<_> =
        (0..matrix.n_out).step_by(n_part).map(|first| first..matrix.n_out.min(first + n_part)).collect();
    let encode = |range: std::ops::Range<usize>| -> Result<MatrixData, ToolError> {
        if range.len() == matrix.n_out {
            return Ok(matrix.to_blocks(dtype)?);
        }
        let (mut bytes, mut band) = (Vec::new(), vec![0.0; matrix.n_in]);
        let encoder = Encoder::new(dtype)?;
        for row in range.clone() {
            matrix.decode_rows(row, 1, &mut band);
            encoder.encode(&band, None, &mut bytes)?;
        }
        Ok(MatrixData::blocks(&matrix.name, [range.len(), matrix.n_in], dtype, bytes.into())?)
    };
    let parts = thread::scope(|scope| {
        let encode = &encode;
        let threads: Vec<_> = ranges.into_iter().map(|range| scope.spawn(move || encode(range))).collect();
        threads.into_iter().map(|t| t.join().expect("encoders do not panic")).collect::<Result<Vec<_>, _>>()
    })?;
    Ok((parts.iter().flat_map(|part| part.parts[0].iter().copied()).collect(), change))
}
