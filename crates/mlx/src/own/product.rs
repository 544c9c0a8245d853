//! Rows times quantized matrices.
//!
//! Up to [`tile_tokens`] rows `affine_tiles` multiplies what it unpacks, up to [`MAX_MATMUL_ROWS`] the kernels of GGUF's
//! blocks do; more are worth the matrix as plain numbers, and MLX's product of these.

use std::cell::RefCell;

use mlxr_compute::op::{Act, Norm, NormKind};

use super::Own;
use crate::backend::{Mlx, Tensor};
use crate::ffi::{Array, Device, Dtype};
use crate::kernel::Instance;
use crate::kernel::source::Platform;
use crate::matrix::{Coded, Matrix, Part};

/// Rows that `affine_tiles` takes at once, by what a threadgroup's memory holds.
fn tile_tokens(own: &Own) -> usize {
    match own.platform {
        Platform::Cuda => 32,
        Platform::Metal => 16,
    }
}

/// Rows that matrices in blocks are multiplied with at once.
const MAX_MATMUL_ROWS: usize = 16;

/// The constant M of a kernel that multiplies `n_tok` rows: there are few, as each is compiled.
pub(crate) fn matmul_rows(n_tok: usize) -> u32 {
    n_tok.next_power_of_two() as u32
}

/// Rows to multiply, in the forms that products need, each made once.
pub(crate) struct Rows {
    x: Array,
    n_tok: usize,
    n_in: usize,
    /// Weight and epsilon of an RMS norm.
    norm: Option<(Array, f32)>,
    forms: RefCell<Vec<Form>>,
}

/// Rows in a layout of `rows_half`, and the scales by which they are multiplied.
#[derive(Clone)]
pub(crate) struct Form {
    layout: u32,
    x: Array,
    scales: Array,
}

impl Form {
    /// Of pairs that a kernel made of `n_tok` rows beside its output, divided by `scale`; `None` where it made none.
    pub(crate) fn new(own: &Own, d: &Device, layout: u32, (x, n_tok): (Array, usize), scale: f32) -> Option<Form> {
        (layout > 0).then(|| Form { layout, x, scales: own.floats(d, &vec![scale; n_tok]) })
    }
}

/// The layout in which a kernel makes pairs of `[n_tok, n_col]` numbers beside its output; 0 for none.
pub(crate) fn layout(own: &Own, [n_tok, n_col]: [usize; 2]) -> u32 {
    if n_tok <= tile_tokens(own) && n_col.is_multiple_of(128) { own.bits.get() } else { 0 }
}

/// The shape of those pairs.
pub(crate) fn pairs_shape(layout: u32, [n_tok, n_col]: [usize; 2]) -> [usize; 2] {
    if layout == 0 { [1, 1] } else { [n_tok.next_multiple_of(8), n_col / 2] }
}

/// What gated products are divided by to be f16: those of large models pass 65504.
const GATED_SCALE: f32 = 16.0;

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
        let forms = x.form.clone().filter(|_| norm.is_none()).into_iter().collect();
        Some(Rows { x: x.array.clone(), n_tok, n_in, norm, forms: RefCell::new(forms) })
    }

    /// The rows in a layout of `rows_half`.
    fn form(&self, own: &Own, d: &Device, layout: u32) -> Form {
        let mut forms = self.forms.borrow_mut();
        if let Some(form) = forms.iter().find(|form| form.layout == layout) {
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
        let inputs = [&self.x, &weight, &sizes, &factors];
        let [x, scales] = own.launch(d, instance, &inputs, &shapes, [self.n_tok, 1, 1]);
        let form = Form { layout, x, scales };
        forms.push(form.clone());
        form
    }
}

/// What `affine_tiles` must know of a matrix.
struct Tiles<'a> {
    part: &'a Part,
    scales: &'a Array,
    biases: &'a Array,
    n_out: usize,
    /// Bits and group.
    packing: [u32; 2],
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
        let (n_out, packing) = (self.weights.shape()[0], [packing.bits as u32, packing.group as u32]);
        fits.then_some(Tiles { part: self, scales: &packed.scales, biases, n_out, packing, parameter })
    }
}

impl Matrix {
    /// If it is one part that our kernels multiply.
    fn tiles(&self, n_in: usize) -> Option<Tiles<'_>> {
        let [part] = &self.parts[..] else { return None };
        part.tiles(n_in).filter(|_| self.n_matrix == 1)
    }
}

impl<'a> Tiles<'a> {
    /// The arrays of the matrix.
    fn arrays(&self) -> [&'a Array; 3] {
        [&self.part.weights, self.scales, self.biases]
    }

    fn like(&self, other: &Tiles<'_>) -> bool {
        self.packing == other.packing && self.parameter == other.parameter
    }
}

/// A part that our kernels multiply.
enum Read<'a> {
    Tiles(Tiles<'a>),
    Blocks { part: &'a Part, blocks: &'a Coded, n_out: usize },
}

