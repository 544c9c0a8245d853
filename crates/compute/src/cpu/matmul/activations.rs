//! Inputs of products, in the layout that the kernels read: tiles of up to 16 columns, a column a token.

use std::ops::Range;

use super::kernel::{BLOCK, Record};
use super::packed::PackedMatrix;
use super::quantize;
use super::table::{self, Input};
use super::wide;
use crate::Error;
use crate::cpu::pool::Cacheline;
use crate::cpu::{Isa, Pool};

/// Work below this many numbers is not shared with other threads: waking them takes longer.
const ALONE: usize = 16 * 1024;
/// Weights of a row in one item of work.
const CHUNK: usize = 64 * BLOCK;

/// Which numbers are the columns, and which of them are multiplied with the same matrix.
#[derive(Debug, Clone, Copy)]
pub enum Columns<'a> {
    /// Every row of `x` is a column; one group.
    Rows,
    /// Column `c` is `x[starts[c]..][..n_in]`; group `g` has the columns `groups[g]..groups[g + 1]`.
    Starts {
        /// Where in `x` each column starts.
        starts: &'a [usize],
        /// First column of each group, and the number of columns.
        groups: &'a [usize],
    },
}

/// Inputs for [`super::matmul`], quantized or rearranged once for all matrices that take them. Reused between calls, so
/// that a step which repeats allocates nothing.
pub struct Activations {
    isa: Isa,
    n_in: usize,
    starts: Vec<usize>,
    groups: Vec<Group>,
    tiles: Vec<Tile>,
    /// Widths of all tiles, summed.
    width: usize,
    /// Of each [`Input`] that is needed.
    numbers: [Option<Vec<Cacheline>>; Input::ALL.len()],
    spare: Vec<Vec<Cacheline>>,
}

#[derive(Debug, Clone)]
pub(super) struct Group {
    /// Its tiles.
    pub tiles: Range<usize>,
    /// Its columns.
    pub columns: Range<usize>,
}

/// Columns that a kernel computes at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tile {
    /// First column.
    pub first: usize,
    /// Columns.
    pub n: usize,
    /// Columns of the kernel, at least `n`; those beyond hold anything.
    pub width: usize,
    /// Widths of the tiles before it, summed.
    pub at: usize,
}

impl Tile {
    /// Whether it has as many columns as any.
    pub fn is_widest(self, isa: Isa) -> bool {
        table::widths(isa).last() == Some(&self.width)
    }
}

impl Activations {
    /// No inputs yet.
    pub fn new(isa: Isa) -> Activations {
        Activations {
            isa,
            n_in: 0,
            starts: Vec::new(),
            groups: Vec::new(),
            tiles: Vec::new(),
            width: 0,
            numbers: [const { None }; Input::ALL.len()],
            spare: Vec::new(),
        }
    }

    /// Takes new inputs: columns of `n_in` numbers from `x`, as `matrices` (all with `n_in` columns) need them.
    ///
    /// # Errors
    /// If the computation failed in a thread.
    ///
    /// # Panics
    /// If a column does not lie within `x`, or a matrix has another `n_in` or instruction set.
    pub fn load(
        &mut self,
        pool: &Pool,
        x: &[f32],
        n_in: usize,
        columns: Columns<'_>,
        matrices: &[&PackedMatrix],
    ) -> Result<(), Error> {
        self.n_in = n_in;
        self.lay_out(x.len(), columns);
        for m in matrices {
            assert_eq!((m.n_in(), m.isa()), (n_in, self.isa), "activations: a matrix does not fit the input");
        }
        self.spare.extend(self.numbers.iter_mut().filter_map(Option::take));
        for input in Input::ALL {
            let needed = matrices.iter().any(|m| m.needs(input));
            self.numbers[input as usize] = needed.then(|| self.buffer(self.width * input.bytes(n_in)));
        }
        self.fill(pool, x)
    }

