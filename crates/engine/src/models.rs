//! The model of an engine, and one that drafts for it, as far as they are handled together.

use crate::draft::DraftModel;
use crate::offload::Pages;
use crate::runner::PAGE_TOKENS;
use crate::sampling::Sampling;
use crate::{Batch, PageId, Runner, StateId};

/// The model, and one that drafts for it.
pub(crate) struct Models {
    pub runner: Box<dyn Runner>,
    pub draft: Option<DraftModel>,
    pub page_bytes: usize,
    /// Dropped after them.
    pub _held: Option<Box<dyn Send>>,
}

impl Models {
    /// Copies page `from` over page `to`.
    pub fn copy_page(&mut self, from: PageId, to: PageId) {
        self.runner.copy_page(from, to);
        if let Some(draft) = &mut self.draft {
            draft.copy_page(from, to);
        }
    }

    /// Of rows that are trees, brings the tokens that count into a line: those of the batch, and what the model stored. What a
    /// draft model stored of others it reads anew.
    pub fn straighten(&mut self, batch: &mut Batch, sampling: &Sampling) {
        let Batch { rows, tokens, pages, .. } = batch;
        for (at, row) in rows.iter().enumerate() {
            let place = |i: usize| {
                let slot = row.start + i;
                (pages[row.pages.0 + slot / PAGE_TOKENS], slot % PAGE_TOKENS)
            };
            for (to, from) in sampling.path(at).iter().enumerate().filter(|(to, from)| to != *from) {
                tokens[row.tokens.0 + to] = tokens[row.tokens.0 + from];
                self.runner.copy_token(place(*from), place(to));
            }
        }
    }
}

impl Pages for Models {
    fn export(&self, page: PageId, out: &mut Vec<u8>) {
        self.runner.export_page(page, out);
        if let Some(draft) = self.draft.as_ref().filter(|draft| draft.shares_pages()) {
            draft.export_page(page, out);
        }
    }

    fn import(&mut self, page: PageId, bytes: &[u8]) -> bool {
        let Some((own, rest)) = bytes.split_at_checked(self.page_bytes) else { return false };
        let is_own = self.runner.import_page(page, own).is_ok();
        let draft = self.draft.as_mut().filter(|draft| draft.shares_pages());
        is_own && draft.is_none_or(|draft| draft.import_page(page, rest))
    }

    fn export_state(&self, state: StateId, out: &mut Vec<u8>) {
        self.runner.export_state(state, out);
    }

    fn import_state(&mut self, state: StateId, bytes: &[u8]) -> bool {
        self.runner.import_state(state, bytes).is_ok()
    }
}
