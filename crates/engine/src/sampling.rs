//! Tokens from a step's logits: one for each sequence that wants one, more where a draft agrees.

use std::collections::HashMap;

use crate::client::{ChoiceError, Client, Sampled};
use crate::runner::MAXIMA_BLOCK;
use crate::sampler::{Logits, Scratch, likeliest};
use crate::schedule::Schedule;
use crate::speculate::{Source, Speculator};
use crate::{Batch, Outputs, RunError, SeqId, TokenId, Want};

/// What came of a sequence's logits.
pub(crate) struct Outcome {
    pub id: SeqId,
    /// `None` if no token was wanted.
    pub sampled: Option<Result<Sampled, ChoiceError>>,
    /// Whether the token is not part of the sequence yet; drafted tokens that were accepted are.
    pub is_new: bool,
}

/// What sampling made of a step, and memory that it reuses.
#[derive(Default)]
pub(crate) struct Sampling {
    /// In the order in which they are to be told.
    pub outcomes: Vec<Outcome>,
    /// By row: tokens that count.
    pub n_kept: Vec<usize>,
    /// By row: where in `path` stands which tokens count of a tree; empty where they are the first ones.
    paths: Vec<(usize, usize)>,
    /// Indices in a row.
    path: Vec<usize>,
    /// By row: the token that came after a draft.
    pub ends: Vec<Option<TokenId>>,
    /// Sequences whose prompt was computed and that have others to split off.
    pub parents: Vec<SeqId>,
    /// A draft.
    pub draft: Vec<TokenId>,
    /// Its parents, if it is a tree.
    pub draft_parents: Vec<i32>,
    /// A sequence and its accepted draft.
    history: Vec<TokenId>,
    scratch: Scratch,
}

/// Logits of rows that are not taken yet.
struct Rest<'a> {
    logits: &'a [f32],
    maxima: &'a [f32],
    n_vocab: usize,
}

impl<'a> Rest<'a> {
    /// The next `n`.
    fn take(&mut self, n: usize) -> Option<impl Iterator<Item = Logits<'a>> + Clone + use<'a>> {
        let (n_vocab, n_block) = (self.n_vocab, self.n_vocab.div_ceil(MAXIMA_BLOCK));
        let (all, after) = self.logits.split_at_checked(n * n_vocab)?;
        // A model that gave none gave none for any row.
        let (maxima, maxima_after) = self.maxima.split_at_checked(n * n_block).unwrap_or_default();
        (self.logits, self.maxima) = (after, maxima_after);
        let maxima = maxima.chunks_exact(n_block).map(Some).chain(std::iter::repeat(None));
        Some(
            all.chunks_exact(n_vocab)
                .zip(maxima)
                .map(|(all, maxima)| Logits { all, maxima: maxima.unwrap_or_default() }),
        )
    }
}

impl Sampling {
    /// With memory for so many rows, tokens of a batch and tokens of a sequence.
    pub fn with_room(n_row: usize, n_tok: usize, n_history: usize) -> Sampling {
        Sampling {
            outcomes: Vec::with_capacity(n_tok),
            n_kept: Vec::with_capacity(n_row),
            paths: Vec::with_capacity(n_row),
            ends: Vec::with_capacity(n_row),
            history: Vec::with_capacity(n_history),
            ..Sampling::default()
        }
    }

    /// Chooses tokens for each row that wants some.
    pub fn sample(
        &mut self,
        batch: &Batch,
        outputs: Outputs<'_>,
        schedule: &Schedule,
        clients: &mut HashMap<SeqId, Client>,
    ) -> Result<(), RunError> {
        let mut rest = Rest { logits: outputs.data, maxima: outputs.maxima, n_vocab: outputs.n_vocab.max(1) };
        self.n_kept.clear();
        self.paths.clear();
        self.path.clear();
        self.ends.clear();
        for row in &batch.rows {
            let tokens = &batch.tokens[row.tokens.0..row.tokens.1];
            let n_logits = match row.want {
                Want::Nothing | Want::Hidden => 0,
                Want::Last => 1,
                Want::All => tokens.len(),
            };
            let missing = || RunError::Backend("the model returned fewer logits than were asked for".into());
            let logits = rest.take(n_logits).ok_or_else(missing)?;
            let client = clients.get_mut(&row.seq).expect("each sequence has a client");
            let (first, mut end) = (self.path.len(), None);
            let stored = &schedule.running(row.seq).expect("a planned sequence runs").tokens;
            let n_kept = match row.want {
                Want::Nothing | Want::Hidden => tokens.len(),
                Want::Last => {
                    self.one(row.seq, client, (logits.last().expect("one was taken"), stored));
                    let sampled = self.outcomes.last().and_then(|outcome| outcome.sampled.as_ref()?.as_ref().ok());
                    end = sampled.map(|sampled| sampled.token);
                    tokens.len()
                }
                Want::All if stored.len() - row.start < tokens.len() => {
                    let parents = row.parents.map(|(from, to)| &batch.parents[from..to]);
                    let (n_kept, came) = self.drafted(row.seq, client, (logits.clone(), stored), (tokens, parents));
                    end = came;
                    self.learn_guesses(client, logits, (tokens.len(), n_kept - 1));
                    n_kept
                }
                Want::All => {
                    self.read(client, (logits.clone(), stored), row.start);
                    if let Some(last) = logits.last().filter(|_| row.start + tokens.len() == stored.len()) {
                        self.one(row.seq, client, (last, stored));
                    }
                    tokens.len()
                }
            };
            self.n_kept.push(n_kept);
            self.paths.push((first, self.path.len()));
            self.ends.push(end);
        }
        Ok(())
    }

