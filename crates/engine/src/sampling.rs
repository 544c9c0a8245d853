//! Tokens from a step's logits: one for each sequence that wants one, more where a draft agrees.

use std::collections::HashMap;

use crate::client::{ChoiceError, Client, Sampled};
use crate::sampler::Scratch;
use crate::schedule::Schedule;
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
    /// Sequences whose prompt was computed and that have others to split off.
    pub parents: Vec<SeqId>,
    /// A draft.
    pub draft: Vec<TokenId>,
    /// A sequence and its accepted draft.
    history: Vec<TokenId>,
    scratch: Scratch,
}

impl Sampling {
    /// Chooses tokens for each row that wants some.
    pub fn sample(
        &mut self,
        batch: &Batch,
        outputs: Outputs<'_>,
        schedule: &Schedule,
        clients: &mut HashMap<SeqId, Client>,
    ) -> Result<(), RunError> {
        let (mut rest, n_vocab) = (outputs.data, outputs.n_vocab.max(1));
        self.n_kept.clear();
        for row in &batch.rows {
            let tokens = &batch.tokens[row.tokens.0..row.tokens.1];
            let n_logits = match row.want {
                Want::Nothing | Want::Hidden => 0,
                Want::Last => 1,
                Want::All => tokens.len(),
            };
            let missing = || RunError::Backend("the model returned fewer logits than were asked for".into());
            let (logits, after) = rest.split_at_checked(n_logits * n_vocab).ok_or_else(missing)?;
            rest = after;
            let client = clients.get_mut(&row.seq).expect("each sequence has a client");
            let stored = &schedule.running(row.seq).expect("a planned sequence runs").tokens;
            let n_kept = match row.want {
                Want::Nothing | Want::Hidden => tokens.len(),
                Want::Last => {
                    self.one(row.seq, client, (logits, stored));
                    tokens.len()
                }
                Want::All => self.drafted(row.seq, client, (logits.chunks_exact(n_vocab), stored), tokens),
            };
            self.n_kept.push(n_kept);
        }
        Ok(())
    }

    /// A token for a sequence, and one for each that continues the same prompt.
    fn one(&mut self, id: SeqId, client: &mut Client, (logits, stored): (&[f32], &[TokenId])) {
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

    /// Tokens where `row` holds a token and its draft: each is sampled as it would be without a draft, which counts as far as
    /// it agrees. Returns how many tokens of the row count.
    fn drafted<'a>(
        &mut self,
        id: SeqId,
        client: &mut Client,
        (logits, stored): (impl Iterator<Item = &'a [f32]>, &[TokenId]),
        row: &[TokenId],
    ) -> usize {
        self.history.clear();
        self.history.extend_from_slice(stored);
        let mut n_kept = 0;
        for logits in logits {
            let sampled = client.sample(&mut self.scratch, logits, &self.history);
            n_kept += 1;
            let next = row.get(n_kept).copied();
            let agrees = |sampled: &Sampled| Some(sampled.token) == next && !client.ends_with(sampled, n_kept - 1);
            let goes_on = sampled.as_ref().is_ok_and(agrees);
            self.outcomes.push(Outcome { id, sampled: Some(sampled), is_new: !goes_on });
            if !goes_on {
                break;
            }
            self.history.extend(next);
        }
        n_kept
    }
}
