//! Logprobs of the model's raw logits, and the likeliest token.

use super::Logits;
use super::pool::{Pool, Scratch, before};
use crate::TokenId;
use crate::request::Logprob;

/// The logprob of `token`, and those of the `n_top` likeliest tokens, the likeliest first. `logits` are `[n_vocab]`;
/// logprobs are natural logarithms of their softmax.
///
/// # Panics
/// If `token` is not in the vocabulary.
#[must_use]
pub fn logprobs<'a>(
    scratch: &mut Scratch,
    logits: impl Into<Logits<'a>>,
    token: TokenId,
    n_top: usize,
) -> (f32, Vec<Logprob>) {
    let logits: Logits<'_> = logits.into();
    let mut pool = Pool::new(logits, scratch);
    let Some(best) = pool.best() else { return (f32::NEG_INFINITY, Vec::new()) };
    let norm = f64::from(best.logit) + pool.weight_sum(best.logit).ln();
    let logprob = |logit: f32| (f64::from(logit) - norm).min(0.0) as f32;
    let chosen = logprob(logits.all[token as usize]);
    if n_top == 0 {
        return (chosen, Vec::new());
    }
    pool.keep_top(n_top);
    let picks = pool.picks();
    picks.sort_unstable_by(before);
    let top = picks.iter().map(|pick| Logprob { token: pick.id, logprob: logprob(pick.logit) });
    (chosen, top.collect())
}

/// A token that a model takes for the next one.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Guess {
    pub token: TokenId,
    /// How sure it is of that: a probability, or where the token was drawn the distance to where another would have been.
    pub sure: f32,
    /// What comes most likely if this does not, where the model is not sure.
    pub second: Option<TokenId>,
}

/// A model that is surer of its guess names no second one.
const UNSURE: f32 = 0.9;

/// The token of the largest logit, and its probability by the softmax of `logits`, `[n_vocab]`.
pub(crate) fn likeliest(scratch: &mut Scratch, logits: Logits<'_>) -> Guess {
    let mut pool = Pool::new(logits, scratch);
    let Some(best) = pool.best() else { return Guess::default() };
    let sure = (1.0 / pool.weight_sum(best.logit)) as f32;
    let second = if sure < UNSURE { likeliest_but(logits.all, best.id) } else { None };
    Guess { token: best.id, sure, second }
}

/// The token of the largest logit but one.
fn likeliest_but(logits: &[f32], but: TokenId) -> Option<TokenId> {
    let larger = |best: (Option<usize>, f32), (i, x): (usize, &f32)| {
        if *x > best.1 && i != but as usize { (Some(i), *x) } else { best }
    };
    logits.iter().enumerate().fold((None, f32::NEG_INFINITY), larger).0.map(|i| i as TokenId)
}