impl Read<'_> {
    /// The type of the plain numbers that it becomes for many rows, and its rows.
    fn shape(&self) -> (Dtype, usize) {
        match self {
            Read::Tiles(tiles) => (tiles.part.dtype, tiles.n_out),
            Read::Blocks { part, n_out, .. } => (part.dtype, *n_out),
        }
    }

    /// Rows that are multiplied at once by what it is read by; more are worth plain numbers.
    fn few(&self, own: &Own) -> usize {
        match self {
            Read::Tiles(_) => tile_tokens(own),
            Read::Blocks { .. } => MAX_MATMUL_ROWS,
        }
    }
}

impl Part {
    fn read(&self, n_in: usize) -> Option<Read<'_>> {
        match &self.blocks {
            Some(blocks) => Some(Read::Blocks { part: self, blocks, n_out: self.weights.shape()[0] }),
            None => self.tiles(n_in).map(Read::Tiles),
        }
    }
}

/// The rows times a matrix, plus `residual`; `None` where our kernels do not multiply it.
pub(crate) fn product(own: &Own, d: &Device, rows: &Rows, matrix: &Matrix, residual: Option<&Array>) -> Option<Array> {
    let parts: Option<Vec<Read<'_>>> = matrix.parts.iter().map(|part| part.read(rows.n_in)).collect();
    let parts = parts.filter(|_| matrix.n_matrix == 1)?;
    let one = |part: &Read<'_>, residual: Option<&Array>| {
        if rows.n_tok > part.few(own) {
            let y = many(own, d, rows, part);
            return finish(own, d, rows, [&y, &y], (part.shape(), 0, residual));
        }
        match part {
            Read::Tiles(tiles) => few(own, d, rows, tiles, residual),
            Read::Blocks { part, blocks, n_out } => few_blocks(own, d, rows, (&part.weights, blocks, *n_out), residual),
        }
    };
    if let [part] = &parts[..] {
        return Some(one(part, residual));
    }
    let arrays: Vec<Array> = parts.iter().map(|part| one(part, None)).collect();
    let joined = d.concatenate(&arrays.iter().collect::<Vec<_>>(), -1);
    Some(residual.map_or(joined.clone(), |residual| d.add(residual, &joined)))
}

/// The rows times three matrices of one packing in one launch; `None` where that is not to be had.
pub(crate) fn three(own: &Own, d: &Device, rows: &Rows, matrices: [&Matrix; 3]) -> Option<[Array; 3]> {
    let [a, b, c] = matrices.map(|matrix| matrix.tiles(rows.n_in));
    let tiles = [a?, b?, c?];
    let n_tok = rows.n_tok;
    if n_tok > tile_tokens(own) || !tiles.iter().all(|t| t.like(&tiles[0])) {
        return None;
    }
    let (form, [n, r]) = begin(own, d, rows, &tiles[0]);
    let [bits, group] = tiles[0].packing;
    let instance = Instance::new("affine_tiles_three", &[n, r, bits, group], tiles[0].parameter);
    let n_out = tiles.each_ref().map(|t| t.n_out);
    let sizes = own.sizes(d, &[&[rows.n_in, n_tok], &n_out[..]].concat());
    let arrays = tiles.iter().flat_map(Tiles::arrays);
    let inputs: Vec<&Array> = [&form.x, &form.scales].into_iter().chain(arrays).chain([&sizes]).collect();
    let shapes = n_out.map(|n| [n_tok, n]);
    let grid = n_out.iter().map(|n| n.div_ceil(16 * r as usize)).sum();
    Some(own.launch(d, instance, &inputs, &shapes.each_ref().map(|shape| &shape[..]), [grid, 1, 1]))
}

/// `act(gate x) * (up x)`, and the same in 16 bits where that is made beside; `None` where our kernels do not compute it.
pub(crate) fn gated(
    own: &Own,
    d: &Device,
    rows: &Rows,
    [gate, up]: [&Matrix; 2],
    act: Act,
) -> Option<(Array, Option<Form>)> {
    let (gate, up) = (gate.tiles(rows.n_in)?, up.tiles(rows.n_in)?);
    let glu = match act {
        Act::Silu => 1,
        Act::GeluTanh => 2,
        _ => return None,
    };
    if !gate.like(&up) {
        return None;
    }
    let (n_tok, n_out) = (rows.n_tok, gate.n_out);
    if n_tok > tile_tokens(own) {
        let shape = (gate.part.dtype, gate.n_out);
        let [y, z] = [gate, up].map(|tiles| many(own, d, rows, &Read::Tiles(tiles)));
        return Some((finish(own, d, rows, [&y, &z], (shape, glu, None)), None));
    }
    let (form, [n, _]) = begin(own, d, rows, &gate);
    let ([bits, group], shape) = (gate.packing, [n_tok, n_out]);
    let layout = layout(own, shape);
    let instance = Instance::new("affine_tiles_gated", &[n, 2, bits, group, glu, layout], gate.parameter);
    let sizes = own.sizes(d, &[rows.n_in, n_tok, n_out]);
    let ([w, scales, biases], [w2, scales2, biases2]) = (gate.arrays(), up.arrays());
    let inputs = [&form.x, &form.scales, w, scales, biases, w2, scales2, biases2, &sizes];
    let pairs = pairs_shape(layout, shape);
    let [y, pairs] = own.launch(d, instance, &inputs, &[&shape, &pairs], [n_out.div_ceil(16), 1, 1]);
    Some((y, Form::new(own, d, layout, (pairs, n_tok), GATED_SCALE)))
}

