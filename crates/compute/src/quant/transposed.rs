//! What GPTQ and AWQ share: the scales and zeros of a band of outputs, turned round.

use crate::{DType, MatrixData};

/// Scales and zeros `[n_row, n_group]` of a band of outputs.
pub(super) struct Grid {
    pub n_group: usize,
    scales: Vec<f32>,
    zeros: Vec<f32>,
}

impl Grid {
    pub(super) fn new(n_row: usize, n_group: usize) -> Grid {
        Grid { n_group, scales: vec![0.0; n_row * n_group], zeros: vec![0.0; n_row * n_group] }
    }

    /// Sets group `g` of all rows.
    pub(super) fn set(&mut self, g: usize, scales: &[f32], zeros: &[u8]) {
        for (r, (scale, zero)) in scales.iter().zip(zeros).enumerate() {
            self.scales[r * self.n_group + g] = *scale;
            self.zeros[r * self.n_group + g] = f32::from(*zero);
        }
    }

    /// Scales and zeros of row `r`, by group.
    pub(super) fn row(&self, r: usize) -> (&[f32], &[f32]) {
        let groups = r * self.n_group..(r + 1) * self.n_group;
        (&self.scales[groups.clone()], &self.zeros[groups])
    }
}

/// Scales (part 2, `[n_group, n_out]`) of group `g` and `n_row` outputs from `first`.
pub(super) fn grid_line(matrix: &MatrixData, scale: DType, g: usize, [first, n_row]: [usize; 2]) -> Vec<f32> {
    let (size, start) = (scale.block_bytes(), g * matrix.n_out + first);
    let mut line = vec![0.0; n_row];
    super::decode(scale, &matrix.parts[2][start * size..(start + n_row) * size], &mut line);
    line
}

/// Weights of one output: `out.len()` of `codes`; input `i` is of group `index[i]`.
#[inline]
pub(super) fn weights(out: &mut [f32], codes: &[u8], index: &[u32], scales: &[f32], zeros: &[f32]) {
    let group = index[0] as usize;
    if index.iter().all(|&g| g as usize == group) {
        let (scale, zero) = (scales[group], zeros[group]);
        for (w, q) in out.iter_mut().zip(codes) {
            *w = scale * (f32::from(*q) - zero);
        }
        return;
    }
    for ((w, q), &group) in out.iter_mut().zip(codes).zip(index) {
        *w = scales[group as usize] * (f32::from(*q) - zeros[group as usize]);
    }
}
