//! The loop over panels and tiles, and what becomes of the results.

use std::marker::PhantomData;
use std::ops::Range;

use super::activations::{Activations, Tile};
use super::kernel::{Args, BLOCK, ROWS};
use super::packed::{PackedMatrix, Panel, Resolved};
use super::table::Input;
use crate::Error;
use crate::cpu::pool::Worker;
use crate::cpu::{Isa, Pool};

/// Most columns of a tile of any instruction set.
const COLUMNS: usize = 16;
/// Most panels of an item of work, which share the tiles they read.
const PANELS: usize = 32;
/// Most bytes of these panels, of gate and up together: they are read again for each tile, from the second-level cache.
const PANEL_BYTES: usize = 512 << 10;
/// Items that each thread should get at least, so that a late thread can be helped.
const ITEMS_A_THREAD: usize = 8;
/// Products of fewer weights and columns are left to the caller: waking the others takes longer.
const ALONE: usize = 96 * 1024;

/// Rows of a matrix: `scale * (W x) + bias`.
#[derive(Clone)]
pub struct Weights<'a> {
    /// The matrix.
    pub matrix: &'a PackedMatrix,
    /// Which expert's; 0 for a plain matrix.
    pub expert: usize,
    /// Which rows; the first must start a panel ([`PackedMatrix::starts_panel`]), and so must the end, unless it is
    /// the end of the matrix.
    pub rows: Range<usize>,
    /// Factor on the products.
    pub scale: f32,
    /// `[rows.len()]`.
    pub bias: Option<&'a [f32]>,
}

/// What becomes of a result `y`.
#[derive(Clone, Copy)]
pub enum Epilogue<'a> {
    /// `out = y`.
    Store,
    /// `out += factor * y`.
    Add(f32),
    /// `y` and the results `u` of `up` for the same columns and as many rows are given to `combine(y, u)`, which
    /// overwrites `y`, and `out = y`. It is called for pieces of any length.
    Gate {
        /// The other matrix. Its panels must start at the same rows (relative to the first).
        up: &'a Weights<'a>,
        /// Usually `y = act(y) * u`.
        combine: &'a (dyn Fn(&mut [f32], &[f32]) + Sync),
    },
}

/// Where results go: column `c` of the group and row `r` to `out.data[(row + c) * out.stride + col + r]`.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Which output.
    pub out: usize,
    /// Row of the group's first column.
    pub row: usize,
    /// Column of the first row of the weights.
    pub col: usize,
}

/// A product of weights with a group of columns.
pub struct Product<'a> {
    /// The weights.
    pub weights: Weights<'a>,
    /// The group of columns, see [`super::Columns`].
    pub group: usize,
    /// What becomes of the results.
    pub epilogue: Epilogue<'a>,
    /// Where they go.
    pub place: Place,
}

/// An output `[n_row, stride]`.
pub struct Out<'a> {
    /// The numbers, row after row.
    pub data: &'a mut [f32],
    /// Numbers of a row.
    pub stride: usize,
}

impl<'a> Product<'a> {
    /// The weights, and those of the other matrix of [`Epilogue::Gate`].
    fn operands(&self) -> impl Iterator<Item = &Weights<'a>> {
        let up = if let Epilogue::Gate { up, .. } = self.epilogue { Some(up) } else { None };
        [&self.weights].into_iter().chain(up)
    }
}

