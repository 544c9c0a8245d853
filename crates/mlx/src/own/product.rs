//! Rows times quantized matrices.
//!
//! Up to [`tile_tokens`] rows `affine_tiles` multiplies what it unpacks; more are worth the matrix as plain numbers, and
//! MLX's product of these.

use std::cell::RefCell;

use mlxr_compute::op::{Act, Norm, NormKind};

use super::Own;
use crate::backend::{Mlx, Tensor};
use crate::ffi::{Array, Device, Dtype};
use crate::kernel::Instance;
use crate::kernel::source::Platform;
use crate::matrix::{Matrix, Packed, Part};

/// Rows that `affine_tiles` takes at once, by what a threadgroup's memory holds.
fn tile_tokens(own: &Own) -> usize {
    match own.platform {
        Platform::Cuda => 32,
        Platform::Metal => 16,
    }
}

/// Rows to multiply, in the forms that products need, each made once.
pub(crate) struct Rows {
    x: Array,
    n_tok: usize,
    n_in: usize,
    /// Weight and epsilon of an RMS norm.
    norm: Option<(Array, f32)>,
    forms: RefCell<Vec<(u32, [Array; 2])>>,
}

/// What a product ends in.
#[derive(Clone, Copy)]
pub(crate) struct End<'a> {
    /// The second matrix of a gated product, and the gate's function.
    pub glu: Option<(&'a Part, Act)>,
    /// Added.
    pub residual: Option<&'a Array>,
}

impl Rows {
    /// Rows, normalized where `norm` is one that a kernel computes.
    pub(crate) fn new(x: &Tensor, norm: Option<&Norm<Mlx>>) -> Option<Rows> {
        let [n_tok, n_in] = x.shape;
        let norm = match norm {
            None => None,
            Some(Norm { kind: NormKind::Rms, weight: Some(weight), bias: None, eps }) if weight.shape == [1, n_in] => {
                Some((weight.array.clone(), *eps))
            }
            Some(_) => return None,
        };
        Some(Rows { x: x.array.clone(), n_tok, n_in, norm, forms: RefCell::default() })
    }

    /// The rows in a layout of `rows_half`, and their scales.
    fn form(&self, own: &Own, d: &Device, layout: u32) -> [Array; 2] {
        let mut forms = self.forms.borrow_mut();
        if let Some((_, form)) = forms.iter().find(|(l, _)| *l == layout) {
            return form.clone();
        }
        let sizes = own.sizes(d, &[self.n_in]);
        let (weight, eps) = match &self.norm {
            Some((weight, eps)) => (weight.clone(), *eps),
            None => (own.floats(d, &[0.0]), 0.0),
        };
        let factors = own.floats(d, &[eps]);
        let instance = Instance::new("rows_half", &[u32::from(self.norm.is_some()), layout], "float");
        let n_row = if layout < 2 { self.n_tok } else { self.n_tok.next_multiple_of(8) };
        let shapes: [&[usize]; 2] = [&[n_row, self.n_in / 2], &[self.n_tok, 1]];
        let made = own.launch(d, instance, &[&self.x, &weight, &sizes, &factors], &shapes, [self.n_tok, 1, 1]);
        let form = [made[0].clone(), made[1].clone()];
        forms.push((layout, form.clone()));
        form
    }
}

/// What `affine_tiles` must know of a matrix.
struct Tiles<'a> {
    packed: &'a Packed,
    biases: &'a Array,
    bits: u32,
    group: u32,
    parameter: &'static str,
}

impl Part {
    /// If our kernels multiply it.
    fn tiles(&self, n_in: usize) -> Option<Tiles<'_>> {
        let packed = self.packed.as_ref()?;
        let (biases, packing) = (packed.biases.as_ref()?, packed.packing);
        let parameter = match self.dtype {
            Dtype::F16 => "half",
            Dtype::BF16 => "bfloat",
            _ => return None,
        };
        let fits = [4, 8].contains(&packing.bits) && [32, 64, 128].contains(&packing.group) && n_in.is_multiple_of(128);
        let (bits, group) = (packing.bits as u32, packing.group as u32);
        fits.then_some(Tiles { packed, biases, bits, group, parameter })
    }
}

