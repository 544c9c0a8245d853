//! Weight matrices, packed into panels of 16 rows when they are first multiplied.
//!
//! Until then, and for encodings whose panels are made each time (see [`super::table`]), a matrix is the bytes of its file, used in
//! place: an embedding table that is only looked up is never copied. Packing copies the bytes as they are, so the file's
//! pages are not needed afterwards, except for look-ups; the system may drop them.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::kernel::{BLOCK, Kernel, ROWS};
use super::table::{self, FormRow, Input};
use crate::cpu::arena::Arena;
use crate::cpu::{Isa, Pool};
use crate::{Bytes, DType, Encoding, Error, MatrixData, matrix};

/// A matrix `[n_out, n_in]`, or those of all experts.
pub struct PackedMatrix {
    isa: Isa,
    n_out: usize,
    n_in: usize,
    n_expert: usize,
    /// The parts of expert 0, then those of expert 1, ...; each expert has as many.
    segments: Vec<Segment>,
    arena: OnceLock<Arena>,
    packing: Mutex<()>,
}

/// Rows of one encoding.
pub(super) struct Segment {
    pub data: MatrixData,
    /// First row in its expert.
    pub first: usize,
    form: &'static FormRow,
    /// Where its panels start in the arena.
    at: usize,
    packed: AtomicBool,
}

/// One panel, found by [`PackedMatrix::panel`].
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    pub segment: &'a Segment,
    /// First row in the segment.
    pub row: usize,
    /// Rows, at most 16.
    pub n: usize,
}

/// A panel's bytes, found by [`PackedMatrix::resolve`].
#[derive(Clone, Copy)]
pub(super) struct Resolved {
    pub form: &'static FormRow,
    pub data: *const u8,
    /// Whether its scales are bf16.
    pub bf16: bool,
    /// The kernel for tiles of the greatest width and the panel that it takes, if that is another.
    pub unpacked: Option<(Kernel, *const u8)>,
}

impl PackedMatrix {
    /// The matrices `parts` stacked along rows. Copies nothing yet.
    ///
    /// # Errors
    /// If the parts disagree in `n_in` or are damaged, an encoding is not known, or the machine lacks `isa`.
    pub fn new(parts: &[MatrixData], isa: Isa) -> Result<PackedMatrix, Error> {
        let shape = matrix::stacked(parts)?;
        let first = |i: usize| parts[..i].iter().map(|part| part.n_out).sum();
        let parts: Vec<_> = parts.iter().enumerate().map(|(i, part)| (part, first(i))).collect();
        PackedMatrix::build(&parts, 1, shape, isa)
    }

    /// The matrices of experts (or heads), which all have one shape. Copies nothing yet.
    ///
    /// # Errors
    /// Like [`PackedMatrix::new`].
    pub fn experts(experts: &[MatrixData], isa: Isa) -> Result<PackedMatrix, Error> {
        let shape = matrix::side_by_side(experts)?;
        let parts: Vec<_> = experts.iter().map(|e| (e, 0)).collect();
        PackedMatrix::build(&parts, experts.len(), shape, isa)
    }

    fn build(
        parts: &[(&MatrixData, usize)],
        n_expert: usize,
        [n_out, n_in]: [usize; 2],
        isa: Isa,
    ) -> Result<PackedMatrix, Error> {
        if !isa.available() {
            let message = format!("this machine cannot run `{isa}`; choose another instruction set");
            return Err(Error::Device { backend: "cpu", message });
        }
        let (mut segments, mut at) = (Vec::with_capacity(parts.len()), 0);
        for &(data, first) in parts {
            let form = table::form(data, isa);
            let segment = Segment { data: data.clone(), first, form, at, packed: AtomicBool::new(form.each_time) };
            at += segment.panels_bytes().next_multiple_of(64);
            segments.push(segment);
        }
        let (arena, packing) = (OnceLock::new(), Mutex::new(()));
        Ok(PackedMatrix { isa, n_out, n_in, n_expert, segments, arena, packing })
    }

    /// Rows of one expert.
    pub fn n_out(&self) -> usize {
        self.n_out
    }

