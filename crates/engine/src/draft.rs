//! A small model that drafts for a large one.
//!
//! It keeps its own keys and values in pages of the same numbers: whatever shares, copies, evicts or saves a page of the
//! large model does so for the small one. It reads prompts along with the large model. What it has not stored of a sequence,
//! since nothing was drafted for a while, it reads before it drafts; keys and values that are wrong, or missing where a
//! page came from elsewhere, only make its drafts worse.
//!
//! A model of another vocabulary keeps sequences of its own ([`Translated`]).
//!
//! How many tokens a row gets was planned; it drafts as long as another one is worth its time, and the rest is taken out
//! of the batch again.

use std::collections::HashMap;

use crate::client::Client;
use crate::engine::{Clock, Draft};
use crate::runner::PAGE_TOKENS;
use crate::sampler::{Scratch, likeliest};
use crate::schedule::Schedule;
use crate::speculate::{Calibration, Source};
use crate::times::{UNDISTURBED, blend};
use crate::translate::Translated;
use crate::{Batch, PageId, Row, RunError, Runner, SeqId, TokenId, Want};

/// See the module.
pub(crate) struct DraftModel {
    pub runner: Box<dyn Runner>,
    /// Where its vocabulary is another one.
    translated: Option<Translated>,
    batch: Batch,
    /// By sequence, where the vocabularies are the same: tokens whose keys and values are stored.
    n_stored: HashMap<SeqId, usize>,
    /// Rows of the large model's batch that are drafted for.
    rows: Vec<Drafted>,
    /// How sure it was of each of their tokens.
    sure: Vec<(SeqId, f32)>,
    calibration: Calibration,
    scratch: Scratch,
    n_ctx: usize,
    /// Of its tokens, those that may be drafted.
    n_vocab: usize,
    /// Of the large model.
    n_vocab_large: usize,
    /// A draft in the large model's tokens.
    back: Vec<TokenId>,
    /// Seconds of a pass.
    pass_seconds: f64,
}

/// A row that is drafted for.
struct Drafted {
    /// Which of the batch.
    row: usize,
    /// Tokens drafted that are worth to be verified.
    n_tok: usize,
    /// The probability that all of them are accepted.
    power: f64,
    goes_on: bool,
}

impl DraftModel {
    /// `n_vocab`: of the large model, whose tokens alone are drafted.
    pub fn new(draft: Draft, n_vocab: usize) -> DraftModel {
        let Draft { runner, translate } = draft;
        let info = runner.info();
        let translated = translate.map(|translate| Translated::new(translate, info.n_page));
        DraftModel {
            runner,
            batch: Batch::default(),
            n_stored: HashMap::new(),
            rows: Vec::new(),
            sure: Vec::new(),
            calibration: Calibration::new(),
            scratch: Scratch::default(),
            n_ctx: info.n_ctx,
            n_vocab: if translated.is_some() { info.n_vocab } else { n_vocab.min(info.n_vocab) },
            n_vocab_large: n_vocab,
            back: Vec::new(),
            translated,
            pass_seconds: 0.0,
        }
    }

    /// Whether its keys and values lie in pages of the large model's numbers.
    pub fn shares_pages(&self) -> bool {
        self.translated.is_none()
    }

    /// Seconds that a drafted token takes, by measure; 0 before there is one.
    pub fn pass_seconds(&self) -> f64 {
        self.pass_seconds
    }

    /// The probability that a token which it drafts is accepted, of late.
    pub fn accept(&self) -> f64 {
        self.calibration.mean()
    }

    /// Most tokens that may be drafted after `n_token`.
    pub fn room(&self, n_token: usize) -> usize {
        self.n_ctx.saturating_sub(n_token)
    }

