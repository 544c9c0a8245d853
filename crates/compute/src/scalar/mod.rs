//! The definition of every operation, as a backend: plain loops, f32 storage, f64 sums.
//!
//! | file | operations |
//! |---|---|
//! | [`act`] | activation functions of one number |
//! | `linear` | products with weight matrices, embedding |
//! | `rows` | norms, rotation, element-wise operations, columns and rows |
//! | `store` | pages of keys and values, recurrent slots |
//! | `attention` | attention over the stored pages |
//! | `recurrent` | causal convolution, state space scan |
//! | `moe` | routing and experts |
//!
//! Written to be read and compared with, not to be fast. A backend is right when [`crate::conformance`] finds it equal
//! to this one.

pub mod act;
mod attention;
mod linear;
mod moe;
mod recurrent;
mod rows;
mod store;

pub use attention::sees;
pub use moe::route;
pub use store::Store;

use crate::op::{Act, Attention, Delta, KvSpec, Linear, Moe, Norm, Rope, Seqs, Ssm};
use crate::{Backend, Error, MatrixData};

/// The backend of definitions.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scalar;

/// Numbers `[n_row, n_col]`, row after row.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Rows and columns.
    pub shape: [usize; 2],
    /// The numbers, row after row.
    pub data: Vec<f32>,
}

/// Decoded weights of one matrix, or of the matrices of all experts or heads.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// Matrices: 1, the number of experts, or the number of heads.
    pub n_matrix: usize,
    /// Rows of each.
    pub n_out: usize,
    /// Columns of each.
    pub n_in: usize,
    /// `[n_matrix, n_out, n_in]`.
    pub data: Vec<f32>,
}

impl Tensor {
    /// A tensor of zeros.
    pub fn zeros(shape: [usize; 2]) -> Tensor {
        Tensor { shape, data: vec![0.0; shape[0] * shape[1]] }
    }

    /// Row `i`.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.shape[1]..][..self.shape[1]]
    }

    /// Row `i`, to write.
    pub fn row_mut(&mut self, i: usize) -> &mut [f32] {
        &mut self.data[i * self.shape[1]..][..self.shape[1]]
    }
}

impl Backend for Scalar {
    type Tensor = Tensor;
    type Matrix = Matrix;
    type Kv = Store;