    /// The tokens of the batch's row `at` that count, as indices in the row, if they are not the first ones.
    pub fn path(&self, at: usize) -> &[usize] {
        let (from, to) = self.paths[at];
        &self.path[from..to]
    }

    /// Tells how likely tokens of a prompt were, where logits after each from `start` on were wanted.
    fn read<'a>(
        &mut self,
        client: &mut Client,
        (logits, stored): (impl Iterator<Item = Logits<'a>>, &[TokenId]),
        start: usize,
    ) {
        let mut forks = std::mem::take(&mut client.forks);
        for (at, logits) in (start..).zip(logits) {
            for client in forks.iter_mut().map(|(_, fork)| fork).chain([&mut *client]) {
                client.read(&mut self.scratch, (logits, stored), at);
            }
        }
        client.forks = forks;
    }

    /// A token for a sequence, and one for each that continues the same prompt.
    fn one(&mut self, id: SeqId, client: &mut Client, (logits, stored): (Logits<'_>, &[TokenId])) {
        if !client.forks.is_empty() {
            self.parents.push(id);
        }
        let mut forks = std::mem::take(&mut client.forks);
        for (id, client) in forks.iter_mut().map(|(id, fork)| (*id, fork)).chain([(id, &mut *client)]) {
            let sampled = client.wants_tokens().then(|| client.sample(&mut self.scratch, logits, stored));
            self.outcomes.push(Outcome { id, sampled, is_new: true });
        }
        client.forks = forks;
    }

    /// What a step said after the guesses of a row, if its draft has any.
    fn learn_guesses<'a>(
        &mut self,
        client: &mut Client,
        logits: impl Iterator<Item = Logits<'a>> + Clone,
        (n_tok, n_accepted): (usize, usize),
    ) {
        if client.source != Some(Source::Lookahead) {
            return;
        }
        let Some(lookahead) = client.speculator().and_then(Speculator::lookahead) else { return };
        let scratch = &mut self.scratch;
        lookahead
            .learn(n_tok, n_accepted, |i| logits.clone().nth(i).map_or(0, |logits| likeliest(scratch, logits).token));
    }

    /// Tokens where a row holds a token and its draft: each is sampled as it would be without a draft, which counts as far as
    /// it agrees. Returns how many tokens of the row count, and the token that comes after them. Where the draft is a tree it
    /// notes their path.
    fn drafted<'a>(
        &mut self,
        id: SeqId,
        client: &mut Client,
        (logits, stored): (impl Iterator<Item = Logits<'a>> + Clone, &[TokenId]),
        (row, parents): (&[TokenId], Option<&[i32]>),
    ) -> (usize, Option<TokenId>) {
        self.history.clear();
        self.history.extend_from_slice(stored);
        let (mut n_kept, mut at, mut came) = (0, 0, None);
        loop {
            let logits = logits.clone().nth(at).expect("logits were taken of the whole row");
            let sampled = client.sample(&mut self.scratch, logits, &self.history);
            came = sampled.as_ref().ok().map(|sampled| sampled.token).or(came);
            n_kept += 1;
            if parents.is_some() {
                self.path.push(at);
            }
            let ends = |sampled: &Sampled| client.ends_with(sampled, n_kept - 1);
            let going_on = sampled.as_ref().ok().filter(|sampled| !ends(sampled));
            let next = going_on.and_then(|sampled| child(row, parents, at, sampled.token));
            self.outcomes.push(Outcome { id, sampled: Some(sampled), is_new: next.is_none() });
            let Some(next) = next else { return (n_kept, came) };
            self.history.push(row[next]);
            at = next;
        }
    }
}

/// Where `token` stands in a row as one that was drafted after the one at `at`.
fn child(row: &[TokenId], parents: Option<&[i32]>, at: usize, token: TokenId) -> Option<usize> {
    match parents {
        None => (row.get(at + 1) == Some(&token)).then_some(at + 1),
        Some(parents) => (at + 1..row.len()).find(|i| parents[*i] == at as i32 && row[*i] == token),
    }
}