    /// Overwrites the drafts of those whose source is the model, in a batch that was planned with as many tokens in their
    /// place, and takes out those that are not worth it.
    pub fn draft(
        &mut self,
        batch: &mut Batch,
        schedule: &Schedule,
        clients: &mut HashMap<SeqId, Client>,
        clock: &Clock,
    ) -> Result<(), RunError> {
        let is_models = |id| clients.get(&id).is_some_and(|client: &Client| client.source == Some(Source::Model));
        let is_drafted = |row: &Row| schedule.n_draft(row) > 0 && is_models(row.seq);
        let rows = batch.rows.iter().enumerate().filter(|(_, row)| is_drafted(row));
        self.rows.clear();
        self.rows.extend(rows.map(|(row, _)| Drafted { row, n_tok: 0, power: 1.0, goes_on: true }));
        self.sure.clear();
        let used_before = self.translated.as_ref().map_or(0, Translated::now);
        for pass in 0.. {
            let since = clock();
            match self.translated {
                None => self.begin_pass(pass, batch, schedule),
                Some(_) => self.begin_translated(pass, batch, schedule, used_before),
            }
            if self.batch.rows.is_empty() {
                break;
            }
            self.runner.submit(&self.batch)?;
            self.end_pass(pass, batch, clients)?;
            let took = clock().saturating_sub(since);
            // A pass that catches up with a sequence says nothing of others.
            if self.batch.tokens.len() <= 2 * self.batch.rows.len() {
                let known = if self.pass_seconds == 0.0 { took.as_secs_f64() } else { self.pass_seconds };
                self.pass_seconds = blend(known, took, UNDISTURBED);
            }
        }
        if self.translated.is_some() {
            self.translate_back(batch, clients);
        }
        self.cut(batch);
        for row in batch.rows.iter().filter(|row| row.want == Want::All) {
            if let Some(bound) = clients.get_mut(&row.seq).and_then(|client| client.bound.as_mut()) {
                // What cannot be taken back fails again when the next token is sampled, and is told then.
                let _ = bound.undo_draft();
            }
        }
        Ok(())
    }