impl<'a> Weights<'a> {
    /// All rows of a plain matrix.
    pub fn all(matrix: &'a PackedMatrix) -> Weights<'a> {
        Weights { matrix, expert: 0, rows: 0..matrix.n_out(), scale: 1.0, bias: None }
    }

    /// Whether panels start at the same rows of both, as [`Epilogue::Gate`] needs.
    pub fn pairs_with(&self, other: &Weights<'_>) -> bool {
        let (Some(a), Some(b)) = (self.panels(), other.panels()) else { return false };
        if self.rows.len() != other.rows.len() || a.len() != b.len() {
            return false;
        }
        if self.matrix.expert(self.expert).len() == 1 && other.matrix.expert(other.expert).len() == 1 {
            return true; // panels start every 16 rows
        }
        let starts = |w: &Weights<'_>, panel: usize| w.row_of(w.matrix.panel(w.expert, panel));
        a.zip(b).all(|(a, b)| starts(self, a) == starts(other, b))
    }

    /// The panels of the rows, or `None` if the rows do not start or end with a panel.
    fn panels(&self) -> Option<Range<usize>> {
        let (from, to) = (self.matrix.panel_of_row(self.rows.start)?, self.matrix.panel_of_row(self.rows.end)?);
        Some(from..to)
    }

    /// First row of a panel, relative to the rows.
    fn row_of(&self, panel: Panel<'_>) -> usize {
        panel.segment.first + panel.row - self.rows.start
    }
}

/// Computes all products in one job.
///
/// # Errors
/// If there is no memory to pack a matrix that is used for the first time, or the computation failed in a thread.
///
/// # Panics
/// If shapes do not fit each other, or two products write to the same place.
pub fn matmul(pool: &Pool, x: &Activations, products: &[Product<'_>], outs: &mut [Out<'_>]) -> Result<(), Error> {
    check(x, products, outs);
    products.iter().flat_map(Product::operands).try_for_each(|w| w.matrix.pack_expert(pool, w.expert))?;
    let per_item = panels_per_item(pool, x, products);
    let n_items = products.iter().map(|p| n_panel(p).div_ceil(per_item)).sum();
    let job = Job { x, products, outs: Outs(outs.as_mut_ptr(), PhantomData), per_item };
    let work: usize = products.iter().map(|p| p.weights.rows.len() * x.n_in() * x.n_col(p.group)).sum();
    if work <= ALONE {
        return pool.run(1, |worker, _| (0..n_items).for_each(|item| job.item(worker, item)));
    }
    pool.run(n_items, |worker, item| job.item(worker, item))
}

fn n_panel(p: &Product<'_>) -> usize {
    p.weights.panels().expect("checked by `check`").len()
}

/// As many panels as still give every thread enough items; one for matrices that are decoded into a thread's memory.
fn panels_per_item(pool: &Pool, x: &Activations, products: &[Product<'_>]) -> usize {
    if products.iter().flat_map(Product::operands).any(|w| w.matrix.each_time()) {
        return 1;
    }
    let total: usize = products.iter().map(n_panel).sum();
    let bytes = |p: &Product<'_>| p.operands().map(|w| w.matrix.panel_bytes(x.n_col(p.group))).sum();
    let most = PANELS.min(PANEL_BYTES / products.iter().map(bytes).max().unwrap_or(1).max(1));
    (total / (pool.n_threads() * ITEMS_A_THREAD)).min(most).max(1)
}

/// Asserts what [`matmul`] says about shapes and places.
fn check(x: &Activations, products: &[Product<'_>], outs: &[Out<'_>]) {
    for (i, p) in products.iter().enumerate() {
        for w in p.operands() {
            let matrix = w.matrix;
            assert_eq!((matrix.n_in(), matrix.isa()), (x.n_in(), x.isa()), "matmul: a matrix does not fit the input");
            assert!(w.panels().is_some(), "matmul: rows {:?} do not start and end with panels", w.rows);
            assert!(w.bias.is_none_or(|b| b.len() == w.rows.len()), "matmul: a bias does not fit its rows");
        }
        if let Epilogue::Gate { up, .. } = p.epilogue {
            assert!(p.weights.pairs_with(up), "matmul: gate and up differ in panels");
        }
        let (rows, cols) = area(x, p);
        let out = &outs[p.place.out];
        assert!(
            cols.end <= out.stride && rows.end * out.stride <= out.data.len(),
            "matmul: a result leaves its output"
        );
        for other in &products[..i] {
            let (other_rows, other_cols) = area(x, other);
            let apart = other.place.out != p.place.out || disjoint(&rows, &other_rows) || disjoint(&cols, &other_cols);
            assert!(apart, "matmul: two products write to one place");
        }
    }
}

/// Rows and columns of the output that a product writes.
fn area(x: &Activations, p: &Product<'_>) -> (Range<usize>, Range<usize>) {
    let Place { row, col, .. } = p.place;
    (row..row + x.n_col(p.group), col..col + p.weights.rows.len())
}

fn disjoint(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.is_empty() || b.is_empty() || a.end <= b.start || b.end <= a.start
}

struct Outs<'a, 'o>(*mut Out<'o>, PhantomData<&'a mut Out<'o>>);

// SAFETY: products write to separate areas (`check`), and items to separate panels of them.
unsafe impl Sync for Outs<'_, '_> {}

struct Job<'a, 'p, 'o> {
    x: &'a Activations,
    products: &'a [Product<'p>],
    outs: Outs<'a, 'o>,
    per_item: usize,
}

/// Results of a panel and a tile, column after column.
#[repr(align(64))]
struct Results([f32; COLUMNS * ROWS]);

impl Job<'_, '_, '_> {
    fn item(&self, worker: &Worker<'_>, mut item: usize) {
        for p in self.products {
            let n = n_panel(p).div_ceil(self.per_item);
            if item < n {
                return self.panels(worker, p, item * self.per_item);
            }
            item -= n;
        }
    }

