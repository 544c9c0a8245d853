//! A small model that drafts for a large one.
//!
//! It keeps its own keys and values in pages of the same numbers: whatever shares, copies, evicts or saves a page of the
//! large model does so for the small one. It reads prompts along with the large model where that pays ([`Reading`]). What
//! it has not stored of a sequence, it reads before it drafts; keys and values that are wrong only make its drafts worse.
//!
//! A model of another vocabulary keeps sequences of its own ([`Translated`]). One that is a layer of the large model reads that
//! one's hidden states with its tokens ([`Features`]).
//!
//! How many tokens a row gets was planned; it drafts as long as another one is worth its time, and the rest is taken out
//! of the batch again.

mod follow;
mod passes;

use std::collections::HashMap;

use self::passes::Pass;
use crate::accept::{Calibration, Kind};
use crate::account::By;
use crate::client::Client;
use crate::engine::{Clock, Draft, Reads};
use crate::features::Features;
use crate::reading::Reading;
use crate::runner::PAGE_TOKENS;
use crate::sampler::{Scratch, likeliest};
use crate::schedule::Schedule;
use crate::speculate::{Pair, Source};
use crate::translate::Translated;
use crate::{Batch, PageId, Row, RunError, Runner, SeqId, TokenId, Want};

/// See the module.
pub(crate) struct DraftModel {
    pub runner: Box<dyn Runner>,
    reader: Reader,
    batch: Batch,
    reading: Reading,
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
}

/// What it reads.
enum Reader {
    /// The large model's tokens, into pages of the same numbers.
    Tokens,
    /// Tokens of another vocabulary, into pages of its own.
    Translated(Translated),
    /// The large model's tokens and hidden states.
    Hidden(Hidden),
}

/// Hidden states.
struct Hidden {
    /// The large model's.
    features: Features,
    /// By row that is drafted for, those that the draft model gave in the last pass.
    states: Vec<f32>,
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
    /// Its place in the batch of the pass.
    at: usize,
}

impl DraftModel {
    /// `n_vocab`: of the large model, whose tokens alone are drafted.
    pub fn new(draft: Draft, n_vocab: usize) -> DraftModel {
        let Draft { runner, reads } = draft;
        let info = runner.info();
        let reader = match reads {
            Reads::Tokens => Reader::Tokens,
            Reads::Translated(translate) => Reader::Translated(Translated::new(translate, info.n_page)),
            Reads::Hidden => Reader::Hidden(Hidden { features: Features::new(info.d_model), states: Vec::new() }),
        };
        let is_translated = matches!(reader, Reader::Translated(_));
        DraftModel {
            runner,
            batch: Batch::default(),
            reading: Reading::new(if is_translated { 0 } else { info.n_page }),
            rows: Vec::new(),
            sure: Vec::new(),
            calibration: Calibration::new(),
            scratch: Scratch::default(),
            n_ctx: info.n_ctx,
            n_vocab: if is_translated { info.n_vocab } else { n_vocab.min(info.n_vocab) },
            n_vocab_large: n_vocab,
            back: Vec::new(),
            reader,
        }
    }

    /// Whether its keys and values lie in pages of the large model's numbers.
    pub fn shares_pages(&self) -> bool {
        !matches!(self.reader, Reader::Translated(_))
    }

    /// Whether it wants [`Runner::hidden`] of the large model.
    pub fn reads_hidden(&self) -> bool {
        matches!(self.reader, Reader::Hidden(_))
    }

    /// Seconds that a drafted token takes, by measure; 0 before there is one.
    pub fn pass_seconds(&self) -> f64 {
        self.reading.pass_seconds()
    }

    /// What is known of drafts for a sequence of `n_token` tokens.
    pub fn pair(&self, id: SeqId, n_token: usize, kind: Kind) -> Pair {
        let own = self.reading.known(id);
        let n_unread = match &self.reader {
            Reader::Translated(translated) => translated.n_unread(id, n_token),
            Reader::Hidden(hidden) => hidden.features.tokens(id).len(),
            Reader::Tokens => n_token - own.map_or(0, |own| own.n_stored.min(n_token)),
        };
        Pair {
            accept: self.calibration.mean(self.kind(kind)),
            is_tried: own.is_none_or(|own| own.follows),
            // The pass that drafts the first token reads the last one, or two, in any case.
            unread_seconds: if n_unread > 2 { self.reading.seconds(n_unread) } else { 0.0 },
        }
    }

    /// How it drafts for a sequence of a kind: in another vocabulary nothing is drawn with the same random numbers.
    fn kind(&self, kind: Kind) -> Kind {
        if self.shares_pages() { kind } else { kind.without_draws() }
    }

    /// Copies page `from` over page `to`, if it has the large model's.
    pub fn copy_page(&mut self, from: PageId, to: PageId) {
        if self.shares_pages() {
            self.runner.copy_page(from, to);
            self.reading.copied(from, to);
        }
    }

