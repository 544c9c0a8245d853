//! The next step, built while the device computes this one: where every sequence goes on by a token, all but the tokens' ids and
//! their pages is known before.

use mlxr_compute::Backend;
use mlxr_compute::op::{SeqRow, Seqs};
use mlxr_engine::runner::{Batch, PAGE_TOKENS, Want};

use super::{Model, Scratch};
use crate::decoder::Pass;

/// A step that is built.
pub(super) struct Ahead<T> {
    rows: Vec<SeqRow>,
    logits: T,
}

impl<B: Backend> Model<B> {
    /// Builds the step that comes if every sequence of this one goes on, where the backend can.
    pub(super) fn build_ahead(&mut self) {
        // Features and hidden states pass through the processor.
        let passes = self.decoder.join.is_none() && self.scratch.hidden.is_empty();
        let goes_on = passes && self.logits.is_some() && self.scratch.goes_on(self.info.n_ctx);
        if !goes_on || !self.backend.begin_ahead() {
            return;
        }
        let (rows, pages, positions) = self.scratch.next();
        let tokens = vec![0; rows.len()];
        let seqs = Seqs { rows: &rows, pages: &pages, positions: &positions, parents: &[] };
        let (backend, kv, hyper) = (&mut self.backend, &mut self.kv, &self.hyper);
        let mut pass = Pass { backend, kv, hyper, seqs, features: &[], taps: &[], tapped: Vec::new(), growth: None };
        let hidden = self.decoder.hidden(&mut pass, &tokens, None);
        let logits = self.decoder.logits(&mut pass, &hidden);
        self.backend.end_ahead();
        self.ahead = Some(Ahead { rows, logits });
    }

    /// The logits of the planned step, if it is the one that was built.
    pub(super) fn resume(&mut self, batch: &Batch) -> Option<B::Tensor> {
        let Ahead { rows, logits } = self.ahead.take()?;
        let Scratch { rows: planned, pages, positions, parents, .. } = &self.scratch;
        let seqs = Seqs { rows: planned, pages, positions, parents };
        let wanted = !batch.wants_hidden && batch.rows.iter().all(|row| matches!(row.want, Want::Last | Want::All));
        if wanted && alike(planned, &rows) && self.backend.resume(&batch.tokens, &seqs) {
            return Some(logits);
        }
        self.backend.forget();
        None
    }

    /// Drops what was built: the store changes.
    pub(super) fn forget(&mut self) {
        if self.ahead.take().is_some() {
            self.backend.forget();
        }
    }
}

impl Scratch {
    /// If each row is one token after others, of which logits are wanted, and the next has a position.
    fn goes_on(&self, n_ctx: usize) -> bool {
        let one = |row: &SeqRow| row.n_tok == 1 && row.start > 0 && !row.tree && row.start + 1 < n_ctx;
        self.wanted.len() == self.rows.len() && self.rows.iter().all(one)
    }

    /// Rows, pages and positions of the next step; the first page stands for one that is not known.
    fn next(&self) -> (Vec<SeqRow>, Vec<u32>, Vec<i32>) {
        let mut pages = Vec::with_capacity(self.pages.len() + self.rows.len());
        let next = |row: &SeqRow| {
            let (start, from) = (row.start + 1, pages.len());
            pages.extend_from_slice(&self.pages[row.pages.0..row.pages.1]);
            pages.resize(pages.len().max(from + (start + 1).div_ceil(PAGE_TOKENS)), 0);
            SeqRow { start, pages: (from, pages.len()), ..*row }
        };
        let rows = self.rows.iter().map(next).collect();
        let positions = self.positions.iter().map(|position| position + 1).collect();
        (rows, pages, positions)
    }
}

/// If a step of these rows is one of those but for pages.
fn alike(planned: &[SeqRow], built: &[SeqRow]) -> bool {
    let pageless = |row: &SeqRow| SeqRow { pages: (0, 0), ..*row };
    planned.len() == built.len() && planned.iter().zip(built).all(|(a, b)| pageless(a) == pageless(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(start: usize, n_tok: usize, pages: (usize, usize)) -> SeqRow {
        SeqRow { first: 0, n_tok, start, pages, slot: 3, tree: false }
    }

    #[test]
    fn a_step_of_single_tokens_goes_on() {
        let scratch = |rows: Vec<SeqRow>| Scratch { wanted: (0..rows.len()).collect(), rows, ..Scratch::default() };
        assert!(scratch(vec![row(5, 1, (0, 1)), row(9, 1, (1, 2))]).goes_on(11));
        assert!(!scratch(vec![row(5, 1, (0, 1)), row(9, 1, (1, 2))]).goes_on(10));
        assert!(!scratch(vec![row(5, 2, (0, 1))]).goes_on(100));
        assert!(!scratch(vec![row(0, 1, (0, 1))]).goes_on(100));
        assert!(!Scratch { wanted: Vec::new(), ..scratch(vec![row(5, 1, (0, 1))]) }.goes_on(100));
    }

    #[test]
    fn the_next_step_has_a_page_for_its_token() {
        let rows = vec![row(15, 1, (2, 3)), SeqRow { first: 1, ..row(20, 1, (0, 2)) }];
        let scratch = Scratch { rows, pages: vec![7, 8, 9], positions: vec![15, 20], ..Scratch::default() };
        let (rows, pages, positions) = scratch.next();
        assert_eq!(pages, [9, 0, 7, 8]);
        assert_eq!(positions, [16, 21]);
        assert_eq!(rows, [row(16, 1, (0, 2)), SeqRow { first: 1, ..row(21, 1, (2, 4)) }]);
        assert!(alike(&[row(16, 1, (5, 7)), SeqRow { first: 1, ..row(21, 1, (0, 2)) }], &rows));
        assert!(!alike(&rows[..1], &rows) && !alike(&[rows[0], row(21, 1, (2, 4))], &rows));
    }
}
