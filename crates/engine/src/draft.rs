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

use std::collections::HashMap;

use crate::accept::Calibration;
use crate::client::Client;
use crate::engine::{Clock, Draft, Reads};
use crate::features::{Features, MANY};
use crate::reading::Reading;
use crate::runner::PAGE_TOKENS;
use crate::sampler::{Scratch, likeliest};
use crate::schedule::Schedule;
use crate::speculate::{Pair, Source};
use crate::times::Least;
use crate::translate::Translated;
use crate::{Batch, PageId, Row, RunError, Runner, SeqId, TokenId, Want};

/// See the module.
pub(crate) struct DraftModel {
    pub runner: Box<dyn Runner>,
    /// Where its vocabulary is another one.
    translated: Option<Translated>,
    /// Where it reads hidden states.
    features: Option<Features>,
    /// By row that is drafted for, the states that it gave in the last pass.
    states: Vec<f32>,
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
    /// Of a pass.
    pass: Least,
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
        let (translated, features) = match reads {
            Reads::Tokens => (None, None),
            Reads::Translated(translate) => (Some(Translated::new(translate, info.n_page)), None),
            Reads::Hidden => (None, Some(Features::new(info.d_model))),
        };
        DraftModel {
            runner,
            batch: Batch::default(),
            reading: Reading::new(if translated.is_some() { 0 } else { info.n_page }),
            rows: Vec::new(),
            sure: Vec::new(),
            calibration: Calibration::new(),
            scratch: Scratch::default(),
            n_ctx: info.n_ctx,
            n_vocab: if translated.is_some() { info.n_vocab } else { n_vocab.min(info.n_vocab) },
            n_vocab_large: n_vocab,
            back: Vec::new(),
            translated,
            features,
            states: Vec::new(),
            pass: Least::default(),
        }
    }

    /// Whether its keys and values lie in pages of the large model's numbers.
    pub fn shares_pages(&self) -> bool {
        self.translated.is_none()
    }

    /// Whether it wants [`Runner::hidden`] of the large model.
    pub fn reads_hidden(&self) -> bool {
        self.features.is_some()
    }

    /// Seconds that a drafted token takes, by measure; 0 before there is one.
    pub fn pass_seconds(&self) -> f64 {
        self.pass.seconds
    }

    /// What is known of drafts for a sequence of `n_token` tokens.
    pub fn pair(&self, id: SeqId, n_token: usize) -> Pair {
        let own = self.reading.known(id);
        let n_unread = match (&self.translated, &self.features) {
            (Some(translated), _) => translated.n_unread(id, n_token),
            (_, Some(features)) => features.tokens(id).len(),
            _ => n_token - own.map_or(0, |own| own.n_stored.min(n_token)),
        };
        Pair {
            accept: self.calibration.mean(),
            is_tried: own.is_none_or(|own| own.follows),
            // The pass that drafts the first token reads the last one, or two, in any case.
            unread_seconds: if n_unread > 2 { self.reading.seconds(n_unread) } else { 0.0 },
        }
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
        let used_before = self.translated.as_ref().map_or(0, Translated::now);
        for pass in 0.. {
            let since = clock();
            match (&self.translated, &self.features) {
                (Some(_), _) => self.begin_translated(pass, batch, schedule, used_before),
                (_, Some(_)) => self.begin_hidden(pass, batch, schedule),
                _ => self.begin_pass(pass, batch, schedule),
            }
            if self.batch.rows.is_empty() {
                break;
            }
            self.runner.submit(&self.batch)?;
            self.end_pass(pass, batch, clients)?;
            let took = clock().saturating_sub(since);
            // A pass that catches up with a sequence says nothing of others, and is paid for as it was.
            if self.batch.tokens.len() <= 2 * self.batch.rows.len() {
                self.pass.learn(took);
            } else {
                let each = (took.as_secs_f64() - self.pass.seconds).max(0.0) / self.batch.rows.len() as f64;
                for row in &self.batch.rows {
                    if let Some(speculator) = clients.get_mut(&row.seq).and_then(Client::speculator) {
                        speculator.spend(each);
                    }
                }
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
            let all = &schedule.running(row.seq).expect("a planned sequence runs").tokens;
            let pages = &batch.pages[row.pages.0..row.pages.1];
            let own = self.reading.own(row.seq, (row.start, all.len()), pages);
            let from = own.n_stored.min(row.start + pass);
            let tokens = match pass {
                0 => &all[from..=row.start],
                _ => &batch.tokens[row.tokens.0 + pass..][..1],
            };
            push(&mut self.batch, row, from, (tokens, pages), Want::Last);
            own.n_stored = row.start + pass + 1;
            self.reading.wrote((from, row.start + pass + 1), row.start + pass + 1, pages);
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

    /// As `begin_pass`, with the large model's states; in later passes with those that this one gave in the one before.
    fn begin_hidden(&mut self, pass: usize, batch: &Batch, schedule: &Schedule) {
        self.batch.clear();
        self.batch.wants_hidden = true;
        let features = self.features.as_mut().expect("the caller has looked");
        let d_model = features.d_model();
        self.states.resize(self.rows.len() * d_model, 0.0);
        for (i, drafted) in self.rows.iter_mut().enumerate() {
            let row = &batch.rows[drafted.row];
            drafted.goes_on &= pass + 1 < row.tokens.1 - row.tokens.0;
            let all = &schedule.running(row.seq).expect("a planned sequence runs").tokens;
            let pages = &batch.pages[row.pages.0..row.pages.1];
            let kept = features.tokens(row.seq);
            let own = self.reading.own(row.seq, (row.start, all.len()), pages);
            let place = if pass == 0 { own.n_stored.max(kept.start) } else { row.start + pass - 1 };
            // Without the state of the token before there is nothing to begin with.
            drafted.goes_on &= pass > 0 || kept.end == row.start && place < row.start;
            if !drafted.goes_on {
                continue;
            }
            let (tokens, states) = match pass {
                0 => (&all[place + 1..=row.start], features.of(row.seq, place..row.start)),
                _ => (&batch.tokens[row.tokens.0 + pass..][..1], &self.states[i * d_model..][..d_model]),
            };
            drafted.at = self.batch.rows.len();
            self.batch.features.extend_from_slice(states);
            push(&mut self.batch, row, place, (tokens, pages), Want::Last);
            own.n_stored = row.start;
            features.forget_before(row.seq, row.start);
            self.reading.wrote((place, place + tokens.len()), row.start, pages);
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
        let DraftModel { runner, rows, sure, calibration, scratch, n_vocab, translated, features, states, .. } = self;
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
            let speculator = client.speculator().expect("a draft was proposed");
            speculator.drafted();
            let worth = speculator.worth;
            // In a sequence in which it is wrong more often than in others, it is so however sure it is.
            let trust = (speculator.accept() / calibration.mean().max(f64::MIN_POSITIVE)).min(1.0);
            let power = drafted.power * trust * calibration.accept(probability);
            // The first one is verified in any case: how often a model that is not sure is right is learned by that.
            if pass == 0 || power >= worth.verify {
                sure.push((row.seq, probability));
                (drafted.n_tok, drafted.power) = (pass + 1, power);
                drafted.goes_on = power * speculator.accept() >= worth.draft;
            } else {
                drafted.goes_on = false;
            }
        }
        if let Some(d_model) = features.as_ref().map(Features::d_model) {
            let hidden = runner.hidden();
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
    pub fn learn(&mut self, id: SeqId, n_accepted: usize) {
        let sure = self.sure.iter().filter(|(of, _)| *of == id).map(|(_, sure)| *sure);
        for (i, sure) in sure.take(n_accepted + 1).enumerate() {
            self.calibration.learn(sure, i < n_accepted);
        }
    }

    /// Keeps the large model's states of a batch's tokens, as many of each row as count.
    pub fn keep(&mut self, batch: &Batch, n_kept: &[usize], hidden: &[f32]) {
        let Some(features) = &mut self.features else { return };
        let d_model = features.d_model();
        for (row, n_kept) in batch.rows.iter().zip(n_kept) {
            features.take(row.seq, row.start, &hidden[row.tokens.0 * d_model..][..n_kept * d_model]);
        }
    }

    /// Reads the prompt chunks of a batch.
    pub fn follow(&mut self, batch: &Batch, schedule: &Schedule, clock: &Clock) -> Result<(), RunError> {
        self.batch.clear();
        if self.features.is_some() {
            self.follow_hidden(batch, schedule);
        } else {
            self.follow_tokens(batch, schedule);
        }
        if !self.batch.rows.is_empty() {
            let since = clock();
            self.runner.submit(&self.batch)?;
            self.runner.wait()?;
            self.reading.took(self.batch.tokens.len(), clock().saturating_sub(since));
        }
        Ok(())
    }

    /// Plans to read prompt chunks with the states that are kept. Replies are read when a draft is made.
    fn follow_hidden(&mut self, batch: &Batch, schedule: &Schedule) {
        let DraftModel { batch: plan, reading, features, n_ctx, .. } = self;
        let features = features.as_mut().expect("the caller has looked");
        for row in &batch.rows {
            let all = &schedule.running(row.seq).expect("a planned sequence runs").tokens;
            let pages = &batch.pages[row.pages.0..row.pages.1];
            let own = reading.own(row.seq, (row.start, all.len()), pages);
            let kept = features.tokens(row.seq);
            let (from, to) = (own.n_stored.max(kept.start), kept.end.min(all.len() - 1));
            let is_prompt = schedule.n_draft(row) == 0 && row.tokens.1 - row.tokens.0 > 1;
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

    /// Plans to read prompt chunks.
    fn follow_tokens(&mut self, batch: &Batch, schedule: &Schedule) {
        let used_before = self.translated.as_ref().map_or(0, Translated::now);
        for row in &batch.rows {
            let end = row.start + row.tokens.1 - row.tokens.0;
            let all = &schedule.running(row.seq).expect("a planned sequence runs").tokens;
            let pages = &batch.pages[row.pages.0..row.pages.1];
            let own = self.reading.own(row.seq, (row.start, all.len()), pages);
            let is_read = own.follows && schedule.n_draft(row) == 0 && end - row.start > 1 && end <= self.n_ctx;
            if let Some(translated) = &mut self.translated {
                let part = is_read.then(|| translated.settled(row.seq, &all[..end], self.n_ctx, used_before));
                if let Some(part) = part.flatten() {
                    push(&mut self.batch, row, part.start, (part.tokens, part.pages), Want::Nothing);
                }
                continue;
            }
            let from = own.n_stored.min(row.start);
            if is_read {
                push(&mut self.batch, row, from, (&all[from..end], pages), Want::Nothing);
                own.n_stored = end;
            }
            let n_stored = own.n_stored;
            self.reading.wrote((if is_read { from } else { row.start }, end), n_stored, pages);
        }
    }

    /// Notes that of a sequence `n_token` tokens are right.
    pub fn verified(&mut self, id: SeqId, n_token: usize) {
        self.reading.verified(id, n_token);
    }

    /// Forgets a sequence, for which drafts saved so many seconds.
    pub fn forget(&mut self, id: SeqId, saved: f64) {
        self.reading.forget(id, saved);
        if let Some(features) = &mut self.features {
            features.forget(id);
        }
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