    /// Makes the batch of a pass: what is not stored of each sequence, in the first one, else the token drafted last.
    fn begin_pass(&mut self, pass: usize, batch: &Batch, schedule: &Schedule) {
        self.batch.clear();
        for drafted in &mut self.rows {
            let row = &batch.rows[drafted.row];
            drafted.goes_on &= pass + 1 < row.tokens.1 - row.tokens.0;
            if !drafted.goes_on {
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
        }
    }

    /// As `begin_pass`, in the draft model's tokens, which stand in the places of the batch until they are translated.
    fn begin_translated(&mut self, pass: usize, batch: &Batch, schedule: &Schedule, used_before: u64) {
        self.batch.clear();
        let translated = self.translated.as_mut().expect("the caller has looked");
        for drafted in &mut self.rows {
            let row = &batch.rows[drafted.row];
            let n_draft = row.tokens.1 - row.tokens.0 - 1;
            drafted.goes_on &= pass < n_draft;
            if !drafted.goes_on {
                continue;
            }
            let tokens = &schedule.running(row.seq).expect("a planned sequence runs").tokens[..=row.start];
            let part = match pass {
                0 => translated.part(row.seq, tokens, (n_draft, self.n_ctx), used_before),
                _ => Some(translated.next(row.seq, batch.tokens[row.tokens.0 + pass])),
            };
            drafted.goes_on = part.is_some();
            if let Some(part) = part {
                push(&mut self.batch, row, part.start, (part.tokens, part.pages), Want::Last);
            }
        }
    }

    /// Translates what was drafted.
    fn translate_back(&mut self, batch: &mut Batch, clients: &mut HashMap<SeqId, Client>) {
        let DraftModel { translated, rows, back, n_vocab_large, .. } = self;
        for drafted in rows {
            let row = &batch.rows[drafted.row];
            let places = &mut batch.tokens[row.tokens.0 + 1..row.tokens.1];
            translated.as_ref().expect("the caller has looked").to_model(&places[..drafted.n_tok], back);
            let n_known = back.iter().take_while(|token| (**token as usize) < *n_vocab_large).count();
            back.truncate(n_known.min(places.len()));
            if let Some(bound) = clients.get_mut(&row.seq).and_then(|client| client.bound.as_mut()) {
                bound.trim(back);
            }
            drafted.n_tok = back.len();
            places[..back.len()].copy_from_slice(back);
        }
    }

    /// Takes the tokens of a pass, and decides for which rows another one is worth its time.
    fn end_pass(
        &mut self,
        pass: usize,
        batch: &mut Batch,
        clients: &mut HashMap<SeqId, Client>,
    ) -> Result<(), RunError> {
        let DraftModel { runner, rows, sure, calibration, scratch, n_vocab, translated, .. } = self;
        let outputs = runner.wait()?;
        let logits = outputs.data.chunks_exact(outputs.n_vocab.max(1));
        for (drafted, logits) in rows.iter_mut().filter(|drafted| drafted.goes_on).zip(logits) {
            let row = &batch.rows[drafted.row];
            let client = clients.get_mut(&row.seq).expect("each sequence has a client");
            let logits = &logits[..*n_vocab];
            let (token, probability) = match translated {
                None => client.draft(scratch, logits),
                Some(_) => likeliest(scratch, logits.into()),
            };
            batch.tokens[row.tokens.0 + 1 + pass] = token;
            let worth = client.speculator(0).worth;
            let power = drafted.power * calibration.accept(probability);
            // The first one is verified in any case: how often a model that is not sure is right is learned by that.
            if pass == 0 || power >= worth.verify {
                sure.push((row.seq, probability));
                (drafted.n_tok, drafted.power) = (pass + 1, power);
                drafted.goes_on = power * client.speculator(0).accept() >= worth.draft;
            } else {
                drafted.goes_on = false;
            }
        }
        Ok(())
    }

    /// Takes tokens that were not drafted out of the batch.
    fn cut(&self, batch: &mut Batch) {
        let mut drafted = self.rows.iter().peekable();
        let (mut from, mut to) = (0, 0);
        for (i, row) in batch.rows.iter_mut().enumerate() {
            let n_tok = match drafted.next_if(|drafted| drafted.row == i) {
                Some(drafted) => 1 + drafted.n_tok,
                None => row.tokens.1 - row.tokens.0,
            };
            batch.tokens.copy_within(from..from + n_tok, to);
            from = row.tokens.1;
            row.tokens = (to, to + n_tok);
            to += n_tok;
            if n_tok == 1 && row.want == Want::All {
                row.want = Want::Last;
            }
        }
        batch.tokens.truncate(to);
    }

    /// Learns that the first `n_accepted` drafted tokens of a row were accepted, and that the next, if there is one, was not.
    pub fn learn(&mut self, id: SeqId, n_accepted: usize) {
        let sure = self.sure.iter().filter(|(of, _)| *of == id).map(|(_, sure)| *sure);
        for (i, sure) in sure.take(n_accepted + 1).enumerate() {
            self.calibration.learn(sure, i < n_accepted);
        }
    }

    /// Reads the prompt chunks of a batch.
    pub fn follow(&mut self, batch: &Batch, schedule: &Schedule) -> Result<(), RunError> {
        self.batch.clear();
        let used_before = self.translated.as_ref().map_or(0, Translated::now);
        for row in &batch.rows {
            let end = row.start + row.tokens.1 - row.tokens.0;
            if schedule.n_draft(row) > 0 || end - row.start < 2 || end > self.n_ctx {
                continue;
            }
            let all = &schedule.running(row.seq).expect("a planned sequence runs").tokens;
            if let Some(translated) = &mut self.translated {
                if let Some(part) = translated.settled(row.seq, &all[..end], self.n_ctx, used_before) {
                    push(&mut self.batch, row, part.start, (part.tokens, part.pages), Want::Nothing);
                }
                continue;
            }
            let stored = self.n_stored.entry(row.seq).or_insert(row.start);
            *stored = (*stored).min(row.start);
            push(
                &mut self.batch,
                row,
                *stored,
                (&all[*stored..end], &batch.pages[row.pages.0..row.pages.1]),
                Want::Nothing,
            );
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
        if let Some(translated) = &mut self.translated {
            translated.forget(id);
        }
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
