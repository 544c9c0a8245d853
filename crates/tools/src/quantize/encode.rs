//! The tensors' bytes, encoded by several threads and handed over in order.
//!
//! Work is cut into pieces of whole rows. A thread takes the next piece, reads and encodes it; the caller's thread hands
//! the pieces over in order. No piece is begun that is more than a few ahead of the one that is waited for, so memory
//! does not grow with the file.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Condvar, Mutex};

use mlxr_compute::quant::compensate::Factor;
use mlxr_compute::quant::{self, Encoder};
use mlxr_compute::{Bytes, DType};
use mlxr_weights::Checkpoint;

use super::{Guide, Planned};
use crate::ToolError;

/// Weights of a piece, about.
const PIECE: usize = 1 << 20;
/// Pieces in the air for each thread.
const AHEAD: usize = 2;
/// Weights, about, that are read, decoded and encoded at a time, so that they stay in a core's first cache.
const CHUNK: usize = 1 << 12;

/// As much as a page of any machine, which is released whole or not at all.
const BORDER_BYTES: usize = 1 << 16;

/// Rows of a tensor, within one expert.
struct Piece {
    tensor: usize,
    rows: Range<usize>,
}

/// Who gets the bytes of a tensor.
pub(super) type Take<'a> = dyn FnMut(&Planned, &[u8]) -> Result<(), ToolError> + 'a;

/// What the threads share.
#[derive(Default)]
struct State {
    /// The piece to begin next.
    next: usize,
    /// Pieces that were handed over.
    done: usize,
    /// Pieces that wait for earlier ones.
    ready: BTreeMap<usize, Result<Vec<u8>, ToolError>>,
    /// Buffers to use again.
    spare: Vec<Vec<u8>>,
    /// Whether an error has ended the work.
    stopped: bool,
}

/// Encodes `planned`, tensor after tensor; `take` gets the bytes in order, never of two tensors at once.
pub(super) fn all(
    checkpoint: &Checkpoint,
    planned: &[Planned],
    guides: &[Guide],
    n_thread: usize,
    take: &mut Take<'_>,
) -> Result<(), ToolError> {
    let pieces = pieces(planned);
    let encoders = Encoders::new(planned)?;
    let (state, changed) = (Mutex::new(State::default()), Condvar::new());
    let lock = || state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let limit = AHEAD * n_thread;
    let work = || {
        let mut worker = Worker { checkpoint, encoders: &encoders, weights: Vec::new() };
        loop {
            let (i, mut out) = {
                let mut state = lock();
                while !state.stopped && state.next < pieces.len() && state.next >= state.done + limit {
                    state = changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
                }
                if state.stopped || state.next == pieces.len() {
                    return;
                }
                state.next += 1;
                (state.next - 1, state.spare.pop().unwrap_or_default())
            };
            let piece = &pieces[i];
            let result = worker.encode(&planned[piece.tensor], &guides[piece.tensor], piece, &mut out);
            lock().ready.insert(i, result.map(|()| out));
            changed.notify_all();
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..n_thread {
            scope.spawn(work);
        }
        let result = pieces.iter().enumerate().try_for_each(|(i, piece)| {
            let bytes = {
                let mut state = lock();
                loop {
                    if let Some(result) = state.ready.remove(&i) {
                        break result?;
                    }
                    state = changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
                }
            };
            take(&planned[piece.tensor], &bytes)?;
            let mut state = lock();
            state.done += 1;
            state.spare.push(bytes);
            drop(state);
            changed.notify_all();
            Ok(())
        });
        lock().stopped = true;
        changed.notify_all();
        result
    })
}

/// Cuts tensors into pieces of whole rows of about [`PIECE`] weights.
fn pieces(planned: &[Planned]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (tensor, plan) in planned.iter().enumerate() {
        let n_row = plan.elements() / plan.n_in().max(1);
        let of_expert = if plan.shape.len() > 2 { plan.shape[plan.shape.len() - 2] } else { n_row };
        let step = (PIECE / plan.n_in().max(1)).clamp(1, of_expert.max(1));
        let mut row = 0;
        while row < n_row {
            let end = (row + step).min((row / of_expert + 1) * of_expert);
            pieces.push(Piece { tensor, rows: row..end });
            row = end;
        }
    }
    pieces
}

/// An encoder of every type that tensors get.
struct Encoders(Vec<(DType, Encoder)>);

