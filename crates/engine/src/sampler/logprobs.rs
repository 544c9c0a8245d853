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

/// The token of the largest logit, and its probability by the softmax of `logits`, `[n_vocab]`.
pub(crate) fn likeliest(scratch: &mut Scratch, logits: Logits<'_>) -> (TokenId, f32) {
    let mut pool = Pool::new(logits, scratch);
    let Some(best) = pool.best() else { return (0, 0.0) };
    (best.id, (1.0 / pool.weight_sum(best.logit)) as f32)
}
