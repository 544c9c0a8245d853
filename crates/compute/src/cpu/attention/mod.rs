//! Attention over paged keys and values, in one pass with a running maximum (Milakov, Gimelshein 2018,
//! arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135).
//!
//! ```text
//! batch -> items      a row's tokens x the query heads of a KV head, up to 64 queries (`plan`)
//! item  -> ranges     512 places of the row's pages; a range starts a new maximum (`tile`)
//! range -> blocks     32 places: keys and values are converted once for all queries of the item (`tile`), or, for as few
//!                     as fit the registers, as they are read (`kv::direct`)
//! ```
//!
//! The partial results of ranges are merged in their order. Whether one thread computes the ranges of an item or several
//! share them, the sums are the same: a token's result depends neither on the number of threads nor on the batch.

mod partial;
mod plan;
mod tile;

use partial::Partial;
use plan::{Item, Piece, Plan};
use tile::Tile;

use super::kv::Kv;
use super::shared::Shared;
use super::tensor::{Memory, Tensor};
use super::vector::{Kernels, LANES};
use super::{Pool, pool::Worker};
use crate::Error;
use crate::check::KvHeads;
use crate::op::{KvSpec, Seqs, Window};

/// Places of a block.
pub(super) const BLOCK: usize = 2 * LANES;
/// Places of a range.
const RANGE: usize = 512;
/// Most queries of an item.
const QUERIES: usize = 64;

/// What attention computes besides dot products; tensors as slices.
#[derive(Clone, Copy)]
pub(super) struct Features<'a> {
    pub n_head: usize,
    pub scale: f32,
    pub window: Window,
    pub softcap: Option<f32>,
    pub sinks: Option<&'a [f32]>,
    pub alibi: Option<&'a [f32]>,
    pub causal: bool,
}

/// Memory kept between calls.
#[derive(Default)]
pub(super) struct Planner(Plan);

/// What all items of a call share.
#[derive(Clone, Copy)]
struct Call<'a> {
    q: &'a Tensor,
    kv: &'a Kv,
    layer: usize,
    heads: KvHeads,
    features: Features<'a>,
    seqs: &'a Seqs<'a>,
}

impl Call<'_> {
    fn spec(&self) -> &KvSpec {
        &self.kv.spec
    }

    /// Places of a page: its tokens rounded up to full vectors.
    fn page_places(&self) -> usize {
        self.spec().page_tokens.next_multiple_of(LANES)
    }

    /// Query heads of a KV head.
    fn group(&self) -> usize {
        self.features.n_head / self.heads.n_kv_head
    }

    /// Dimensions of a value, rounded up to full vectors.
    fn width(&self) -> usize {
        self.heads.d_out().next_multiple_of(LANES)
    }
}

impl Planner {
    /// Attention of `q` `[n_tok, n_head * d_k]`: `[n_tok, n_head * d_out]`.
    pub(super) fn attention(
        &mut self,
        (kernels, pool, memory): (Kernels, &Pool, &Memory),
        (q, kv, layer): (&Tensor, &Kv, usize),
        features: Features<'_>,
        seqs: &Seqs<'_>,
    ) -> Result<Tensor, Error> {
        let (heads, ..) = kv.layer(layer);
        seqs.check(q.shape[0], &kv.spec);
        let call = Call { q, kv, layer, heads, features, seqs };
        let mut out = memory.tensor([q.shape[0], features.n_head * heads.d_out()]);
        self.0.fill(&call, pool.n_threads());
        let (plan, partial) = (&self.0, QUERIES * (2 + call.width()));
        let mut partials = memory.buffer(plan.n_partial * partial);
        let (partials, results) = (Shared::new(&mut partials), Shared::new(&mut out.data));
        let job = Job { kernels, call: &call, plan, partial, partials, out: &results };
        pool.run(plan.pieces.len(), |worker, i| job.piece(worker, &plan.pieces[i]))?;
        if plan.n_partial > 0 {
            pool.run(plan.items.len(), |worker, i| job.merge(worker, &plan.items[i]))?;
        }
        Ok(out)
    }
}

/// The work of a call, shared by its threads.
struct Job<'a> {
    kernels: Kernels,
    call: &'a Call<'a>,
    plan: &'a Plan,
    /// Floats of a partial: maxima, sums, then outputs of all queries.
    partial: usize,
    partials: Shared<'a, f32>,
    out: &'a Shared<'a, f32>,
}

impl Job<'_> {
    /// Computes a piece, and the result if it is a whole item.
    fn piece(&self, worker: &Worker<'_>, piece: &Piece) {
        let item = &self.plan.items[piece.item];
        worker.scratch(Tile::scratch(self.call), |scratch| {
            let (own, scratch) = scratch.split_at_mut(self.partial);
            let mut total = piece.partial.map_or_else(|| Partial::of(own), |at| self.partial(at));
            let places = piece.places.clone();
            self.kernels.run(Tile { call: self.call, item, places, total: &mut total, scratch });
            if piece.partial.is_none() {
                self.finish(item, &mut total);
            }
        });
    }

    /// Merges the pieces of an item, in their order, and computes its result.
    fn merge(&self, worker: &Worker<'_>, item: &Item) {
        worker.scratch(self.partial, |own| {
            let (mut total, n) = (Partial::of(own), item.n_query());
            total.clear(n);
            for piece in &self.plan.pieces[item.pieces.clone()] {
                let at = piece.partial.expect("all pieces of a split plan have one");
                self.kernels.run(partial::Merge { total: &mut total, part: &self.partial(at), n });
            }
            self.finish(item, &mut total);
        });
    }

    fn finish(&self, item: &Item, partial: &mut Partial<'_>) {
        self.kernels.run(partial::Finish { call: self.call, item, partial, out: self.out });
    }

    /// The partial of a piece.
    fn partial(&self, at: usize) -> Partial<'_> {
        // SAFETY: a partial belongs to one piece, which one thread computes; it is merged by another job, by one thread.
        Partial::of(unsafe { self.partials.part(at * self.partial, self.partial) })
    }
}
