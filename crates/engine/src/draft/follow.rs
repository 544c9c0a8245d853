//! Reading prompts along with the large model.

use std::collections::HashMap;

use super::{DraftModel, Hidden, Reader, push};
use crate::client::Client;
use crate::engine::Clock;
use crate::features::MANY;
use crate::schedule::Schedule;
use crate::{Batch, RunError, SeqId, Want};

/// Tokens of a reply for which its prompt is read, at least.
const LEAST: usize = 8;

impl DraftModel {
    /// Reads the prompt chunks of a batch, if it reads them along.
    pub fn follow(
        &mut self,
        batch: &Batch,
        (schedule, clients): (&Schedule, &HashMap<SeqId, Client>),
        clock: &Clock,
    ) -> Result<(), RunError> {
        self.batch.clear();
        match self.reader {
            Reader::Heads(..) => self.forget_read(batch),
            Reader::Hidden(_) => self.follow_hidden(batch, schedule, clients),
            Reader::Translated(_) => self.follow_translated(batch, schedule, clients),
            Reader::Tokens => self.note_written(batch, schedule, clients),
        }
        if !self.batch.rows.is_empty() {
            let since = clock();
            self.runner.submit(&self.batch)?;
            self.runner.wait()?;
            self.reading.took(self.batch.tokens.len(), clock().saturating_sub(since));
        }
        Ok(())
    }

    /// Forgets states but the last one of each sequence.
    fn forget_read(&mut self, batch: &Batch) {
        let Reader::Heads(features, _) = &mut self.reader else { return };
        for row in &batch.rows {
            let kept = features.tokens(row.seq);
            features.forget_before(row.seq, kept.end.saturating_sub(1));
        }
    }

    /// Plans to read prompt chunks with the states that are kept. Replies are read when a draft is made.
    fn follow_hidden(&mut self, batch: &Batch, schedule: &Schedule, clients: &HashMap<SeqId, Client>) {
        let DraftModel { batch: plan, reading, reader, n_ctx, .. } = self;
        let Reader::Hidden(Hidden { features, .. }) = reader else { return };
        for row in &batch.rows {
            let all = &schedule.running(row.seq).expect("a planned sequence runs").tokens;
            let pages = &batch.pages[row.pages.0..row.pages.1];
            let own = reading.own((row.seq, clients[&row.seq].kind()), (row.start, all.len()), pages);
            let kept = features.tokens(row.seq);
            let (from, to) = (own.n_stored.max(kept.start), kept.end.min(all.len() - 1));
            let is_prompt = schedule.n_draft(row) == 0 && row.tokens.1 - row.tokens.0 > 1;
            let is_prompt = is_prompt && clients[&row.seq].n_left() >= LEAST;
            if from < to && to <= *n_ctx && own.follows && is_prompt {
                plan.features.extend_from_slice(features.of(row.seq, from..to));
                push(plan, row, from, (&all[from + 1..=to], pages), Want::Nothing);
                own.n_stored = to;
            }
            // The last one belongs to a token that is not known yet.
            let n_stored = own.n_stored;
            features.forget_before(row.seq, n_stored.max(kept.end.saturating_sub(MANY)));
            reading.wrote((from.min(row.start), row.start + row.tokens.1 - row.tokens.0), n_stored, pages);
        }
    }

    /// Plans to read prompt chunks in another vocabulary.
    fn follow_translated(&mut self, batch: &Batch, schedule: &Schedule, clients: &HashMap<SeqId, Client>) {
        let DraftModel { batch: plan, reading, reader, n_ctx, .. } = self;
        let Reader::Translated(translated) = reader else { return };
        translated.begins();
        for row in &batch.rows {
            let end = row.start + row.tokens.1 - row.tokens.0;
            let all = &schedule.running(row.seq).expect("a planned sequence runs").tokens;
            let own = reading.own((row.seq, clients[&row.seq].kind()), (row.start, all.len()), &[]);
            let is_prompt = schedule.n_draft(row) == 0 && end - row.start > 1;
            let is_read = is_prompt && own.follows && end <= *n_ctx && clients[&row.seq].n_left() >= LEAST;
            if let Some(part) = is_read.then(|| translated.settled(row.seq, &all[..end], *n_ctx)).flatten() {
                push(plan, row, part.start, (part.tokens, part.pages), Want::Nothing);
            }
        }
    }

    /// Notes what the large model wrote to pages: tokens are read when a draft is made.
    fn note_written(&mut self, batch: &Batch, schedule: &Schedule, clients: &HashMap<SeqId, Client>) {
        for row in &batch.rows {
            let end = row.start + row.tokens.1 - row.tokens.0;
            let n_token = schedule.running(row.seq).expect("a planned sequence runs").tokens.len();
            let pages = &batch.pages[row.pages.0..row.pages.1];
            if schedule.n_draft(row) == 0 && end - row.start > 1 {
                self.reading.restarts(row.seq, row.start);
            }
            let own = self.reading.own((row.seq, clients[&row.seq].kind()), (row.start, n_token), pages);
            let n_whole = own.n_whole();
            self.reading.wrote((row.start, end), n_whole, pages);
        }
    }
}
