//! Products with weight matrices.

use super::{Matrix, Scalar, Tensor};
use crate::op::Linear;
use crate::{Error, MatrixData, matrix};

/// The matrices stacked along rows.
pub(super) fn stack(parts: &[MatrixData]) -> Result<Matrix, Error> {
    let [n_out, n_in] = matrix::stacked(parts)?;
    Ok(Matrix { n_matrix: 1, n_out, n_in, data: decoded(parts) })
}

/// The matrices of experts or heads.
pub(super) fn experts(experts: &[MatrixData]) -> Result<Matrix, Error> {
    let [n_out, n_in] = matrix::side_by_side(experts)?;
    Ok(Matrix { n_matrix: experts.len(), n_out, n_in, data: decoded(experts) })
}

fn decoded(parts: &[MatrixData]) -> Vec<f32> {
    let mut data = Vec::new();
    for part in parts {
        let n = data.len();
        data.resize(n + part.n_out * part.n_in, 0.0);
        part.decode_rows(0, part.n_out, &mut data[n..]);
    }
    data
}

impl Matrix {
    /// Row `i` of matrix `m`.
    pub(super) fn row(&self, m: usize, i: usize) -> &[f32] {
        &self.data[(m * self.n_out + i) * self.n_in..][..self.n_in]
    }

    /// Matrix `m` times the vector `x`.
    pub(super) fn apply(&self, m: usize, x: &[f32]) -> Vec<f32> {
        assert_eq!(x.len(), self.n_in, "a vector of {} times a matrix [{}, {}]", x.len(), self.n_out, self.n_in);
        (0..self.n_out).map(|i| dot(self.row(m, i), x)).collect()
    }
}

/// The dot product.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>() as f32
}

/// Rows `ids` of `table`.
pub(super) fn embed(table: &Matrix, ids: &[u32]) -> Tensor {
    let row = |&id: &u32| {
        assert!((id as usize) < table.n_out, "embed: id {id} of a table of {} rows", table.n_out);
        table.row(0, id as usize).iter().copied()
    };
    Tensor { shape: [ids.len(), table.n_in], data: ids.iter().flat_map(row).collect() }
}

/// `scale * (W x) + bias` of each row.
pub(super) fn linear(x: &Tensor, linear: &Linear<Scalar>) -> Tensor {
    let w = &linear.matrix;
    assert_eq!(w.n_matrix, 1, "linear: a matrix of experts needs `moe` or `head_linear`");
    let mut y = Tensor::zeros([x.shape[0], w.n_out]);
    for t in 0..x.shape[0] {
        let product = w.apply(0, x.row(t));
        y.row_mut(t).iter_mut().zip(product).for_each(|(y, p)| *y = linear.scale * p);
    }
    match &linear.bias {
        Some(bias) => super::rows::add(y, bias),
        None => y,
    }
}

/// One matrix a head.
pub(super) fn head_linear(x: &Tensor, w: &Matrix) -> Tensor {
    let [n_tok, n_col] = x.shape;
    assert_eq!(n_col, w.n_matrix * w.n_in, "head_linear: rows of {n_col}, {} heads of {}", w.n_matrix, w.n_in);
    let mut y = Tensor::zeros([n_tok, w.n_matrix * w.n_out]);
    for t in 0..n_tok {
        for h in 0..w.n_matrix {
            let product = w.apply(h, &x.row(t)[h * w.n_in..][..w.n_in]);
            y.row_mut(t)[h * w.n_out..][..w.n_out].copy_from_slice(&product);
        }
    }
    y
}
