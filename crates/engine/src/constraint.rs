//! What a sequence may say, as far as the engine must know: a grammar begins a constraint for each sequence, which allows
//! tokens one after another.
//!
//! ```text
//! allowed -> mask -> sample -> push -> allowed -> ..      forced, n_allowed: drafts; pop: drafts that are taken back
//! ```
//! Each token is sampled under the mask of its own position, with drafts as without, so that drafts change no text.

use std::sync::Arc;

use crate::TokenId;
use crate::sampler::{Guess, Mask};

/// Why a constraint cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the constraint of the output failed: {0}")]
pub struct ConstraintError(pub String);

/// Whether anything may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// More may come, or must.
    Open,
    /// Nothing but the end may come.
    Complete,
}

/// What one sequence may say from here on.
pub trait Constraint: Send {
    /// Overwrites `mask`, `[n_vocab]`, with the tokens that may come next; stop tokens are among them where the sequence
    /// may end.
    ///
    /// # Errors
    /// If nothing may come, or finding out takes more than it may.
    fn allowed(&mut self, mask: &mut Mask) -> Result<(), ConstraintError>;

    /// Goes on with `token`, which was allowed.
    ///
    /// # Errors
    /// If it was not.
    fn push(&mut self, token: TokenId) -> Result<Progress, ConstraintError>;

    /// Takes back the last `n` tokens.
    ///
    /// # Errors
    /// If there were fewer.
    fn pop(&mut self, n: usize) -> Result<(), ConstraintError>;

    /// How many of `tokens` may come next, one after another; fewer where that is not easily known.
    fn n_allowed(&mut self, tokens: &[TokenId]) -> usize;

    /// Overwrites `out` with tokens of which each is the only one that may come, as far as that is easily known.
    fn forced(&mut self, out: &mut Vec<TokenId>);
}

/// What sequences may say. Shared by requests.
pub trait Grammar: Send + Sync {
    /// A constraint for a new sequence.
    fn begin(&self) -> Box<dyn Constraint>;
}

/// A grammar in a request. Two are equal if they are the same one.
#[derive(Clone)]
pub struct SharedGrammar(pub Arc<dyn Grammar>);

impl PartialEq for SharedGrammar {
    fn eq(&self, other: &SharedGrammar) -> bool {
        std::ptr::addr_eq(Arc::as_ptr(&self.0), Arc::as_ptr(&other.0))
    }
}

impl std::fmt::Debug for SharedGrammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedGrammar")
    }
}

/// The constraint of a sequence, with memory for its mask.
pub(crate) struct Bound {
    constraint: Box<dyn Constraint>,
    mask: Mask,
    /// Tokens of a draft that is being made.
    n_ahead: usize,
    /// Whether that draft is as long as it can be.
    is_ahead_complete: bool,
}

impl Bound {
    pub fn new(grammar: &SharedGrammar, n_vocab: usize) -> Bound {
        let mask = Mask::nothing(n_vocab);
        Bound { constraint: grammar.0.begin(), mask, n_ahead: 0, is_ahead_complete: false }
    }

    /// The tokens that may come next.
    pub fn allowed(&mut self) -> Result<&Mask, ConstraintError> {
        self.constraint.allowed(&mut self.mask)?;
        Ok(&self.mask)
    }

    pub fn push(&mut self, token: TokenId) -> Result<Progress, ConstraintError> {
        self.constraint.push(token)
    }

    /// Leaves out what may not come of a draft.
    pub fn trim(&mut self, draft: &mut Vec<TokenId>) {
        draft.truncate(self.constraint.n_allowed(draft));
    }

    /// Overwrites `out` with a draft of at most `n` tokens that are sure to come.
    pub fn forced(&mut self, n: usize, out: &mut Vec<TokenId>) {
        self.constraint.forced(out);
        out.truncate(n);
    }

    /// The next token of a draft: the likeliest one of those that may come, and how sure the model is of it among those.
    /// After the end any is as good.
    pub fn draft(&mut self, logits: &[f32]) -> Guess {
        if !self.is_ahead_complete && self.constraint.allowed(&mut self.mask).is_ok() {
            let allowed = || self.mask.tokens().map_while(|token| Some((token, *logits.get(token as usize)?)));
            let larger = |m: (Option<TokenId>, f32), (t, x)| if x > m.1 { (Some(t), x) } else { m };
            let best = allowed().fold((None, f32::NEG_INFINITY), larger);
            if let Some(token) = best.0 {
                let second = allowed().filter(|(t, _)| *t != token).fold((None, f32::NEG_INFINITY), larger).0;
                let sure = 1.0 / allowed().map(|(_, x)| (x - best.1).exp()).sum::<f32>();
                self.is_ahead_complete = match self.constraint.push(token) {
                    Ok(progress) => {
                        self.n_ahead += 1;
                        progress == Progress::Complete
                    }
                    // Sampling meets the same error, and tells it.
                    Err(_) => true,
                };
                return Guess { token, sure, second };
            }
        }
        self.is_ahead_complete = true;
        Guess::default()
    }

    /// Takes a draft back, which is to be verified.
    pub fn undo_draft(&mut self) -> Result<(), ConstraintError> {
        self.is_ahead_complete = false;
        self.constraint.pop(std::mem::take(&mut self.n_ahead))
    }
}