    /// Columns.
    pub fn n_in(&self) -> usize {
        self.n_in
    }

    /// Experts; 1 for [`PackedMatrix::new`].
    pub fn n_expert(&self) -> usize {
        self.n_expert
    }

    /// The instruction set that it was made for.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Bytes of the file's matrices.
    pub fn bytes(&self) -> usize {
        self.segments.iter().map(|s| s.data.bytes()).sum()
    }

    /// Whether a panel of 16 rows starts at `row`, so that rows may be multiplied from there on.
    pub fn starts_panel(&self, row: usize) -> bool {
        let starts =
            |s: &Segment| row >= s.first && row < s.first + s.data.n_out && (row - s.first).is_multiple_of(ROWS);
        row == self.n_out || self.expert(0).iter().any(starts)
    }

    /// Rows `ids`, decoded: `out` `[ids.len(), n_in]`.
    ///
    /// # Errors
    /// If the computation failed in a thread.
    ///
    /// # Panics
    /// If an id is not below `n_out`.
    pub fn embed(&self, pool: &Pool, ids: &[u32], out: &mut [f32]) -> Result<(), Error> {
        assert_eq!(out.len(), ids.len() * self.n_in, "embed: the output does not fit the ids");
        let out = super::quantize::Target::new(bytemuck::cast_slice_mut(out));
        let row_bytes = self.n_in * 4;
        let row = |i: usize| {
            let id = ids[i] as usize;
            let segment = self.expert(0).iter().find(|s| (s.first..s.first + s.data.n_out).contains(&id));
            let segment = segment.unwrap_or_else(|| panic!("embed: row {id} of {}", self.n_out));
            // SAFETY: each item writes its own row.
            let out = unsafe { out.slice(i * row_bytes, row_bytes) };
            segment.data.decode_rows(id - segment.first, 1, bytemuck::cast_slice_mut(out));
        };
        if ids.len() < 4 {
            (0..ids.len()).for_each(row);
            return Ok(());
        }
        pool.run(ids.len(), |_, i| row(i))
    }

    /// Packs what has a form and is not packed yet. Products do so by themselves when they first use a matrix.
    ///
    /// # Errors
    /// If there is no memory, or the computation failed in a thread.
    pub fn pack(&self, pool: &Pool) -> Result<(), Error> {
        (0..self.n_expert).try_for_each(|e| self.pack_expert(pool, e))
    }

    /// Packs one expert, if need be.
    pub(super) fn pack_expert(&self, pool: &Pool, expert: usize) -> Result<(), Error> {
        let done = |s: &Segment| s.packed.load(Ordering::Acquire);
        if self.expert(expert).iter().all(done) {
            return Ok(());
        }
        let _turn = self.packing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.arena.get().is_none() {
            let last = self.segments.iter().map(|s| s.at + s.panels_bytes().next_multiple_of(64)).max();
            let arena = Arena::new(last.unwrap_or(0), "packed weights")?;
            self.arena.get_or_init(|| arena);
        }
        let arena = self.arena.get().expect("set above");
        for segment in self.expert(expert).iter().filter(|s| !done(s)) {
            segment.pack(pool, arena)?;
        }
        Ok(())
    }

    pub(super) fn expert(&self, expert: usize) -> &[Segment] {
        assert!(expert < self.n_expert, "expert {expert} of {}", self.n_expert);
        let n = self.segments.len() / self.n_expert;
        &self.segments[expert * n..][..n]
    }

    /// Whether kernels of this matrix read tiles of this kind.
    pub(super) fn needs(&self, input: Input) -> bool {
        self.segments.iter().any(|s| s.form.input == input)
    }

    /// The panel that starts at `row` of an expert; `None` if none does.
    pub(super) fn panel_of_row(&self, row: usize) -> Option<usize> {
        let mut panels = 0;
        for s in self.expert(0) {
            if (s.first..s.first + s.data.n_out).contains(&row) {
                return (row - s.first).is_multiple_of(ROWS).then(|| panels + (row - s.first) / ROWS);
            }
            panels += s.data.n_out.div_ceil(ROWS);
        }
        (row == self.n_out).then_some(panels)
    }

