//! Products with matrices in [`Blocks`]: few rows, experts, and as f16.

use super::Own;
use super::form::Form;
use super::product::{Rows, tile_tokens};
use crate::ffi::{Array, Device, Dtype};
use crate::kernel::Instance;
use crate::kernel::blocks::Blocks;
use crate::kernel::pack::SUPER;
use crate::matrix::{Coded, Matrix};

/// The layout of rows for kernels of blocks.
pub(crate) const BLOCKS_LAYOUT: u32 = 4;

/// The constants N and R of a format's kernel for so many rows.
pub(crate) fn blocks_constants(blocks: &Blocks, n_tok: usize) -> [u32; 2] {
    let n = n_tok.div_ceil(8) as u32;
    // Of large super-blocks the registers that twice the rows take cost more than they gain, by kernel times of an H200.
    [n, if n > 2 && blocks.planes.quads < 3 { 2 } else { 1 }]
}

/// A few rows times a matrix of blocks, plus `residual`.
pub(super) fn few(
    own: &Own,
    d: &Device,
    rows: &Rows,
    (weights, blocks, n_out): (&Array, &Coded, usize),
    residual: Option<&Array>,
) -> Array {
    own.bits.set(BLOCKS_LAYOUT);
    let form = rows.form(own, d, BLOCKS_LAYOUT);
    let [n, r] = blocks_constants(blocks.row, rows.n_tok);
    let constants = [n, r, rows.n_in as u32, n_out as u32, u32::from(residual.is_some()), blocks.row.group()];
    let instance = Instance::new(&format!("{}_matmul", blocks.row.name), &constants, "float");
    let sizes = own.sizes(d, &[rows.n_tok, rows.n_in, n_out]);
    let inputs = [&form.x, &form.scales, weights, &blocks.codes, residual.unwrap_or(&form.scales), &sizes];
    let [y] = own.launch(d, instance, &inputs, &[&[rows.n_tok, n_out]], [n_out.div_ceil(16 * r as usize), 1, 1]);
    y
}

/// Products of an expert, on average, from which those that share one are multiplied together.
const SHARED_BY: usize = 2;

/// The constants N, R and TILE of a format's kernel for products that have one of `n_expert` matrices each, neighbours the same if `sorted`.
pub(crate) fn experts_constants(blocks: &Blocks, [n_row, n_expert, most]: [usize; 3], sorted: bool) -> [u32; 3] {
    let each = if sorted { n_row / n_expert } else { 0 };
    let tile = if each < SHARED_BY {
        1
    } else if each < most {
        8
    } else {
        most
    };
    let [n, r] = blocks_constants(blocks, tile);
    [n, r, tile as u32]
}

/// If so many products share matrices of so many, such that an order in which neighbours share them pays.
pub(crate) fn shared(n_product: usize, n_expert: usize) -> bool {
    n_product / n_expert >= SHARED_BY
}

/// The matrices of products, and in which order the products share them.
pub(crate) struct Chosen {
    /// `[n_product]` u32.
    pub(crate) experts: Array,
    /// A permutation `[n_product]` u32 that sorts them, where that pays.
    pub(crate) order: Option<Array>,
    pub(crate) n_product: usize,
}

/// Rows in [`BLOCKS_LAYOUT`], each times the matrices of blocks of `share` products, neighbours of all: `[n_product, n_out]`. The same
/// of a second matrix like the first, where there is one.
pub(crate) fn experts(
    own: &Own,
    d: &Device,
    (form, share): (&Form, usize),
    (matrix, second): (&Matrix, Option<&Matrix>),
    chosen: &Chosen,
) -> [Array; 2] {
    let (n, n_in, n_out) = (chosen.n_product, matrix.n_in, matrix.n_out);
    let blocks = matrix.parts[0].blocks.as_ref().expect("the caller has asked");
    let shape = [n, matrix.n_matrix, tile_tokens(own.platform)];
    let [n_tile, r, tile] = experts_constants(blocks.row, shape, chosen.order.is_some());
    let constants = [n_tile, r, n_in as u32, n_out as u32, tile, share as u32, blocks.row.group()];
    let instance = Instance::new(&format!("{}_experts", blocks.row.name), &constants, "float");
    let (sizes, order) = (own.sizes(d, &[n, n_in, n_out]), chosen.order.as_ref().unwrap_or(&chosen.experts));
    let [w, w2] = [matrix, second.unwrap_or(matrix)].map(|m| &m.parts[0].weights);
    let inputs = [&form.x, &form.scales, w, w2, &blocks.codes, &chosen.experts, order, &sizes];
    let n_matrix = 1 + usize::from(second.is_some());
    let shapes: [&[usize]; 2] = [&[n, n_out], if n_matrix == 2 { &[n, n_out] } else { &[1] }];
    own.launch(d, instance, &inputs, &shapes, [n_out.div_ceil(16 * r as usize), n.div_ceil(tile as usize), n_matrix])
}

/// If one launch of [`experts`] multiplies both.
pub(crate) fn alike(a: &Matrix, b: &Matrix) -> bool {
    let row = |m: &Matrix| m.parts[0].blocks.as_ref().map(|blocks| blocks.row).filter(|row| !row.has_own_codes());
    let same = row(a).zip(row(b)).is_some_and(|(a, b)| std::ptr::eq(a, b));
    same && [a.n_matrix, a.n_out, a.n_in] == [b.n_matrix, b.n_out, b.n_in]
}

/// Rows of blocks `[n, words]` as f16 `[n, n_in]`.
pub(crate) fn plain(own: &Own, d: &Device, (weights, blocks): (&Array, &Coded), n_in: usize) -> Array {
    let n = weights.shape()[0];
    let instance = Instance::new(&format!("{}_decode", blocks.row.name), &[blocks.row.group()], "float");
    let inputs = [weights, &blocks.codes, &own.sizes(d, &[n, n_in])];
    let groups = (4 * n * n_in.div_ceil(SUPER)).div_ceil(256);
    let [pairs] = own.launch(d, instance, &inputs, &[&[n, n_in / 2]], [groups, 1, 1]);
    d.view(&pairs, Dtype::F16)
}