    /// Panels `first .. first + per_item` of a product, all tiles.
    fn panels(&self, worker: &Worker<'_>, p: &Product<'_>, first: usize) {
        let n = self.per_item.min(n_panel(p) - first);
        let up = if let Epilogue::Gate { up, combine } = p.epilogue { Some((up, combine)) } else { None };
        let n_col = self.x.n_col(p.group);
        let size = n * p.weights.matrix.scratch_floats(n_col);
        let size_up = n * up.map_or(0, |(up, _)| up.matrix.scratch_floats(n_col));
        worker.scratch(size + size_up, |scratch| {
            let (scratch, scratch_up) = scratch.split_at_mut(size);
            let gate = Strip::new(&p.weights, first..first + n, n_col, scratch);
            let up = up.map(|(up, combine)| (Strip::new(up, first..first + n, n_col, scratch_up), combine));
            let (mut y, mut u) = (Results([0.0; COLUMNS * ROWS]), Results([0.0; COLUMNS * ROWS]));
            for t in self.x.group(p.group).tiles.clone() {
                let tile = self.x.tile(t);
                for i in 0..n {
                    let rows = self.rows(p, &gate.panels[i].expect("i < n"), tile);
                    rows.ask();
                    gate.compute(i, self.x, tile, &mut y);
                    if let Some((up, combine)) = &up {
                        up.compute(i, self.x, tile, &mut u);
                        combine(&mut y.0[..tile.n * ROWS], &u.0[..tile.n * ROWS]);
                    }
                    store(&p.epilogue, p.weights.matrix.isa(), &rows, &y);
                }
            }
        });
    }

    /// Where results of a panel and a tile go.
    fn rows(&self, p: &Product<'_>, panel: &Found<'_>, tile: Tile) -> Rows {
        let column = tile.first - self.x.group(p.group).columns.start;
        // SAFETY: `place.out` was checked; only `data` and `stride` are read here, which nobody writes.
        let (data, stride) = unsafe {
            let out = self.outs.0.add(p.place.out);
            (&raw mut *(*out).data, (*out).stride)
        };
        let at = (p.place.row + column) * stride + p.place.col + panel.row;
        assert!(at + tile.n.saturating_sub(1) * stride + panel.n <= data.len(), "checked by `check`");
        // SAFETY: within the output, and no other item writes to its columns of these rows.
        Rows { first: unsafe { data.cast::<f32>().add(at) }, stride, n: tile.n, len: panel.n }
    }
}

/// Writes results to their place.
fn store(epilogue: &Epilogue<'_>, isa: Isa, rows: &Rows, y: &Results) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: whoever chose the instruction set has made sure that the machine has it (`PackedMatrix::new`).
        Isa::Avx512Vnni | Isa::Avx512Bf16 => unsafe { put_avx512(epilogue, rows, y) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: likewise.
        Isa::Avx2 => unsafe { put_avx2(epilogue, rows, y) },
        _ => put(epilogue, rows, y),
    }
}

/// Where the results of a panel and a tile go: `n` rows of `len` numbers, `stride` numbers apart.
struct Rows {
    first: *mut f32,
    stride: usize,
    n: usize,
    len: usize,
}