    /// Panel `index` of an expert.
    pub(super) fn panel(&self, expert: usize, mut index: usize) -> Panel<'_> {
        for segment in self.expert(expert) {
            let n = segment.data.n_out.div_ceil(ROWS);
            if index < n {
                let row = index * ROWS;
                return Panel { segment, row, n: ROWS.min(segment.data.n_out - row) };
            }
            index -= n;
        }
        panic!("a panel beyond the matrix");
    }

    /// Bytes of its largest panel, as it is read for `n_col` columns.
    pub(super) fn panel_bytes(&self, n_col: usize) -> usize {
        let bytes = |s: &Segment| s.form.panel_bytes(self.n_in).max(s.form.scratch_bytes(self.isa, self.n_in, n_col));
        self.segments.iter().map(bytes).max().unwrap_or(0)
    }

    /// Whether some of its panels are made each time they are used.
    pub(super) fn each_time(&self) -> bool {
        self.segments.iter().any(|s| s.form.each_time)
    }

    /// Floats of scratch memory that [`PackedMatrix::resolve`] needs for a panel.
    pub(super) fn scratch_floats(&self, n_col: usize) -> usize {
        self.segments.iter().map(|s| s.form.scratch_bytes(self.isa, self.n_in, n_col) / 4).max().unwrap_or(0)
    }

    /// The panel's bytes, to be multiplied with `n_col` columns: `scratch` is overwritten by those that are made each time they are
    /// used, and by unpacked ones.
    pub(super) fn resolve(&self, panel: Panel<'_>, n_col: usize, scratch: &mut [f32]) -> Resolved {
        let Segment { form, data, at, packed, .. } = panel.segment;
        let panel_bytes = form.panel_bytes(self.n_in);
        let bf16 = matches!(data.encoding, Encoding::MlxAffine { scale: DType::BF16, .. });
        let made: &mut [u8] = bytemuck::cast_slice_mut(scratch);
        let made = &mut made[..form.scratch_bytes(self.isa, self.n_in, n_col)];
        if form.each_time {
            if panel.n < ROWS {
                made.fill(0);
            }
            (form.pack)(data, panel.row, panel.n, made);
            return Resolved { form, data: made.as_ptr(), bf16, unpacked: None };
        }
        assert!(packed.load(Ordering::Acquire), "a product packs its matrices first");
        let arena = self.arena.get().expect("set before anything is packed");
        let data = arena.at(at + panel.row / ROWS * panel_bytes);
        let unpacked = form.unpacking(self.isa, n_col).map(|unpacking| {
            // SAFETY: the machine has the instruction set (`PackedMatrix::build`), a packed panel has `n_in` weights a row, and
            // `made` has room for them (`scratch_bytes`).
            unsafe { (unpacking.unpack)(data, self.n_in / BLOCK, made.as_mut_ptr()) };
            (unpacking.kernel, made.as_ptr())
        });
        Resolved { form, data, bf16, unpacked }
    }
}

impl Segment {
    /// Bytes of its panels in the arena.
    fn panels_bytes(&self) -> usize {
        if self.form.each_time { 0 } else { self.form.panel_bytes(self.data.n_in) * self.data.n_out.div_ceil(ROWS) }
    }

    fn pack(&self, pool: &Pool, arena: &Arena) -> Result<(), Error> {
        let form = self.form;
        let panel_bytes = form.panel_bytes(self.data.n_in);
        pool.run(self.data.n_out.div_ceil(ROWS), |_, panel| {
            let range: Range<usize> = panel * ROWS..self.data.n_out.min((panel + 1) * ROWS);
            // SAFETY: each item writes its own panel, once: `packed` is set under `PackedMatrix::packing`, and nothing
            // reads the panels before it is.
            let out = unsafe { arena.part(self.at + panel * panel_bytes, panel_bytes) };
            (form.pack)(&self.data, range.start, range.len(), out);
        })?;
        self.data.parts.iter().for_each(Bytes::release);
        self.packed.store(true, Ordering::Release);
        Ok(())
    }
}