/// The rows as `affine_tiles` reads them, and its constants N and R.
fn begin(own: &Own, d: &Device, rows: &Rows, tiles: &Tiles<'_>) -> (Form, [u32; 2]) {
    own.bits.set(tiles.packing[0]);
    let n = rows.n_tok.div_ceil(8) as u32;
    (rows.form(own, d, tiles.packing[0]), [n, if n > 1 { 2 } else { 1 }])
}

fn few(own: &Own, d: &Device, rows: &Rows, tiles: &Tiles<'_>, residual: Option<&Array>) -> Array {
    let (form, [n, r]) = begin(own, d, rows, tiles);
    let [bits, group] = tiles.packing;
    let add = u32::from(residual.is_some());
    let instance = Instance::new("affine_tiles", &[n, r, bits, group, add], tiles.parameter);
    let sizes = own.sizes(d, &[rows.n_in, rows.n_tok, tiles.n_out]);
    let [w, scales, biases] = tiles.arrays();
    let inputs = [&form.x, &form.scales, w, scales, biases, residual.unwrap_or(&form.scales), &sizes];
    let shape = [rows.n_tok, tiles.n_out];
    let [y] = own.launch(d, instance, &inputs, &[&shape], [tiles.n_out.div_ceil(16 * r as usize), 1, 1]);
    y
}

fn few_blocks(
    own: &Own,
    d: &Device,
    rows: &Rows,
    (weights, blocks, n_out): (&Array, &Coded, usize),
    residual: Option<&Array>,
) -> Array {
    let form = rows.form(own, d, 0);
    let constants = [matmul_rows(rows.n_tok), u32::from(residual.is_some())];
    let instance = Instance::new(&format!("{}_matmul", blocks.row.name), &constants, "float");
    let sizes = own.sizes(d, &[rows.n_in, rows.n_tok, n_out]);
    let inputs = [&form.x, &form.scales, weights, &blocks.codes, residual.unwrap_or(&form.scales), &sizes];
    let [y] = own.launch(d, instance, &inputs, &[&[rows.n_tok, n_out]], [n_out.div_ceil(8), 1, 1]);
    y
}

/// Rows of blocks `[n, words]` as f16 `[n, n_in]`.
pub(crate) fn plain(own: &Own, d: &Device, (weights, blocks): (&Array, &Coded), n_in: usize) -> Array {
    let n = weights.shape()[0];
    let eights = n * n_in / 8;
    let instance = Instance::new(&format!("{}_decode", blocks.row.name), &[], "float");
    let inputs = [weights, &blocks.codes, &own.sizes(d, &[eights])];
    let [pairs] = own.launch(d, instance, &inputs, &[&[n, n_in / 2]], [eights.div_ceil(256), 1, 1]);
    d.view(&pairs, Dtype::F16)
}

/// The rows in 16 bits times the matrix as plain numbers, which `finish` makes products.
fn many(own: &Own, d: &Device, rows: &Rows, part: &Read<'_>) -> Array {
    let (dtype, _) = part.shape();
    let form = rows.form(own, d, u32::from(dtype == Dtype::BF16));
    let plain = match part {
        Read::Tiles(tiles) => {
            let packing = tiles.part.packed.as_ref().expect("tiles are of packed parts").packing;
            d.dequantize([&tiles.part.weights, tiles.scales], Some(tiles.biases), packing, dtype)
        }
        Read::Blocks { part, blocks, .. } => plain(own, d, (&part.weights, blocks), rows.n_in),
    };
    d.matmul(&d.view(&form.x, dtype), &d.transpose(&plain, &[1, 0]))
}

/// What products of [`many`] stand for; a gate's and the other's where `glu` is not 0.
fn finish(
    own: &Own,
    d: &Device,
    rows: &Rows,
    [y, z]: [&Array; 2],
    ((dtype, n_out), glu, residual): ((Dtype, usize), u32, Option<&Array>),
) -> Array {
    let layout = u32::from(dtype == Dtype::BF16);
    let scales = rows.form(own, d, layout).scales;
    let parameter = if layout == 1 { "bfloat" } else { "half" };
    let instance = Instance::new("rows_finish", &[glu, u32::from(residual.is_some())], parameter);
    let sizes = own.sizes(d, &[n_out]);
    let inputs = [y, z, &scales, residual.unwrap_or(&scales), &sizes];
    let [out] = own.launch(d, instance, &inputs, &[&[rows.n_tok, n_out]], [n_out.div_ceil(256), rows.n_tok, 1]);
    out
}