impl Rows {
    /// Asks for their memory, each a line of a page of its own, while the products are computed.
    fn ask(&self) {
        #[cfg(target_arch = "x86_64")]
        for j in 0..self.n {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a prefetch never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.first.wrapping_add(j * self.stride).cast()) };
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
fn put_avx512(epilogue: &Epilogue<'_>, rows: &Rows, y: &Results) {
    put(epilogue, rows, y);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn put_avx2(epilogue: &Epilogue<'_>, rows: &Rows, y: &Results) {
    put(epilogue, rows, y);
}

/// Writes results, column after column, to their rows.
#[inline(always)]
fn put(epilogue: &Epilogue<'_>, rows: &Rows, y: &Results) {
    for (j, y) in y.0.as_chunks::<ROWS>().0[..rows.n].iter().enumerate() {
        // SAFETY: `Job::store` has checked where the rows are.
        let out = unsafe { std::slice::from_raw_parts_mut(rows.first.add(j * rows.stride), rows.len) };
        // Of a length that the compiler knows, where it can be.
        match out.as_mut_array::<ROWS>() {
            Some(out) => put_row(epilogue, out, y),
            None => put_row(epilogue, out, y),
        }
    }
}

#[inline(always)]
fn put_row(epilogue: &Epilogue<'_>, out: &mut [f32], y: &[f32; ROWS]) {
    match epilogue {
        Epilogue::Add(factor) => out.iter_mut().zip(y).for_each(|(out, y)| *out += factor * y),
        Epilogue::Store | Epilogue::Gate { .. } => out.iter_mut().zip(y).for_each(|(out, y)| *out = *y),
    }
}

/// A panel ready for its kernel.
#[derive(Clone, Copy)]
struct Found<'a> {
    bytes: Resolved,
    /// First row, relative to the rows of the weights.
    row: usize,
    n: usize,
    bias: Option<&'a [f32]>,
}

/// Consecutive panels.
struct Strip<'a> {
    panels: [Option<Found<'a>>; PANELS],
    isa: Isa,
    n_in: usize,
    scale: f32,
}

impl<'a> Strip<'a> {
    /// Panels `range`, to be multiplied with `n_col` columns; `scratch` has room for what that needs.
    fn new(w: &Weights<'a>, range: Range<usize>, n_col: usize, scratch: &mut [f32]) -> Strip<'a> {
        let start = w.panels().expect("checked by `check`").start;
        let (mut panels, size) = ([None; PANELS], w.matrix.scratch_floats(n_col));
        for (i, (found, index)) in panels.iter_mut().zip(range).enumerate() {
            let panel = w.matrix.panel(w.expert, start + index);
            let bytes = w.matrix.resolve(panel, n_col, &mut scratch[i * size..][..size]);
            let row = w.row_of(panel);
            *found = Some(Found { bytes, row, n: panel.n, bias: w.bias.map(|b| &b[row..][..panel.n]) });
        }
        Strip { panels, isa: w.matrix.isa(), n_in: w.matrix.n_in(), scale: w.scale }
    }

    /// `scale * product + bias` of panel `i` and a tile.
    fn compute(&self, i: usize, x: &Activations, tile: Tile, y: &mut Results) {
        let panel = self.panels[i].expect("i < n");
        let Resolved { form, data, bf16, unpacked } = panel.bytes;
        let input = form.input;
        let n = match input {
            Input::Int8 | Input::Wide => self.n_in / BLOCK,
            Input::Float => self.n_in,
            Input::Pairs => self.n_in / 2,
        };
        let tile_numbers = x.numbers(tile, input).as_ptr();
        let (kernel, data) = match unpacked {
            Some(unpacked) if tile.is_widest(self.isa) => unpacked,
            _ => (form.kernel(self.isa, tile.width), data),
        };
        let args = Args { panel: data, n, tile: tile_numbers, bf16, out: y.0.as_mut_ptr() };
        // SAFETY: the machine has the instruction set (`PackedMatrix::build`), panel and tile are as large as `n_in`
        // asks for, and `y` has room for the most columns of any tile.
        unsafe { kernel(&args) };
        let columns = y.0.as_chunks_mut::<ROWS>().0.iter_mut().take(tile.n);
        if self.scale != 1.0 || panel.bias.is_some() {
            let mut bias = [0.0; ROWS];
            bias[..panel.n].copy_from_slice(panel.bias.unwrap_or(&[0.0; ROWS][..panel.n]));
            columns.for_each(|column| column.iter_mut().zip(&bias).for_each(|(y, b)| *y = self.scale * *y + b));
        }
    }
}