    /// Overwrites a page; it has the large model's.
    pub fn import_page(&mut self, page: PageId, bytes: &[u8]) -> Result<(), RunError> {
        let result = self.runner.import_page(page, bytes);
        self.reading.set_whole(page, result.is_ok());
        result
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
        self.rows.extend(rows.map(|(row, _)| Drafted { row, n_tok: 0, power: 1.0, goes_on: true, at: 0 }));
        self.sure.clear();
        for at in 0.. {
            let since = clock();
            let DraftModel { reader, rows, batch: plan, reading, n_ctx, .. } = self;
            let mut pass = Pass { at, batch, schedule, clients, plan, reading };
            reader.begin(&mut pass, rows, *n_ctx);
            if self.batch.rows.is_empty() {
                break;
            }
            self.runner.submit(&self.batch)?;
            self.end_pass(at, batch, clients)?;
            let took = clock().saturating_sub(since);
            // A pass that catches up with a sequence says nothing of others, and is paid for by what it read: how long it took
            // may be another program's doing.
            if self.batch.tokens.len() <= 2 * self.batch.rows.len() {
                self.reading.passed(took);
            } else {
                for row in &self.batch.rows {
                    let each = self.reading.seconds(row.tokens.1 - row.tokens.0 - 1);
                    if let Some(speculator) = clients.get_mut(&row.seq).and_then(Client::speculator) {
                        speculator.account.spend(By::Model, each);
                    }
                }
            }
        }
        self.translate_back(batch, clients);
        self.cut(batch);
        for row in batch.rows.iter().filter(|row| row.want == Want::All) {
            if let Some(bound) = clients.get_mut(&row.seq).and_then(|client| client.bound.as_mut()) {
                // What cannot be taken back fails again when the next token is sampled, and is told then.
                let _ = bound.undo_draft();
            }
        }
        Ok(())
    }

    /// Translates what was drafted in another vocabulary.
    fn translate_back(&mut self, batch: &mut Batch, clients: &mut HashMap<SeqId, Client>) {
        let DraftModel { reader, rows, back, n_vocab_large, .. } = self;
        let Reader::Translated(translated) = reader else { return };
        for drafted in rows {
            let row = &batch.rows[drafted.row];
            let places = &mut batch.tokens[row.tokens.0 + 1..row.tokens.1];
            translated.to_model(&places[..drafted.n_tok], back);
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
        let is_translated = !self.shares_pages();
        let DraftModel { runner, rows, sure, calibration, scratch, n_vocab, reader, .. } = self;
        let outputs = runner.wait()?;
        let logits = outputs.data.chunks_exact(outputs.n_vocab.max(1));
        for (drafted, logits) in rows.iter_mut().filter(|drafted| drafted.goes_on).zip(logits) {
            let row = &batch.rows[drafted.row];
            let client = clients.get_mut(&row.seq).expect("each sequence has a client");
            let logits = &logits[..*n_vocab];
            let (token, sureness) = match is_translated {
                false => client.draft(scratch, logits),
                true => likeliest(scratch, logits.into()),
            };
            batch.tokens[row.tokens.0 + 1 + pass] = token;
            let kind = if is_translated { client.kind().without_draws() } else { client.kind() };
            let speculator = client.speculator().expect("a draft was proposed");
            speculator.drafted();
            let worth = speculator.worth;
            // In a sequence in which it is wrong more often than in others, it is so however sure it is.
            let trust = (speculator.accept() / calibration.mean(kind).max(f64::MIN_POSITIVE)).min(1.0);
            let power = drafted.power * trust * calibration.accept(kind, sureness);
            // The first one is verified in any case: how often a model that is not sure is right is learned by that.
            if pass == 0 || power >= worth.verify {
                sure.push((row.seq, sureness));
                (drafted.n_tok, drafted.power) = (pass + 1, power);
                drafted.goes_on = power * speculator.accept() >= worth.draft;
            } else {
                drafted.goes_on = false;
            }
        }
        if let Reader::Hidden(Hidden { features, states }) = reader {
            let (d_model, hidden) = (features.d_model(), runner.hidden());
            for (drafted, state) in rows.iter().zip(states.chunks_exact_mut(d_model)).filter(|(row, _)| row.goes_on) {
                let last = self.batch.rows[drafted.at].tokens.1 - 1;
                state.copy_from_slice(&hidden[last * d_model..][..d_model]);
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
    pub fn learn(&mut self, id: SeqId, kind: Kind, n_accepted: usize) {
        let kind = self.kind(kind);
        let sure = self.sure.iter().filter(|(of, _)| *of == id).map(|(_, sure)| *sure);
        for (i, sure) in sure.take(n_accepted + 1).enumerate() {
            self.calibration.learn(kind, sure, i < n_accepted);
        }
    }

    /// Keeps the large model's states of a batch's tokens, as many of each row as count.
    pub fn keep(&mut self, batch: &Batch, n_kept: &[usize], hidden: &[f32]) {
        let Reader::Hidden(Hidden { features, .. }) = &mut self.reader else { return };
        let d_model = features.d_model();
        for (row, n_kept) in batch.rows.iter().zip(n_kept) {
            features.take(row.seq, row.start, &hidden[row.tokens.0 * d_model..][..n_kept * d_model]);
        }
    }

    /// Notes that of a sequence `n_token` tokens are right.
    pub fn verified(&mut self, id: SeqId, n_token: usize) {
        self.reading.verified(id, n_token);
    }

    /// Forgets a sequence, for which drafts saved so many seconds.
    pub fn forget(&mut self, (id, kind): (SeqId, Kind), saved: f64) {
        self.reading.forget((id, kind), saved);
        match &mut self.reader {
            Reader::Tokens => {}
            Reader::Translated(translated) => translated.forget(id),
            Reader::Hidden(hidden) => hidden.features.forget(id),
        }
    }
}

/// Appends a row to a draft model's batch.
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
