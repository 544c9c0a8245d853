//! A small model that drafts for a large one.
//!
//! It keeps its own keys and values in pages of the same numbers: whatever shares, copies, evicts or saves a page of the
//! large model does so for the small one. What it has not stored of a sequence, it reads before it drafts, or the last tokens
//! of it ([`Reading`]); keys and values that are wrong only make its drafts worse.
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
use crate::reading::{Reading, WINDOW};
use crate::runner::PAGE_TOKENS;
use crate::sampler::{Guess, Scratch, likeliest};
use crate::schedule::Schedule;
use crate::speculate::{Pair, Source};
use crate::translate::Translated;
use crate::{Batch, PageId, Row, RunError, Runner, RunnerInfo, SeqId, TokenId, Want};

/// See the module.
pub(crate) struct DraftModel {
    pub runner: Box<dyn Runner>,
    reader: Reader,
    batch: Batch,
    reading: Reading,
    /// Rows of the large model's batch that are drafted for.
    rows: Vec<Drafted>,
    /// How sure it was of each of their tokens, and what it named second.
    sure: Vec<(SeqId, Guess)>,
    /// Second tokens that are worth to be verified.
    seconds: Vec<Second>,
    /// Whether the large model verifies trees.
    grows_trees: bool,
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
    /// The large model's last hidden state, of which so many heads say further tokens.
    Heads(Features, usize),
}

