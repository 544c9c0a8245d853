//! Attention over paged keys and values, in one pass with a running maximum (Milakov, Gimelshein 2018,
//! arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135).
//!
//! ```text
//! batch -> items      a row's tokens x the query heads of a KV head, up to 64 queries (`plan`)
//! item  -> ranges     512 places of the row's pages; a range starts a new maximum (`tile`)
//! range -> blocks     32 places: keys and values are converted once for all queries of the item
//! ```
//!
//! The partial results of ranges are merged in their order. Whether one thread computes the ranges of an item or several
//! share them, the sums are the same: a token's result depends neither on the number of threads nor on the batch.

mod plan;
mod tile;

use plan::{Item, Plan};
use tile::{Partial, Tile};

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
        let (plan, width) = (&self.0, call.width());
        // A partial: maxima, sums, then outputs of all queries.
        let mut partials = memory.buffer(plan.n_partial * QUERIES * (2 + width));
        let partials = Shared::new(&mut partials);
        // SAFETY: a partial belongs to one piece, and is merged after a barrier by one thread.
        let partial =
            |i: usize| unsafe { Partial::of(partials.part(i * QUERIES * (2 + width), QUERIES * (2 + width))) };
        let results = Shared::new(&mut out.data);
        let scratch = Tile::scratch(&call);
        let finish = |item: &Item, partial: &mut Partial<'_>| {
            kernels.run(tile::Finish { call: &call, item, partial, out: &results });
        };
        let compute = |worker: &Worker<'_>, i: usize| {
            let piece = &plan.pieces[i];
            let item = &plan.items[piece.item];
            worker.scratch(scratch, |scratch| {
                let (own, scratch) = scratch.split_at_mut(QUERIES * (2 + width));
                let mut total = Partial::of(own);
                match piece.partial {
                    Some(at) => {
                        let mut total = partial(at);
                        kernels.run(Tile {
                            call: &call,
                            item,
                            places: piece.places.clone(),
                            total: &mut total,
                            scratch,
                        });
                    }
                    None => {
                        kernels.run(Tile {
                            call: &call,
                            item,
                            places: piece.places.clone(),
                            total: &mut total,
                            scratch,
                        });
                        finish(item, &mut total);
                    }
                }
            });
        };
        if plan.n_partial == 0 {
            pool.run(plan.pieces.len(), compute)?;
            return Ok(out);
        }
        pool.run_job(|worker| {
            worker.items(plan.pieces.len(), |i| compute(worker, i));
            worker.barrier();
            worker.items(plan.items.len(), |i| {
                let item = &plan.items[i];
                worker.scratch(QUERIES * (2 + width), |own| {
                    let mut total = Partial::of(own);
                    total.clear(item.n_query());
                    for piece in &plan.pieces[item.pieces.clone()] {
                        let at = piece.partial.expect("all pieces of a split plan have one");
                        kernels.run(tile::Merge { total: &mut total, part: &partial(at), n: item.n_query() });
                    }
                    finish(item, &mut total);
                });
            });
        })?;
        Ok(out)
    }
}
