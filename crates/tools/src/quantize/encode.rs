//! The tensors' bytes, encoded by several threads and handed over in order.
//!
//! Work is cut into pieces of whole rows. A thread takes the next piece, reads and encodes it; the caller's thread hands
//! the pieces over in order. No piece is begun that is more than a few ahead of the one that is waited for, so memory
//! does not grow with the file.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Condvar, Mutex};

use mlxr_compute::quant;
use mlxr_compute::quant::compensate::Factor;
use mlxr_weights::{Checkpoint, Reader};

use super::{Guide, Planned};
use crate::ToolError;

/// Weights of a piece, about.
const PIECE: usize = 1 << 18;
/// Pieces in the air for each thread.
const AHEAD: usize = 4;

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
    let (state, changed) = (Mutex::new(State::default()), Condvar::new());
    let lock = || state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let limit = AHEAD * n_thread;
    let work = || {
        let mut worker = Worker { reader: checkpoint.reader(), bytes: Vec::new(), weights: Vec::new() };
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
            let result = worker.encode(checkpoint, &planned[piece.tensor], &guides[piece.tensor], piece, &mut out);
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

/// A thread's buffers.
struct Worker<'a> {
    reader: Reader<'a>,
    bytes: Vec<u8>,
    weights: Vec<f32>,
}

impl Worker<'_> {
    /// Replaces `out` by the encoded rows of a piece.
    fn encode(
        &mut self,
        checkpoint: &Checkpoint,
        plan: &Planned,
        guide: &Guide,
        piece: &Piece,
        out: &mut Vec<u8>,
    ) -> Result<(), ToolError> {
        let tensor = checkpoint.tensor(&plan.name).expect("the plan is of this checkpoint");
        let row = plan.from.bytes_of(plan.n_in()).expect("readers admit whole blocks only");
        let range = piece.rows.start * row..piece.rows.end * row;
        if plan.from == plan.to {
            return Ok(self.reader.read(tensor, range, out)?);
        }
        self.reader.read(tensor, range, &mut self.bytes)?;
        self.weights.resize(piece.rows.len() * plan.n_in(), 0.0);
        quant::decode(plan.from, &self.bytes, &mut self.weights);
        let importance = guide.importance.as_deref().filter(|_| plan.to.block() > 1).map(|columns| {
            let of_expert = if plan.shape.len() > 2 { plan.shape[plan.shape.len() - 2] } else { usize::MAX };
            let expert = piece.rows.start / of_expert;
            &columns[expert * plan.n_in()..][..plan.n_in()]
        });
        out.clear();
        let result = match &guide.factor {
            Some(factor) => compensated(plan, factor, &mut self.weights, importance, out),
            None => quant::encode(plan.to, &self.weights, importance, out),
        };
        result.map_err(|error| ToolError::Encode { tensor: plan.name.clone(), error })
    }
}

/// Encodes rows block of columns by block of columns; later ones make up for the rounding of earlier ones.
fn compensated(
    plan: &Planned,
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
        quant::encode(plan.to, weights, importance.map(|w| &w[columns.clone()]), &mut bytes)?;
        quant::decode(plan.to, &bytes, decoded);
        let at = columns.start / block * size;
        for (row, bytes) in out.chunks_exact_mut(row_size).zip(bytes.chunks_exact(size)) {
            row[at..][..size].copy_from_slice(bytes);
        }
        Ok(())
    })
}
