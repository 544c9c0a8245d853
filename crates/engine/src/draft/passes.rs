//! The batches of the passes in which a model drafts.

use std::collections::HashMap;

use super::{Drafted, Hidden, Reader, push};
use crate::client::Client;
use crate::features::Features;
use crate::reading::{Reading, WINDOW};
use crate::runner::PAGE_TOKENS;
use crate::schedule::Schedule;
use crate::speculate::Extent;
use crate::translate::Translated;
use crate::{Batch, Row, SeqId, TokenId, Want};

/// A pass, and what it drafts for.
pub(super) struct Pass<'a> {
    /// Passes before it.
    pub at: usize,
    /// The large model's.
    pub batch: &'a Batch,
    pub schedule: &'a Schedule,
    pub clients: &'a HashMap<SeqId, Client>,
    /// What is to be computed.
    pub plan: &'a mut Batch,
    pub reading: &'a mut Reading,
}

impl Reader {
    /// Makes the batch of a pass: what is not stored of each sequence, in the first one, else the token drafted last.
    pub(super) fn begin(&mut self, pass: &mut Pass<'_>, rows: &mut [Drafted], n_ctx: usize) {
        pass.plan.clear();
        match self {
            Reader::Tokens => pass.tokens(rows),
            Reader::Translated(translated) => pass.translated(rows, translated, n_ctx),
            Reader::Hidden(hidden) => pass.hidden(rows, hidden),
            Reader::Heads(features, _) => pass.heads(rows, features),
        }
    }

    /// Tokens that a pass drafts for a row.
    pub(super) fn n_token(&self) -> usize {
        if let Reader::Heads(_, n) = self { *n } else { 1 }
    }
}

impl<'a> Pass<'a> {
    /// All tokens of a sequence.
    fn all(&self, row: &Row) -> &'a [TokenId] {
        &self.schedule.running(row.seq).expect("a planned sequence runs").tokens
    }

    /// The token that the last pass drafted.
    fn drafted(&self, row: &Row) -> &'a [TokenId] {
        &self.batch.tokens[row.tokens.0 + self.at..][..1]
    }

    fn tokens(&mut self, rows: &mut [Drafted]) {
        for drafted in rows {
            let row = &self.batch.rows[drafted.row];
            drafted.goes_on &= self.at + 1 < row.tokens.1 - row.tokens.0;
            if !drafted.goes_on {
                continue;
            }
            let all = self.all(row);
            let pages = &self.batch.pages[row.pages.0..row.pages.1];
            let own = self.reading.own((row.seq, self.clients[&row.seq].kind()), (row.start, all.len()), pages);
            if self.at == 0 {
                match self.clients[&row.seq].reads() {
                    Extent::Rest => {}
                    Extent::Window => {
                        own.n_skipped = (row.start + 1).saturating_sub(WINDOW);
                        own.n_stored = own.n_skipped;
                    }
                    Extent::Whole => (own.n_skipped, own.n_stored) = (0, 0),
                }
            }
            let from = own.n_stored.min(row.start + self.at);
            let (skipped, end) = (own.n_skipped, row.start + self.at + 1);
            own.n_stored = end;
            let n_whole = own.n_whole();
            let tokens = if self.at == 0 { &all[from..=row.start] } else { self.drafted(row) };
            push(self.plan, row, from - skipped, (tokens, &pages[skipped / PAGE_TOKENS..]), Want::Last);
            self.reading.wrote((from, end), n_whole, pages);
        }
    }

    /// In the draft model's tokens, which stand in the places of the batch until they are translated.
    fn translated(&mut self, rows: &mut [Drafted], translated: &mut Translated, n_ctx: usize) {
        if self.at == 0 {
            translated.begins();
        }
        for drafted in rows {
            let row = &self.batch.rows[drafted.row];
            let n_draft = row.tokens.1 - row.tokens.0 - 1;
            drafted.goes_on &= self.at < n_draft;
            if !drafted.goes_on {
                continue;
            }
            let part = match self.at {
                0 => translated.part(row.seq, &self.all(row)[..=row.start], (n_draft, n_ctx)),
                _ => Some(translated.next(row.seq, self.drafted(row)[0])),
            };
            drafted.goes_on = part.is_some();
            if let Some(part) = part {
                push(self.plan, row, part.start, (part.tokens, part.pages), Want::Last);
            }
        }
    }

    /// With the large model's states; in later passes with those that this one gave in the one before.
    fn hidden(&mut self, rows: &mut [Drafted], hidden: &mut Hidden) {
        self.plan.wants_hidden = true;
        let Hidden { features, d_model, states } = hidden;
        let d_model = *d_model;
        states.resize(rows.len() * d_model, 0.0);
        for (i, drafted) in rows.iter_mut().enumerate() {
            let row = &self.batch.rows[drafted.row];
            drafted.goes_on &= self.at + 1 < row.tokens.1 - row.tokens.0;
            let all = self.all(row);
            let pages = &self.batch.pages[row.pages.0..row.pages.1];
            let kept = features.tokens(row.seq);
            let own = self.reading.own((row.seq, self.clients[&row.seq].kind()), (row.start, all.len()), pages);
            let place = if self.at == 0 { own.n_stored.max(kept.start) } else { row.start + self.at - 1 };
            // Without the state of the token before there is nothing to begin with.
            drafted.goes_on &= self.at > 0 || kept.end == row.start && place < row.start;
            if !drafted.goes_on {
                continue;
            }
            own.n_stored = row.start;
            let (tokens, states) = match self.at {
                0 => (&all[place + 1..=row.start], features.of(row.seq, place..row.start)),
                _ => (self.drafted(row), &states[i * d_model..][..d_model]),
            };
            drafted.at = self.plan.rows.len();
            self.plan.features.extend_from_slice(states);
            push(self.plan, row, place, (tokens, pages), Want::Last);
            features.forget_before(row.seq, row.start);
            self.reading.wrote((place, place + tokens.len()), row.start, pages);
        }
    }

    /// With the state of the token before the last one: a single pass.
    fn heads(&mut self, rows: &mut [Drafted], features: &mut Features) {
        for drafted in rows {
            let row = &self.batch.rows[drafted.row];
            let kept = features.tokens(row.seq);
            drafted.goes_on &= self.at == 0 && !kept.is_empty() && kept.end == row.start;
            if drafted.goes_on {
                self.plan.features.extend_from_slice(features.of(row.seq, kept.end - 1..kept.end));
                push(self.plan, row, 0, (&self.all(row)[row.start..=row.start], &[]), Want::Last);
                features.forget_before(row.seq, row.start - 1);
            }
        }
    }
}