impl Encoders {
    fn new(planned: &[Planned]) -> Result<Encoders, ToolError> {
        let mut all: Vec<(DType, Encoder)> = Vec::new();
        for tensor in planned.iter().filter(|tensor| tensor.from != tensor.to) {
            if all.iter().all(|(dtype, _)| *dtype != tensor.to) {
                all.push((tensor.to, Encoder::new(tensor.to)?));
            }
        }
        Ok(Encoders(all))
    }

    fn of(&self, dtype: DType) -> &Encoder {
        self.0.iter().find(|(own, _)| *own == dtype).map(|(_, encoder)| encoder).expect("one of every planned type")
    }
}

/// What a thread has.
struct Worker<'a> {
    checkpoint: &'a Checkpoint,
    encoders: &'a Encoders,
    weights: Vec<f32>,
}

impl Worker<'_> {
    /// Replaces `out` by the encoded rows of a piece.
    fn encode(&mut self, plan: &Planned, guide: &Guide, piece: &Piece, out: &mut Vec<u8>) -> Result<(), ToolError> {
        let (n_in, row) = (plan.n_in(), plan.from.bytes_of(plan.n_in()).expect("readers admit whole blocks only"));
        let tensor = self.checkpoint.bytes(&plan.source)?;
        let bytes = &tensor[piece.rows.start * row..piece.rows.end * row];
        out.clear();
        if plan.from == plan.to {
            out.extend_from_slice(bytes);
            release(&tensor, piece, row);
            return Ok(());
        }
        let encoder = self.encoders.of(plan.to);
        let importance = guide.importance.as_deref().filter(|_| plan.to.block() > 1).map(|columns| {
            let of_expert = if plan.shape.len() > 2 { plan.shape[plan.shape.len() - 2] } else { usize::MAX };
            let expert = piece.rows.start / of_expert;
            &columns[expert * n_in..][..n_in]
        });
        // Compensation goes over all rows of a block of columns at once.
        let n_row = if guide.factor.is_some() { piece.rows.len() } else { (CHUNK / n_in.max(1)).max(1) };
        for bytes in bytes.chunks(n_row * row) {
            // Numbers that are what encoders read are read where they lie.
            let result = match (&guide.factor, quant::as_f32(plan.from, bytes)) {
                (None, Some(weights)) => encoder.encode(weights, importance, out),
                (factor, _) => {
                    self.weights.resize(bytes.len() / row * n_in, 0.0);
                    quant::decode(plan.from, bytes, &mut self.weights);
                    match factor {
                        Some(factor) => compensated((plan, encoder), factor, &mut self.weights, importance, out),
                        None => encoder.encode(&self.weights, importance, out),
                    }
                }
            };
            result.map_err(|error| ToolError::Encode { tensor: plan.name.clone(), error })?;
        }
        release(&tensor, piece, row);
        Ok(())
    }
}

/// Takes the pages of a piece, of rows of so many bytes, out of this process's memory; with those at its borders, which the
/// next piece reads again where it must.
fn release(tensor: &Bytes, piece: &Piece, row: usize) {
    let start = (piece.rows.start * row).saturating_sub(BORDER_BYTES);
    let end = (piece.rows.end * row + BORDER_BYTES).min(tensor.len());
    tensor.slice(start..end).expect("a part of the tensor").release();
}

/// Encodes rows block of columns by block of columns; later ones make up for the rounding of earlier ones.
fn compensated(
    (plan, encoder): (&Planned, &Encoder),
    factor: &Factor,
    weights: &mut [f32],
    importance: Option<&[f32]>,
    out: &mut Vec<u8>,
) -> Result<(), mlxr_compute::Error> {
    let (block, size) = (plan.to.block(), plan.to.block_bytes());
    let row_size = plan.n_in() / block * size;
    out.resize(weights.len() / plan.n_in() * row_size, 0);
    let mut bytes = Vec::new();
    factor.run(weights, block, &mut |columns: Range<usize>, weights: &[f32], decoded: &mut [f32]| {
        bytes.clear();
        encoder.encode(weights, importance.map(|w| &w[columns.clone()]), &mut bytes)?;
        quant::decode(plan.to, &bytes, decoded);
        let at = columns.start / block * size;
        for (row, bytes) in out.chunks_exact_mut(row_size).zip(bytes.chunks_exact(size)) {
            row[at..][..size].copy_from_slice(bytes);
        }
        Ok(())
    })
}