/// Hidden states.
struct Hidden {
    /// The large model's.
    features: Features,
    /// Numbers of a state that the draft model gives.
    d_model: usize,
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

/// A token in place of one that was drafted.
struct Second {
    /// Which of [`DraftModel::rows`].
    of: usize,
    /// The token before it, as index in the row.
    parent: usize,
    token: TokenId,
}

impl DraftModel {
    /// For a large model; `grows_trees`: whether it verifies trees. Of its tokens alone are drafted.
    pub fn new(draft: Draft, large: &RunnerInfo, grows_trees: bool) -> DraftModel {
        let (n_vocab, d_large) = (large.n_vocab, large.d_model);
        let Draft { runner, reads } = draft;
        let info = runner.info();
        let reader = match reads {
            Reads::Tokens => Reader::Tokens,
            Reads::Translated(translate) => Reader::Translated(Translated::new(translate, info.n_page)),
            Reads::Hidden(layers) => Reader::Hidden(Hidden {
                features: Features::new(layers.len().max(1) * d_large),
                d_model: info.d_model,
                states: Vec::new(),
            }),
            Reads::Heads(n) => Reader::Heads(Features::new(info.d_model), n.max(1)),
        };
        let is_translated = matches!(reader, Reader::Translated(_));
        DraftModel {
            runner,
            batch: Batch::default(),
            reading: Reading::new(if is_translated { 0 } else { info.n_page }),
            rows: Vec::new(),
            sure: Vec::new(),
            seconds: Vec::new(),
            grows_trees,
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
        matches!(self.reader, Reader::Tokens | Reader::Hidden(_))
    }

    /// Whether it has another vocabulary.
    fn is_translated(&self) -> bool {
        matches!(self.reader, Reader::Translated(_))
    }

    /// Whether it wants [`Runner::hidden`] of the large model.
    pub fn reads_hidden(&self) -> bool {
        matches!(self.reader, Reader::Hidden(_) | Reader::Heads(..))
    }

    /// Seconds that a drafted token takes, by measure; 0 before there is one.
    pub fn pass_seconds(&self) -> f64 {
        self.reading.pass_seconds() / self.reader.n_token() as f64
    }

    /// What is known of drafts for a sequence of `n_token` tokens.
    pub fn pair(&self, id: SeqId, n_token: usize, kind: Kind) -> Pair {
        let own = self.reading.known(id);
        let n_unread = match &self.reader {
            Reader::Translated(translated) => translated.n_unread(id, n_token),
            Reader::Hidden(hidden) => hidden.features.tokens(id).len(),
            Reader::Heads(..) => 0,
            Reader::Tokens => n_token - own.map_or(0, |own| own.n_stored.min(n_token)),
        };
        let seconds = |n: usize| self.reading.seconds(n);
        let is_long = matches!(self.reader, Reader::Tokens) && n_unread > 2 * WINDOW;
        Pair {
            accept: self.calibration.supposed(self.kind(kind)),
            // The pass that drafts the first token reads the last one, or two, in any case.
            rest_seconds: if n_unread > 2 { seconds(n_unread) } else { 0.0 },
            window_seconds: is_long.then(|| seconds(WINDOW)),
            whole_seconds: own.filter(|own| own.n_skipped > 0).map(|_| seconds(n_token)),
        }
    }

    /// How it drafts for a sequence of a kind: in another vocabulary nothing is drawn with the same random numbers.
    fn kind(&self, kind: Kind) -> Kind {
        if self.is_translated() { kind.without_draws() } else { kind }
    }

    /// Copies page `from` over page `to`, if it has the large model's.
    pub fn copy_page(&mut self, from: PageId, to: PageId) {
        if self.shares_pages() {
            self.runner.copy_page(from, to);
            self.reading.copied(from, to);
        }
    }

    /// Appends the bytes of a page, and whether they are of all its tokens; it has the large model's.
    pub fn export_page(&self, page: PageId, out: &mut Vec<u8>) {
        self.runner.export_page(page, out);
        out.push(u8::from(self.reading.is_whole(page)));
    }

    /// Overwrites a page; it has the large model's.
    pub fn import_page(&mut self, page: PageId, bytes: &[u8]) -> bool {
        let Some((is_whole, bytes)) = bytes.split_last() else { return false };
        let is_read = self.runner.import_page(page, bytes).is_ok();
        self.reading.set_whole(page, is_read && *is_whole == 1);
        is_read
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
        self.seconds.clear();
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
                self.reading.took(self.batch.tokens.len(), took);
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
        for drafted in &self.rows {
            let seq = batch.rows[drafted.row].seq;
            if let Some(bound) = clients.get_mut(&seq).and_then(|client| client.bound.as_mut()) {
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
        let is_translated = self.is_translated();
        let DraftModel { runner, rows, sure, seconds, grows_trees, calibration, scratch, n_vocab, reader, .. } = self;
        let outputs = runner.wait()?;
        let n_logit = outputs.n_vocab.max(1);
        let of_rows = outputs.data.chunks_exact(n_logit * reader.n_token());
        let going_on = rows.iter_mut().enumerate().filter(|(_, drafted)| drafted.goes_on);
        for ((of, drafted), logits) in going_on.zip(of_rows) {
            let row = &batch.rows[drafted.row];
            let client = clients.get_mut(&row.seq).expect("each sequence has a client");
            let kind = if is_translated { client.kind().without_draws() } else { client.kind() };
            let places = &mut batch.tokens[row.tokens.0 + 1 + pass..row.tokens.1];
            for ((at, place), logits) in (pass..).zip(places).zip(logits.chunks_exact(n_logit)) {
                let logits = &logits[..*n_vocab];
                let guess = match is_translated {
                    false => client.draft(scratch, logits),
                    // What is translated back stands for no single token.
                    true => Guess { second: None, ..likeliest(scratch, logits.into()) },
                };
                *place = guess.token;
                let speculator = client.speculator().expect("a draft was proposed");
                speculator.drafted();
                let worth = speculator.worth;
                let power = drafted.power * calibration.accept(kind, guess.sure, speculator.bias);
                // What comes in its place tells how often a model that is not sure is right, verified or not.
                sure.push((row.seq, guess));
                if power < worth.verify {
                    drafted.goes_on = false;
                    break;
                }
                let second = drafted.power * calibration.second(kind, guess.sure);
                let is_worth = *grows_trees && worth.verify > 0.0 && second >= worth.verify;
                seconds.extend(guess.second.filter(|_| is_worth).map(|token| Second { of, parent: at, token }));
                (drafted.n_tok, drafted.power) = (at + 1, power);
                drafted.goes_on = power * speculator.accept() >= worth.draft;
                if !drafted.goes_on {
                    break;
                }
            }
        }
        if let Reader::Hidden(Hidden { d_model, states, .. }) = reader {
            let (d_model, hidden) = (*d_model, runner.hidden());
            for (drafted, state) in rows.iter().zip(states.chunks_exact_mut(d_model)).filter(|(row, _)| row.goes_on) {
                let last = self.batch.rows[drafted.at].tokens.1 - 1;
                state.copy_from_slice(&hidden[last * d_model..][..d_model]);
            }
        }
        Ok(())
    }

    /// Takes tokens that were not drafted out of the batch, and puts second ones in, as far as there is room.
    fn cut(&self, batch: &mut Batch) {
        let mut drafted = self.rows.iter().enumerate().peekable();
        let (mut from, mut to) = (0, 0);
        for (i, row) in batch.rows.iter_mut().enumerate() {
            let planned = row.tokens.1 - row.tokens.0;
            let mut n_tok = planned;
            if let Some((of, drafted)) = drafted.next_if(|(_, drafted)| drafted.row == i) {
                n_tok = 1 + drafted.n_tok;
                let seconds = self.seconds.iter().filter(|second| second.of == of && second.parent < drafted.n_tok);
                let first = batch.parents.len();
                for (at, second) in (n_tok..planned).zip(seconds) {
                    if row.parents.is_none() {
                        batch.parents.extend(-1..drafted.n_tok as i32);
                    }
                    batch.tokens[row.tokens.0 + at] = second.token;
                    batch.parents.push(second.parent as i32);
                    n_tok = at + 1;
                    row.parents = Some((first, batch.parents.len()));
                }
            }
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

    /// Learns that of a line of a sequence's drafted tokens the first `n_accepted` were accepted, and what came then, also
    /// where that was drafted and not verified.
    pub fn learn(
        &mut self,
        (id, client): (SeqId, &mut Client),
        (n_line, n_accepted): (usize, usize),
        came: Option<TokenId>,
    ) {
        let kind = self.kind(client.kind());
        let Some(speculator) = client.speculator() else { return };
        let sure = self.sure.iter().filter(|(of, _)| *of == id).map(|(_, guess)| *guess);
        for (i, guess) in sure.take(n_accepted + 1).enumerate() {
            let is_right = i < n_accepted || came == Some(guess.token);
            self.calibration.learn(kind, guess.sure, is_right, &mut speculator.bias);
            if guess.second.is_some() {
                self.calibration.learn_second(kind, guess.sure, !is_right && guess.second == came);
            }
            if i == n_line {
                speculator.compared(Source::Model, 0, is_right);
            }
        }
    }

    /// Keeps the large model's states of a row of the batch, of the tokens that count: `n_kept`, or those of a path.
    pub fn keep(&mut self, row: &Row, (n_kept, path): (usize, &[usize]), hidden: &[f32]) {
        let (Reader::Hidden(Hidden { features, .. }) | Reader::Heads(features, _)) = &mut self.reader else { return };
        let d_state = features.d_state();
        let of = |from: usize, n: usize| &hidden[(row.tokens.0 + from) * d_state..][..n * d_state];
        if path.is_empty() {
            return features.take(row.seq, row.start, of(0, n_kept));
        }
        for (i, from) in path.iter().enumerate() {
            features.take(row.seq, row.start + i, of(*from, 1));
        }
    }

    /// Notes that of a sequence `n_token` tokens are right.
    pub fn verified(&mut self, id: SeqId, n_token: usize) {
        self.reading.verified(id, n_token);
    }

    /// Forgets a sequence and its client.
    pub fn forget(&mut self, id: SeqId, client: &Client) {
        self.reading.forget((id, client.kind()), client.account());
        match &mut self.reader {
            Reader::Tokens => {}
            Reader::Translated(translated) => translated.forget(id),
            Reader::Hidden(Hidden { features, .. }) | Reader::Heads(features, _) => features.forget(id),
        }
    }
}

/// Appends a row to a draft model's batch, with as many pages as it needs and has.
fn push(batch: &mut Batch, row: &Row, start: usize, (tokens, pages): (&[TokenId], &[PageId]), want: Want) {
    let (first_token, first_page) = (batch.tokens.len(), batch.pages.len());
    batch.tokens.extend_from_slice(tokens);
    batch.pages.extend_from_slice(&pages[..(start + tokens.len()).div_ceil(PAGE_TOKENS).min(pages.len())]);
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
