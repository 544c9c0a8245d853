//! FP8 weights with a scale for the tensor, a row, or a tile such as 128 x 128.
//!
//! ```text
//! weights  [n_out, n_in] e4m3 or e5m2          w[j][i] = f8 * scales[j / rows][i / cols]
//! scales   [ceil(n_out / rows), ceil(n_in / cols)]
//! ```
//!
//! Source: OCP "8-bit Floating Point Specification" 1.0; `weight_scale` of compressed-tensors, `weight_scale_inv` of
//! DeepSeek-V3, both of which multiply.

use super::parts::groups;
use crate::{DType, MatrixData};

/// The format of an FP8 matrix.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fp8 {
    pub dtype: DType,
    pub rows: u32,
    pub cols: u32,
    pub scale: DType,
}

/// Rows from `first` on, as many as fill `out`.
pub(super) fn decode(matrix: &MatrixData, format: Fp8, first: usize, out: &mut [f32]) {
    let (n_in, cols) = (matrix.n_in, (format.cols as usize).min(matrix.n_in));
    let mut scales = vec![0.0; groups(n_in, format.cols)];
    let scale_bytes = scales.len() * format.scale.block_bytes();
    for (row, out) in (first..).zip(out.chunks_exact_mut(n_in)) {
        super::decode(format.dtype, &matrix.parts[0][row * n_in..][..n_in], out);
        let line = row / format.rows as usize;
        super::decode(format.scale, &matrix.parts[1][line * scale_bytes..][..scale_bytes], &mut scales);
        for (out, scale) in out.chunks_mut(cols).zip(&scales) {
            out.iter_mut().for_each(|w| *w *= scale);
        }
    }
}
