//! A small model that drafts for a large one.
//!
//! It keeps its own keys and values in pages of the same numbers: whatever shares, copies, evicts or saves a page of the
//! large model does so for the small one. It reads prompts along with the large model. What it has not stored of a sequence,
//! since nothing was drafted for a while, it reads before it drafts; keys and values that are wrong, or missing where a
//! page came from elsewhere, only make its drafts worse.

use std::collections::HashMap;

use crate::client::Client;
use crate::engine::Clock;
use crate::runner::PAGE_TOKENS;
use crate::schedule::Schedule;
use crate::speculate::Source;
use crate::{Batch, PageId, Row, RunError, Runner, SeqId, TokenId, Want};

/// Weight of a new measure of drafting.
const WEIGHT: f64 = 0.2;

/// See the module.
pub(crate) struct DraftModel {
    pub runner: Box<dyn Runner>,
    batch: Batch,
    /// By sequence: tokens whose keys and values are stored.
    n_stored: HashMap<SeqId, usize>,
    /// Rows of the large model's batch that are drafted for in this pass.
    rows: Vec<usize>,
    n_ctx: usize,
    n_vocab: usize,
    /// Seconds of a pass.
    pass_seconds: f64,
}

impl DraftModel {
    /// `n_vocab`: of the large model, whose tokens alone are drafted.
    pub fn new(runner: Box<dyn Runner>, n_vocab: usize) -> DraftModel {
        let info = runner.info();
        DraftModel {
            runner,
            batch: Batch::default(),
            n_stored: HashMap::new(),
            rows: Vec::new(),
            n_ctx: info.n_ctx,
            n_vocab: n_vocab.min(info.n_vocab),
            pass_seconds: 0.0,
        }
    }

    /// Seconds that a drafted token takes, by measure.
    pub fn pass_seconds(&self) -> f64 {
        self.pass_seconds
    }

    /// Most tokens that may be drafted after `n_token`.
    pub fn room(&self, n_token: usize) -> usize {
        self.n_ctx.saturating_sub(n_token)
    }

    /// Overwrites the drafts of those whose source is the model, in a batch that was planned with as many tokens in their
    /// place.
    pub fn draft(
        &mut self,
        batch: &mut Batch,
        schedule: &Schedule,
        clients: &mut HashMap<SeqId, Client>,
        clock: &Clock,
    ) -> Result<(), RunError> {
        let is_drafted = |clients: &HashMap<SeqId, Client>, id| {
            clients.get(&id).is_some_and(|client| client.source == Some(Source::Model))
        };
        for pass in 0.. {
            let since = clock();
            self.batch.clear();
            self.rows.clear();
            for (i, row) in batch.rows.iter().enumerate() {
                let n_draft = row.tokens.1 - row.tokens.0 - 1;
                if row.want != Want::All || n_draft <= pass || !is_drafted(clients, row.seq) {
                    continue;
                }
                let stored = self.n_stored.entry(row.seq).or_insert(row.start);
                let tokens = match pass {
                    0 => {
                        *stored = (*stored).min(row.start);
                        &schedule.running(row.seq).expect("a planned sequence runs").tokens[*stored..=row.start]
                    }
                    _ => &batch.tokens[row.tokens.0 + pass..][..1],
                };
                push(&mut self.batch, row, *stored, (tokens, &batch.pages[row.pages.0..row.pages.1]), Want::Last);
                *stored = row.start + pass + 1;
                self.rows.push(i);
            }
            if self.rows.is_empty() {
                break;
            }
            self.runner.submit(&self.batch)?;
            let outputs = self.runner.wait()?;
            let logits = outputs.data.chunks_exact(outputs.n_vocab.max(1));
            for (row, logits) in self.rows.iter().zip(logits) {
                let row = &batch.rows[*row];
                let client = clients.get_mut(&row.seq).expect("each sequence has a client");
                batch.tokens[row.tokens.0 + 1 + pass] = client.draft(&logits[..self.n_vocab]);
            }
            let seconds = clock().saturating_sub(since).as_secs_f64();
            if pass > 0 || self.pass_seconds == 0.0 {
                let weight = if self.pass_seconds == 0.0 { 1.0 } else { WEIGHT };
                self.pass_seconds += weight * (seconds - self.pass_seconds);
            }
        }
        for row in batch.rows.iter().filter(|row| row.want == Want::All) {
            if let Some(bound) = clients.get_mut(&row.seq).and_then(|client| client.bound.as_mut()) {
                // What cannot be taken back fails again when the next token is sampled, and is told then.
                let _ = bound.undo_draft();
            }
        }
        Ok(())
    }

    /// Reads the prompt chunks of a batch.
    pub fn follow(&mut self, batch: &Batch, schedule: &Schedule) -> Result<(), RunError> {
        self.batch.clear();
        for row in &batch.rows {
            let end = row.start + row.tokens.1 - row.tokens.0;
            if row.want == Want::All || end - row.start < 2 || end > self.n_ctx {
                continue;
            }
            let stored = self.n_stored.entry(row.seq).or_insert(row.start);
            *stored = (*stored).min(row.start);
            let tokens = &schedule.running(row.seq).expect("a planned sequence runs").tokens[*stored..end];
            push(&mut self.batch, row, *stored, (tokens, &batch.pages[row.pages.0..row.pages.1]), Want::Nothing);
            *stored = end;
        }
        if !self.batch.rows.is_empty() {
            self.runner.submit(&self.batch)?;
            self.runner.wait()?;
        }
        Ok(())
    }

    /// Notes that of a sequence `n_token` tokens are right.
    pub fn verified(&mut self, id: SeqId, n_token: usize) {
        if let Some(stored) = self.n_stored.get_mut(&id) {
            *stored = (*stored).min(n_token);
        }
    }

    /// Forgets a sequence.
    pub fn forget(&mut self, id: SeqId) {
        self.n_stored.remove(&id);
    }
}

fn push(batch: &mut Batch, row: &Row, start: usize, (tokens, pages): (&[TokenId], &[PageId]), want: Want) {
    let (first_token, first_page) = (batch.tokens.len(), batch.pages.len());
    batch.tokens.extend_from_slice(tokens);
    batch.pages.extend_from_slice(&pages[..(start + tokens.len()).div_ceil(PAGE_TOKENS)]);
    batch.rows.push(Row {
        seq: row.seq,
        start,
        tokens: (first_token, batch.tokens.len()),
        pages: (first_page, batch.pages.len()),
        slot: row.slot,
        parents: None,
        want,
    });
}
