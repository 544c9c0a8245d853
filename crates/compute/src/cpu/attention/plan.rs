//! Cutting a batch into items of work.

use std::ops::Range;

use super::{Call, QUERIES, RANGE};
use crate::op::{SeqRow, Window};

/// Items that each thread should have at least before long rows are shared out by ranges.
const ITEMS_A_THREAD: usize = 4;

/// Some tokens of a row, and some query heads of one KV head.
#[derive(Debug, Clone)]
pub(super) struct Item {
    /// The row.
    pub row: SeqRow,
    /// Its tokens, counted from the row's first.
    pub tokens: Range<usize>,
    /// Query heads.
    pub heads: Range<usize>,
    /// Their KV head.
    pub kv_head: usize,
    /// Whether the row's tokens lie in a line and at positions that are their slots.
    pub plain: bool,
    /// Its pieces.
    pub pieces: Range<usize>,
}

/// Some places of an item's row.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    /// Which item.
    pub item: usize,
    /// Whole ranges.
    pub places: Range<usize>,
    /// Where the result is left for merging; `None` when the piece is the whole item.
    pub partial: Option<usize>,
}

/// What is to be done, in memory that is kept.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub items: Vec<Item>,
    pub pieces: Vec<Piece>,
    pub n_partial: usize,
}

impl Item {
    /// Queries: tokens x heads.
    pub fn n_query(&self) -> usize {
        self.tokens.len() * self.heads.len()
    }
}

impl Plan {
    pub(super) fn fill(&mut self, call: &Call<'_>, n_threads: usize) {
        self.items.clear();
        self.pieces.clear();
        let group = call.group();
        let (n_tok, n_head) = ((QUERIES / group).max(1), group.min(QUERIES));
        for row in call.seqs.rows {
            let plain = is_plain(row, call.seqs.positions);
            // The last tokens see the most: begin with them, so that a thread does not come late with a long one.
            for first in (0..row.n_tok).step_by(n_tok).rev() {
                let tokens = first..row.n_tok.min(first + n_tok);
                for kv_head in 0..call.heads.n_kv_head {
                    for head in (0..group).step_by(n_head) {
                        let heads = kv_head * group + head..kv_head * group + group.min(head + n_head);
                        let (row, tokens) = (*row, tokens.clone());
                        self.items.push(Item { row, tokens, heads, kv_head, plain, pieces: 0..0 });
                    }
                }
            }
        }
        let split = self.items.len() < n_threads * ITEMS_A_THREAD;
        self.n_partial = 0;
        for (i, item) in self.items.iter_mut().enumerate() {
            let places = places(call, item);
            let n_before = self.pieces.len();
            if split && places.len() > RANGE {
                for start in places.clone().step_by(RANGE) {
                    let places = start..places.end.min(start + RANGE);
                    self.pieces.push(Piece { item: i, places, partial: Some(self.n_partial) });
                    self.n_partial += 1;
                }
            } else {
                self.pieces.push(Piece { item: i, places, partial: None });
            }
            item.pieces = n_before..self.pieces.len();
        }
        // Merging is for all items or for none.
        if self.n_partial > 0 {
            for piece in self.pieces.iter_mut().filter(|p| p.partial.is_none()) {
                piece.partial = Some(self.n_partial);
                self.n_partial += 1;
            }
        }
    }
}

fn is_plain(row: &SeqRow, positions: &[i32]) -> bool {
    !row.tree && positions[row.first..][..row.n_tok].iter().enumerate().all(|(i, &p)| p as usize == row.start + i)
}

/// The places that some token of the item may see, from the start of a range.
fn places(call: &Call<'_>, item: &Item) -> Range<usize> {
    let row = &item.row;
    let end = if call.features.causal && !row.tree { row.start + item.tokens.end } else { row.start + row.n_tok };
    let positions = &call.seqs.positions[row.first..][item.tokens.clone()];
    let lowest = positions.iter().copied().min().unwrap_or(0).max(0) as usize;
    let start = match call.features.window {
        Window::Full => 0,
        Window::Sliding(n) => (lowest + 1).saturating_sub(n as usize),
        Window::Chunked(n) => lowest / n as usize * n as usize,
    };
    // Elsewhere tokens of the row may be at any position, but lie at or after `row.start`.
    let start = if item.plain { start } else { start.min(row.start) };
    let (page, places) = (call.spec().page_tokens, call.page_places());
    let start = start / page * places + start % page;
    let last = end.saturating_sub(1);
    let end = if end == 0 { 0 } else { last / page * places + last % page + 1 };
    start / RANGE * RANGE..end
}