    /// Splits the columns into tiles as wide as can be.
    fn lay_out(&mut self, n_x: usize, columns: Columns<'_>) {
        self.starts.clear();
        self.groups.clear();
        self.tiles.clear();
        self.width = 0;
        let (n_in, widths) = (self.n_in, table::widths(self.isa));
        let single;
        let bounds = match columns {
            Columns::Rows => {
                assert!(n_in > 0 && n_x.is_multiple_of(n_in), "activations: {n_x} numbers in rows of {n_in}");
                self.starts.extend((0..n_x / n_in).map(|c| c * n_in));
                single = [0, n_x / n_in];
                &single[..]
            }
            Columns::Starts { starts, groups } => {
                assert!(starts.iter().all(|&s| s <= n_x && n_in <= n_x - s), "activations: a column leaves x");
                assert!(groups.last() == Some(&starts.len()), "activations: the groups do not cover the columns");
                self.starts.extend_from_slice(starts);
                groups
            }
        };
        for bound in bounds.windows(2) {
            let (from, to) = (bound[0], bound[1]);
            assert!(from <= to, "activations: groups overlap");
            let first_tile = self.tiles.len();
            let mut first = from;
            while first < to {
                let n = (to - first).min(widths[widths.len() - 1]);
                let width = *widths.iter().find(|&&w| w >= n).expect("the last is the largest");
                self.tiles.push(Tile { first, n, width, at: self.width });
                first += n;
                self.width += width;
            }
            self.groups.push(Group { tiles: first_tile..self.tiles.len(), columns: from..to });
        }
    }

    fn buffer(&mut self, bytes: usize) -> Vec<Cacheline> {
        let mut buffer = self.spare.pop().unwrap_or_default();
        let n = bytes.div_ceil(size_of::<Cacheline>());
        if buffer.len() < n {
            buffer.resize(n, Cacheline([0.0; 16]));
        }
        buffer
    }

    fn fill(&mut self, pool: &Pool, x: &[f32]) -> Result<(), Error> {
        let (n_in, isa) = (self.n_in, self.isa);
        let n_chunk = n_in.div_ceil(CHUNK).max(1);
        let (tiles, starts) = (&self.tiles, &self.starts);
        let targets = self.numbers.each_mut();
        let targets = targets.map(|b| b.as_mut().map(|b| quantize::Target::new(bytemuck::cast_slice_mut(b))));
        let item = |item: usize| {
            let (tile, from) = (tiles[item / n_chunk], item % n_chunk * CHUNK);
            let to = n_in.min(from + CHUNK);
            let starts = &starts[tile.first..][..tile.n];
            let columns = quantize::Part { starts, range: from..to, width: tile.width };
            for (input, target) in Input::ALL.into_iter().zip(&targets) {
                let Some(target) = target else { continue };
                let at = tile.at * input.bytes(n_in) + tile.width * input.bytes(from);
                // SAFETY: items write to separate numbers: those of their tile and chunk.
                let out = unsafe { target.slice(at, tile.width * input.bytes(to - from)) };
                match input {
                    Input::Int8 => quantize::int8::<Record>(isa, x, &columns, out),
                    Input::Wide => quantize::int8::<wide::Record>(isa, x, &columns, out),
                    Input::Float => quantize::floats(x, &columns, bytemuck::cast_slice_mut(out)),
                    Input::Pairs => quantize::pairs(x, &columns, bytemuck::cast_slice_mut(out)),
                }
            }
        };
        let n_items = tiles.len() * n_chunk;
        if starts.len() * n_in <= ALONE {
            (0..n_items).for_each(item);
            return Ok(());
        }
        pool.run(n_items, |_, i| item(i))
    }

    /// Number of inputs of a column.
    pub fn n_in(&self) -> usize {
        self.n_in
    }

    /// Columns of a group.
    pub fn n_col(&self, group: usize) -> usize {
        self.groups[group].columns.len()
    }

    pub(super) fn isa(&self) -> Isa {
        self.isa
    }

    pub(super) fn group(&self, group: usize) -> &Group {
        &self.groups[group]
    }

    pub(super) fn tile(&self, tile: usize) -> Tile {
        self.tiles[tile]
    }

    /// The numbers of a tile, for kernels with this input.
    ///
    /// # Panics
    /// If `load` was not told of a matrix that needs this input.
    pub(super) fn numbers(&self, tile: Tile, input: Input) -> &[u8] {
        let column = input.bytes(self.n_in);
        let buffer = self.numbers[input as usize].as_ref().expect("load was told of every matrix");
        &bytemuck::cast_slice(buffer)[tile.at * column..][..tile.width * column]
    }
}
