//! Rows times quantized matrices.
//!
//! Up to [`tile_tokens`] rows `affine_tiles` and the kernels of blocks multiply what they unpack; more are worth the matrix as plain
//! numbers, and MLX's product of these.

use std::cell::RefCell;

use mlxr_compute::op::{Act, Norm, NormKind, Rope, RopePairs};

use super::form::{self, Form, Of};
use super::trial::Way;
use super::{Own, blocks};
use crate::backend::Mlx;
use crate::ffi::{Array, Device, Dtype};
use crate::kernel::source::Platform;
use crate::kernel::{Instance, tiles};
use crate::matrix::{Coded, Matrix, Part};
use crate::rows;
use crate::tensor::Tensor;

/// Rows that `affine_tiles` takes at once, by what a threadgroup's memory holds.
pub(super) fn tile_tokens(platform: Platform) -> usize {
    match platform {
        Platform::Cuda => 32,
        Platform::Metal => 16,
    }
}

/// Columns of a row that kernels normalize themselves, at most: 2 bytes each of a threadgroup's memory.
const MAX_NORMED: usize = 4096;

/// Rows to multiply, in the forms that products need, each made once.
pub(crate) struct Rows {
    x: Array,
    pub(super) n_tok: usize,
    pub(super) n_in: usize,
    /// Weight and epsilon of an RMS norm.
    norm: Option<(Array, f32)>,
    forms: RefCell<Vec<Form>>,
}

/// The layout in which a kernel makes pairs of `[n_tok, n_col]` numbers beside its output; 0 for none.
pub(crate) fn layout(own: &Own, [n_tok, n_col]: [usize; 2]) -> u32 {
    if tiled(own, n_tok) && n_col.is_multiple_of(128) { own.bits.get() } else { 0 }
}

/// If so many rows are multiplied by `affine_tiles`: none are where no token's logits are wanted.
fn tiled(own: &Own, n_tok: usize) -> bool {
    (1..=tile_tokens(own.platform)).contains(&n_tok) && own.way(n_tok) == Way::Tiles
}

/// The shape of those pairs.
pub(crate) fn pairs_shape(layout: u32, [n_tok, n_col]: [usize; 2]) -> [usize; 2] {
    if layout == 0 { [1, 1] } else { [n_tok.next_multiple_of(8), n_col / 2] }
}

/// What gated products are divided by to be f16: those of large models pass 65504.
const GATED_SCALE: f32 = 16.0;

impl Rows {
    /// As [`Rows::new`], but normalized already where what multiplies them does not see to it.
    pub(crate) fn of((own, d): (&Own, &Device), x: &Tensor, norm: Option<&Norm<Mlx>>) -> Option<Rows> {
        match (own.way(x.shape[0]), norm) {
            (Way::Vectors, Some(norm)) => Rows::new(&rows::norm(d, x, 1, norm), None),
            _ => Rows::new(x, norm),
        }
    }

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
    pub(super) fn form(&self, own: &Own, d: &Device, layout: u32) -> Form {
        let mut forms = self.forms.borrow_mut();
        if let Some(form) = forms.iter().find(|form| form.layout == layout) {
            return form.clone();
        }
        let of = match &self.norm {
            Some((weight, eps)) => Of::Norm(weight, *eps),
            None => Of::Rows,
        };
        let form = Form::of(own, d, (&self.x, [self.n_tok, self.n_in]), of, layout);
        forms.push(form.clone());
        form
    }