/// The rows times a matrix, plus `residual`; `None` where our kernels do not multiply it.
pub(crate) fn product(own: &Own, d: &Device, rows: &Rows, matrix: &Matrix, residual: Option<&Array>) -> Option<Array> {
    if matrix.n_matrix != 1 || !matrix.parts.iter().all(|part| part.tiles(rows.n_in).is_some()) {
        return None;
    }
    if let [part] = &matrix.parts[..] {
        return part_product(own, d, rows, part, End { glu: None, residual });
    }
    let end = End { glu: None, residual: None };
    let parts: Option<Vec<Array>> = matrix.parts.iter().map(|part| part_product(own, d, rows, part, end)).collect();
    let joined = d.concatenate(&parts?.iter().collect::<Vec<_>>(), -1);
    Some(residual.map_or(joined.clone(), |residual| d.add(residual, &joined)))
}

/// `act(gate x) * (up x)`; `None` where our kernels do not compute it.
pub(crate) fn gated(own: &Own, d: &Device, rows: &Rows, [gate, up]: [&Matrix; 2], act: Act) -> Option<Array> {
    let ([gate], [up]) = (&gate.parts[..], &up.parts[..]) else { return None };
    let (first, second) = (gate.tiles(rows.n_in)?, up.tiles(rows.n_in)?);
    let same = first.packed.packing == second.packed.packing && gate.dtype == up.dtype;
    let known = matches!(act, Act::Silu | Act::GeluTanh);
    (same && known).then(|| part_product(own, d, rows, gate, End { glu: Some((up, act)), residual: None }))?
}

fn part_product(own: &Own, d: &Device, rows: &Rows, part: &Part, end: End<'_>) -> Option<Array> {
    if rows.n_tok <= tile_tokens(own) { few(own, d, rows, part, end) } else { many(own, d, rows, part, end) }
}

/// The constant that tells kernels which gate ends a product.
fn gate_number(end: &End<'_>) -> u32 {
    match end.glu {
        None => 0,
        Some((_, Act::Silu)) => 1,
        Some(_) => 2,
    }
}

fn few(own: &Own, d: &Device, rows: &Rows, part: &Part, end: End<'_>) -> Option<Array> {
    let tiles = part.tiles(rows.n_in)?;
    let (n_tok, n_out) = (rows.n_tok, part.weights.shape()[0]);
    let [x, x_scales] = rows.form(own, d, tiles.bits);
    let n = n_tok.div_ceil(8);
    let (second, second_tiles) = match end.glu {
        Some((up, _)) => (up, up.tiles(rows.n_in)?),
        None => (part, part.tiles(rows.n_in)?),
    };
    let r = if end.glu.is_some() || n > 1 { 2 } else { 1 };
    let add = u32::from(end.residual.is_some());
    let constants = [n as u32, r, tiles.bits, tiles.group, gate_number(&end), add];
    let instance = Instance::new("affine_tiles", &constants, tiles.parameter);
    let sizes = own.sizes(d, &[rows.n_in, n_out, n_tok]);
    let inputs = [
        &x,
        &x_scales,
        &part.weights,
        &tiles.packed.scales,
        tiles.biases,
        &second.weights,
        &second_tiles.packed.scales,
        second_tiles.biases,
        end.residual.unwrap_or(&x_scales),
        &sizes,
    ];
    let group = if end.glu.is_some() { 16 } else { 16 * r as usize };
    let mut made = own.launch(d, instance, &inputs, &[&[n_tok, n_out]], [n_out.div_ceil(group), 1, 1]);
    made.pop()
}

fn many(own: &Own, d: &Device, rows: &Rows, part: &Part, end: End<'_>) -> Option<Array> {
    let layout = u32::from(part.dtype == Dtype::BF16);
    let [x, x_scales] = rows.form(own, d, layout);
    let x = d.view(&x, part.dtype);
    let multiplied = |part: &Part| -> Option<Array> {
        let packed = part.packed.as_ref()?;
        let weights = [&part.weights, &packed.scales];
        let plain = d.dequantize(weights, packed.biases.as_ref(), packed.packing, part.dtype);
        Some(d.matmul(&x, &d.transpose(&plain, &[1, 0])))
    };
    let first = multiplied(part)?;
    let second = match end.glu {
        Some((up, _)) => multiplied(up)?,
        None => first.clone(),
    };
    let n_out = part.weights.shape()[0];
    let parameter = if layout == 1 { "bfloat" } else { "half" };
    let instance = Instance::new("rows_finish", &[gate_number(&end), u32::from(end.residual.is_some())], parameter);
    let sizes = own.sizes(d, &[n_out]);
    let inputs = [&first, &second, &x_scales, end.residual.unwrap_or(&x_scales), &sizes];
    let mut made = own.launch(d, instance, &inputs, &[&[rows.n_tok, n_out]], [n_out.div_ceil(256), rows.n_tok, 1]);
    made.pop()
}