    fn name(&self) -> &'static str {
        "scalar"
    }

    fn matrix(&mut self, parts: &[MatrixData]) -> Result<Matrix, Error> {
        linear::stack(parts)
    }

    fn experts(&mut self, experts: &[MatrixData]) -> Result<Matrix, Error> {
        linear::experts(experts)
    }

    fn tensor(&mut self, shape: [usize; 2], data: &[f32]) -> Tensor {
        assert_eq!(data.len(), shape[0] * shape[1], "tensor: shape {shape:?} does not fit the numbers given");
        Tensor { shape, data: data.to_vec() }
    }

    fn kv(&mut self, spec: &KvSpec) -> Result<Store, Error> {
        Store::new(spec)
    }

    fn embed(&mut self, table: &Matrix, ids: &[u32]) -> Tensor {
        linear::embed(table, ids)
    }

    fn linears<const N: usize>(
        &mut self,
        x: &Tensor,
        norm: Option<&Norm<Self>>,
        linears: [&Linear<Self>; N],
    ) -> [Tensor; N] {
        let x = rows::normed(x, norm);
        linears.map(|l| linear::linear(&x, l))
    }

    fn linear_add(&mut self, x: &Tensor, linear: &Linear<Self>, factor: f32, mut residual: Tensor) -> Tensor {
        let y = linear::linear(x, linear);
        assert_eq!(y.shape, residual.shape, "linear_add: the product and the residual differ in shape");
        residual.data.iter_mut().zip(&y.data).for_each(|(r, y)| *r += factor * y);
        residual
    }

    fn gate_up(
        &mut self,
        x: &Tensor,
        norm: Option<&Norm<Self>>,
        gate: &Linear<Self>,
        up: &Linear<Self>,
        act: Act,
    ) -> Tensor {
        let x = rows::normed(x, norm);
        rows::glu(linear::linear(&x, gate), &linear::linear(&x, up), act)
    }

    fn head_linear(&mut self, x: &Tensor, w: &Matrix) -> Tensor {
        linear::head_linear(x, w)
    }

    fn moe(&mut self, x: &Tensor, logits: &Tensor, moe: &Moe<'_, Self>) -> Tensor {
        moe::moe(x, logits, moe)
    }

    fn norm(&mut self, x: &Tensor, norm: &Norm<Self>) -> Tensor {
        rows::head_norm(x.clone(), 1, norm)
    }

    fn head_norm(&mut self, x: Tensor, n_head: usize, norm: &Norm<Self>) -> Tensor {
        rows::head_norm(x, n_head, norm)
    }

    fn rope(&mut self, x: Tensor, n_head: usize, positions: &[i32], rope: &Rope) -> Tensor {
        rows::rope(x, n_head, positions, rope)
    }

    fn add(&mut self, a: Tensor, b: &Tensor) -> Tensor {
        rows::add(a, b)
    }

    fn mul(&mut self, a: Tensor, b: &Tensor) -> Tensor {
        rows::mul(a, b)
    }

    fn scale(&mut self, x: Tensor, factor: f32) -> Tensor {
        rows::map(x, |v| v * factor)
    }

    fn act(&mut self, x: Tensor, act: Act) -> Tensor {
        rows::map(x, |v| act.apply(v))
    }

    fn glu(&mut self, gate: Tensor, up: &Tensor, act: Act) -> Tensor {
        rows::glu(gate, up, act)
    }

    fn softcap(&mut self, x: Tensor, cap: f32) -> Tensor {
        rows::map(x, |v| act::softcap(v, cap))
    }

    fn columns(&mut self, x: &Tensor, from: usize, to: usize) -> Tensor {
        rows::columns(x, from, to)
    }

    fn concat_heads(&mut self, a: &Tensor, b: &Tensor, n_head: usize, n_head_b: usize) -> Tensor {
        rows::concat_heads(a, b, n_head, n_head_b)
    }

    fn rows(&mut self, x: &Tensor, indices: &[usize]) -> Tensor {
        rows::rows(x, indices)
    }

    fn kv_append(&mut self, kv: &mut Store, layer: usize, k: &Tensor, v: Option<&Tensor>, seqs: &Seqs<'_>) {
        kv.append(layer, k, v, seqs);
    }

    fn attention(
        &mut self,
        q: &Tensor,
        kv: &Store,
        layer: usize,
        attention: &Attention<'_, Self>,
        seqs: &Seqs<'_>,
    ) -> Tensor {
        attention::attention(q, kv, layer, attention, seqs)
    }

    fn conv(
        &mut self,
        kv: &mut Store,
        layer: usize,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        seqs: &Seqs<'_>,
    ) -> Tensor {
        recurrent::conv(kv, layer, x, weight, bias, seqs)
    }

    fn ssm_scan(&mut self, kv: &mut Store, layer: usize, ssm: &Ssm, inputs: [&Tensor; 3], seqs: &Seqs<'_>) -> Tensor {
        recurrent::ssm_scan(kv, layer, ssm, inputs, seqs)
    }

    fn delta_scan(
        &mut self,
        kv: &mut Store,
        layer: usize,
        delta: &Delta,
        inputs: [&Tensor; 5],
        seqs: &Seqs<'_>,
    ) -> Tensor {
        recurrent::delta_scan(kv, layer, delta, inputs, seqs)
    }

    fn copy_page(&mut self, kv: &mut Store, from: u32, to: u32) {
        kv.copy_page(from, to);
    }

    fn copy_token(&mut self, kv: &mut Store, from: (u32, usize), to: (u32, usize)) {
        kv.copy_token(from, to);
    }

    fn export_page(&self, kv: &Store, page: u32, out: &mut Vec<u8>) {
        kv.export_page(page, out);
    }

    fn import_page(&mut self, kv: &mut Store, page: u32, bytes: &[u8]) -> Result<(), Error> {
        kv.import_page(page, bytes)
    }

    fn copy_slot(&mut self, kv: &mut Store, from: usize, to: usize) {
        kv.copy_slot(from, to);
    }

    fn export_slot(&self, kv: &Store, slot: usize, out: &mut Vec<u8>) {
        kv.export_slot(slot, out);
    }

    fn import_slot(&mut self, kv: &mut Store, slot: usize, bytes: &[u8]) -> Result<(), Error> {
        kv.import_slot(slot, bytes)
    }

    fn read(&mut self, x: &Tensor, out: &mut Vec<f32>) -> Result<(), Error> {
        out.extend_from_slice(&x.data);
        Ok(())
    }

    fn maxima(&mut self, x: &Tensor, block: usize, out: &mut Vec<f32>) -> bool {
        let largest = |part: &[f32]| part.iter().fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max });
        out.clear();
        out.extend(x.data.chunks(x.shape[1].max(1)).flat_map(|row| row.chunks(block)).map(largest));
        true
    }

    fn shape(&self, x: &Tensor) -> [usize; 2] {
        x.shape
    }
}