    /// An instance of one of two kernels that multiply these rows, of which the second normalizes them itself, and what they read
    /// of the rows. It does for one row, which lies in the memory of a threadgroup.
    fn tiled(
        &self,
        own: &Own,
        d: &Device,
        [made, normed]: [&str; 2],
        (constants, parameter): (&[u32], &'static str),
    ) -> (Instance, Vec<Array>) {
        // Of N, R, BITS.
        let bits = constants[2];
        own.bits.set(bits);
        match &self.norm {
            Some((weight, eps)) if self.n_tok == 1 && self.n_in <= MAX_NORMED => {
                let rows = vec![self.x.clone(), weight.clone(), own.floats(d, &[*eps])];
                (Instance::new(normed, constants, parameter), rows)
            }
            _ => {
                let form = self.form(own, d, bits);
                (Instance::new(made, constants, parameter), vec![form.x, form.scales, own.sizes(d, &[self.n_tok])])
            }
        }
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
        let fits = tiles::read(packing.bits as u8, packing.group as u16, n_in);
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
    if rows.n_tok == 0 {
        // Of no token's logits, say.
        return Some(d.zeros(&[0, matrix.n_out], Dtype::F32));
    }
    let parts: Option<Vec<Read<'_>>> = matrix.parts.iter().map(|part| part.read(rows.n_in)).collect();
    let parts = parts.filter(|_| matrix.n_matrix == 1)?;
    let one = |part: &Read<'_>, residual: Option<&Array>| {
        let left = matches!(part, Read::Tiles(_)) && own.way(rows.n_tok) == Way::Mlx;
        if left || rows.n_tok > tile_tokens(own.platform) {
            let y = by_mlx(own, d, rows, part);
            return finish(own, d, rows, [&y, &y], (part.shape(), 0, residual));
        }
        match part {
            Read::Tiles(tiles) if own.way(rows.n_tok) == Way::Vectors => vectors(own, d, rows, tiles, residual),
            Read::Tiles(tiles) => few(own, d, rows, tiles, residual),
            Read::Blocks { part, blocks, n_out } => {
                blocks::few(own, d, rows, (&part.weights, blocks, *n_out), residual)
            }
        }
    };
    if let [part] = &parts[..] {
        return Some(one(part, residual));
    }
    let arrays: Vec<Array> = parts.iter().map(|part| one(part, None)).collect();
    let joined = d.concatenate(&arrays.iter().collect::<Vec<_>>(), -1);
    Some(residual.map_or(joined.clone(), |residual| d.add(residual, &joined)))
}

/// Three matrices of one packing: queries', keys' and values', whose products a launch may also rotate and append.
pub(crate) struct Three<'a> {
    tiles: [Tiles<'a>; 3],
    /// Of [`tile_constants`], and the matrices' rows.
    constants: [u32; 10],
}

impl<'a> Three<'a> {
    /// `None` where our kernels do not multiply these rows with them in one launch.
    pub(crate) fn new(own: &Own, rows: &Rows, matrices: [&'a Matrix; 3]) -> Option<Three<'a>> {
        let [a, b, c] = matrices.map(|matrix| matrix.tiles(rows.n_in));
        let tiles = [a?, b?, c?];
        if !tiled(own, rows.n_tok) || !tiles.iter().all(|t| t.like(&tiles[0])) {
            return None;
        }
        let n_outs = tiles.each_ref().map(|t| t.n_out);
        let shape = Shape { n_in: rows.n_in, n_outs: &n_outs, gated: false };
        let [n, r, bits, group, run, n_in, n_wave] = tile_constants(own.platform, rows.n_tok, shape, tiles[0].packing);
        let [a, b, c] = n_outs.map(|n_out| n_out as u32);
        let constants = [n, r, bits, group, run, n_in, n_wave, a, b, c];
        Some(Three { tiles, constants })
    }

    /// Shapes of the products.
    pub(crate) fn shapes(&self, rows: &Rows) -> [[usize; 2]; 3] {
        self.tiles.each_ref().map(|t| [rows.n_tok, t.n_out])
    }

    /// Rows of the matrices that a group takes, and groups.
    fn groups(&self) -> [usize; 2] {
        let n = 16 * self.constants[1] as usize;
        [n, self.tiles.iter().map(|t| t.n_out.div_ceil(n)).sum()]
    }

    /// The rows times each.
    pub(crate) fn products(&self, own: &Own, d: &Device, rows: &Rows) -> [Array; 3] {
        let instance = Instance::new("affine_tiles_three", &self.constants, self.tiles[0].parameter);
        let (form, sizes) = (begin(own, d, rows, &self.tiles[0]), own.sizes(d, &[rows.n_tok]));
        let arrays = self.tiles.iter().flat_map(Tiles::arrays);
        let inputs: Vec<&Array> = [&form.x, &form.scales, &sizes].into_iter().chain(arrays).collect();
        let shapes = self.shapes(rows);
        own.launch(d, instance, &inputs, &shapes.each_ref().map(|shape| &shape[..]), [self.groups()[1], 1, 1])
    }

    /// If queries, keys and values of heads of `d_head` can be rotated so as they are made.
    pub(crate) fn rotates(&self, d_head: usize, rope: Option<&Rope>) -> bool {
        let whole = |rope: &Rope| rope.pairs == RopePairs::Interleaved || 2 * rope.freqs.len() == d_head;
        d_head.is_multiple_of(self.groups()[0]) && rope.is_none_or(whole)
    }

    /// The queries rotated, and the append's `done`, as of `rotate_append`; the caller has asked [`Three::rotates`].
    pub(crate) fn append(
        &self,
        own: &Own,
        d: &Device,
        rows: &Rows,
        stores: [&Array; 2],
        (rope, d_head): (Option<&Rope>, usize),
        (table, before): (&Array, &Array),
    ) -> [Array; 2] {
        let freqs = rope.map_or(&[][..], |rope| &rope.freqs);
        let paired = rope.is_none_or(|rope| rope.pairs == RopePairs::Interleaved);
        let rest = [d_head as u32, 2 * freqs.len() as u32, u32::from(paired)];
        let constants = [&self.constants[..], &rest].concat();
        let names = ["affine_tiles_append", "affine_tiles_append_normed"];
        let (instance, first) = rows.tiled(own, d, names, (&constants, self.tiles[0].parameter));
        let turns = own.floats(d, freqs);
        let rest = [stores[0], stores[1], table, &turns, before];
        let inputs: Vec<&Array> = first.iter().chain(self.tiles.iter().flat_map(Tiles::arrays)).chain(rest).collect();
        let shapes: [&[usize]; 2] = [&[rows.n_tok, self.tiles[0].n_out], &[1]];
        own.launch(d, instance, &inputs, &shapes, [self.groups()[1], 1, 1])
    }
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
    let glu = form::glu(act).filter(|glu| *glu < form::OF_ROWS_ALONE)?;
    if !gate.like(&up) {
        return None;
    }
    let (n_tok, n_out) = (rows.n_tok, gate.n_out);
    if n_tok > tile_tokens(own.platform) || own.way(n_tok) == Way::Mlx {
        let shape = (gate.part.dtype, gate.n_out);
        let [y, z] = [gate, up].map(|tiles| by_mlx(own, d, rows, &Read::Tiles(tiles)));
        return Some((finish(own, d, rows, [&y, &z], (shape, glu, None)), None));
    }
    if !tiled(own, n_tok) {
        return None;
    }
    let shape = [n_tok, n_out];
    own.bits.set(gate.packing[0]);
    let layout = layout(own, shape);
    let of = Shape { n_in: rows.n_in, n_outs: &[n_out], gated: true };
    let tiling = tile_constants(own.platform, n_tok, of, gate.packing);
    let constants = [&tiling[..], &[n_out as u32, glu, layout]].concat();
    let names = ["affine_tiles_gated", "affine_tiles_gated_normed"];
    let (instance, first) = rows.tiled(own, d, names, (&constants, gate.parameter));
    let matrices = [gate.arrays(), up.arrays()].concat();
    let inputs: Vec<&Array> = first.iter().chain(matrices).collect();
    let pairs = pairs_shape(layout, shape);
    let [y, pairs] = own.launch(d, instance, &inputs, &[&shape, &pairs], [n_out.div_ceil(16), 1, 1]);
    Some((y, Form::new(own, d, layout, (pairs, n_tok), GATED_SCALE)))
}

/// Matrices that a launch multiplies, as the constants of its kernel say: each one's rows, and whether two are a gate and what it lets
/// through.
#[derive(Clone, Copy)]
pub(crate) struct Shape<'a> {
    pub n_in: usize,
    pub n_outs: &'a [usize],
    pub gated: bool,
}

/// Groups of two times the waves that a large GPU has room for at once: two for each of an H200's multiprocessors.
const ROOM: usize = 264;

/// The constants N, R, BITS, GROUP, RUN, COLUMNS and WAVES of `affine_tiles` for so many rows, and matrices of so many bits and such
/// groups.
pub(crate) fn tile_constants(platform: Platform, n_tok: usize, shape: Shape<'_>, [bits, group]: [u32; 2]) -> [u32; 7] {
    let Shape { n_in, n_outs, gated } = shape;
    let n = n_tok.div_ceil(8) as u32;
    let r = if gated || n > 1 { 2 } else { 1 };
    // More waves share the columns where there are few groups, by kernel times of an H100.
    let groups: usize = n_outs.iter().map(|n_out| n_out.div_ceil(16)).sum();
    let alone = n_outs.len() == 1;
    let many = platform == Platform::Cuda && alone && r == 1 && groups <= ROOM && n_in >= 128 * 16;
    let run = group / 16;
    let fits = bits == 4 && group < 128 && n_in.is_multiple_of(128 * run as usize);
    // Elsewhere the registers that runs take cost more than they gain, by kernel times of an H200.
    let pays = if gated { n > 2 } else { n == 1 && !many };
    [n, r, bits, group, if fits && pays { run } else { 1 }, n_in as u32, if many { 16 } else { 8 }]
}

/// The rows as `affine_tiles` reads them.
fn begin(own: &Own, d: &Device, rows: &Rows, tiles: &Tiles<'_>) -> Form {
    own.bits.set(tiles.packing[0]);
    rows.form(own, d, tiles.packing[0])
}

fn few(own: &Own, d: &Device, rows: &Rows, tiles: &Tiles<'_>, residual: Option<&Array>) -> Array {
    let of = Shape { n_in: rows.n_in, n_outs: &[tiles.n_out], gated: false };
    let (form, constants) = (begin(own, d, rows, tiles), tile_constants(own.platform, rows.n_tok, of, tiles.packing));
    let all = [&constants[..], &[tiles.n_out as u32, u32::from(residual.is_some())]].concat();
    let instance = Instance::new("affine_tiles", &all, tiles.parameter);
    let sizes = own.sizes(d, &[rows.n_tok]);
    let [w, scales, biases] = tiles.arrays();
    let inputs = [&form.x, &form.scales, &sizes, w, scales, biases, residual.unwrap_or(&form.scales)];
    let shape = [rows.n_tok, tiles.n_out];
    let [y] = own.launch(d, instance, &inputs, &[&shape], [tiles.n_out.div_ceil(16 * constants[1] as usize), 1, 1]);
    y
}

/// As [`few`], by `affine_matmul`; the rows have no norm.
fn vectors(own: &Own, d: &Device, rows: &Rows, tiles: &Tiles<'_>, residual: Option<&Array>) -> Array {
    assert!(rows.norm.is_none(), "vectors: `Rows::of` normalizes rows");
    let [bits, group] = tiles.packing;
    let instance = Instance::new("affine_matmul", &[rows.n_tok as u32, bits, group], tiles.parameter);
    let [w, scales, biases] = tiles.arrays();
    let inputs = [&rows.x, w, scales, biases, &own.sizes(d, &[rows.n_in, tiles.n_out])];
    let [y] = own.launch(d, instance, &inputs, &[&[rows.n_tok, tiles.n_out]], [tiles.n_out.div_ceil(16), 1, 1]);
    residual.map_or_else(|| y.clone(), |residual| d.add(residual, &y))
}

/// The rows in 16 bits times the matrix, of many rows as plain numbers, by MLX; `finish` makes products of it.
fn by_mlx(own: &Own, d: &Device, rows: &Rows, part: &Read<'_>) -> Array {
    let (dtype, _) = part.shape();
    let form = rows.form(own, d, form::layout_of(dtype));
    let plain = match part {
        Read::Tiles(tiles) => {
            let packing = tiles.part.packed.as_ref().expect("tiles are of packed parts").packing;
            let [weights, scales, biases] = tiles.arrays();
            if rows.n_tok <= tile_tokens(own.platform) {
                return d.quantized_matmul(&d.view(&form.x, dtype), [weights, scales], Some(biases), packing);
            }
            d.dequantize([weights, scales], Some(biases), packing, dtype)
        }
        Read::Blocks { part, blocks, .. } => blocks::plain(own, d, (&part.weights, blocks), rows.n_in),
    };
    d.matmul(&d.view(&form.x, dtype), &d.transpose(&plain, &[1, 0]))
}

/// What products of [`by_mlx`] stand for; a gate's and the other's where `glu` is not 0.
fn finish(
    own: &Own,
    d: &Device,
    rows: &Rows,
    [y, z]: [&Array; 2],
    ((dtype, n_out), glu, residual): ((Dtype, usize), u32, Option<&Array>),
) -> Array {
    let scales = rows.form(own, d, form::layout_of(dtype)).scales;
    form::finish(own, d, [y, z], (dtype, [rows.n_tok, n_out]), (&scales, 1), (glu, residual))
}
