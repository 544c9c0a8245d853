//! Penalties for tokens that were seen. They touch the seen tokens only, never the vocabulary.

use std::collections::HashMap;

use super::params::{Dry, Params};
use super::pool::Pool;
use crate::TokenId;

/// How often each token occurs in the last `last_n` tokens of a growing history.
#[derive(Debug, Default)]
pub struct Window {
    counts: HashMap<TokenId, u32>,
    seen: usize,
}

impl Window {
    /// Brings the counts up to `history`, which must continue the one of the last call.
    pub fn advance(&mut self, history: &[TokenId], last_n: usize) {
        // What has left the window by the time that it ends at `history.len()` need not enter it.
        let skip = history.len().saturating_sub(last_n);
        if skip >= self.seen {
            self.counts.clear();
        } else {
            let gone = self.seen.saturating_sub(last_n)..skip;
            history[gone].iter().for_each(|token| self.forget(*token));
        }
        for token in &history[self.seen.max(skip)..] {
            *self.counts.entry(*token).or_insert(0) += 1;
        }
        self.seen = history.len();
    }

    fn forget(&mut self, token: TokenId) {
        if let Some(count) = self.counts.get_mut(&token) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&token);
            }
        }
    }

    /// Divides positive and multiplies other logits of seen tokens by `repeat_penalty`, then subtracts
    /// `count * frequency_penalty + presence_penalty`. Sources: arXiv:1909.05858, OpenAI's API reference.
    pub fn penalize(&self, pool: &mut Pool, params: &Params) {
        let is_neutral =
            params.repeat_penalty == 1.0 && params.frequency_penalty == 0.0 && params.presence_penalty == 0.0;
        if is_neutral {
            return;
        }
        pool.edit(self.counts.keys().copied(), |token, logit| {
            let count = self.counts[&token] as f32;
            let scaled = if logit <= 0.0 { logit * params.repeat_penalty } else { logit / params.repeat_penalty };
            scaled - count * params.frequency_penalty - params.presence_penalty
        });
    }
}

/// Memory of the DRY sampler.
#[derive(Debug, Default)]
pub struct DryState {
    /// By their last token: the breakers. A breaker of one token is so found without looking further.
    breakers: HashMap<TokenId, Vec<Vec<TokenId>>>,
    matches: Vec<usize>,
    longest: HashMap<TokenId, usize>,
}

impl DryState {
    /// A state for these settings.
    pub fn new(dry: &Dry) -> DryState {
        let mut breakers: HashMap<TokenId, Vec<Vec<TokenId>>> = HashMap::new();
        for breaker in &dry.breakers {
            if let Some(last) = breaker.last() {
                breakers.entry(*last).or_default().push(breaker.clone());
            }
        }
        DryState { breakers, ..DryState::default() }
    }

    /// Subtracts `multiplier * base^(n - allowed_length)` from each token that followed an earlier occurrence of the
    /// history's last `n` tokens, for the largest such `n`, if that is at least `allowed_length`. The `n` tokens do not
    /// reach back over a sequence breaker. Only the last `last_n` tokens are looked at; linear in their number.
    pub fn penalize(&mut self, pool: &mut Pool, dry: &Dry, history: &[TokenId]) {
        let history = &history[history.len() - history.len().min(dry.last_n)..];
        if dry.multiplier == 0.0 || history.len() <= dry.allowed_length {
            return;
        }
        let limit = self.tokens_since_breaker(history);
        if limit < dry.allowed_length.max(1) {
            return;
        }
        common_suffixes(history, &mut self.matches);
        self.longest.clear();
        // matches[i] is how many tokens ending at i equal the history's end; history[i + 1] followed them.
        for (n, next) in self.matches.iter().zip(&history[1..]) {
            let n = (*n).min(limit);
            if n >= dry.allowed_length.max(1) {
                let longest = self.longest.entry(*next).or_insert(0);
                *longest = n.max(*longest);
            }
        }
        let longest = &self.longest;
        pool.edit(longest.keys().copied(), |token, logit| {
            let over = (longest[&token] - dry.allowed_length) as f32;
            // base^over may exceed every number: f32::MAX keeps the logit's order among the penalized ones.
            logit - (dry.multiplier * dry.base.powf(over)).min(f32::MAX)
        });
    }

    /// How many tokens follow the last sequence breaker, the whole history's length if there is none.
    fn tokens_since_breaker(&self, history: &[TokenId]) -> usize {
        let ends = |end: &usize| {
            let breakers = self.breakers.get(&history[*end - 1]);
            breakers.is_some_and(|list| list.iter().any(|breaker| history[..*end].ends_with(breaker)))
        };
        let end = (1..=history.len()).rev().find(ends);
        history.len() - end.unwrap_or(0)
    }
}

/// Overwrites `out[i]`, `i < history.len() - 1`, with the number of tokens for which `history[..=i]` and `history` end
/// alike. This is the Z function of the reversed history. Source: Gusfield, "Algorithms on strings, trees, and
/// sequences", 1997, section 1.3.
fn common_suffixes(history: &[TokenId], out: &mut Vec<usize>) {
    let n = history.len();
    let at = |i: usize| history[n - 1 - i];
    out.clear();
    out.resize(n - 1, 0);
    let (mut left, mut right) = (0, 0);
    for i in 1..n {
        // out is stored by position in the history, so the reversed index j lies at n - 1 - j.
        let known = if i < right { out[n - 1 - (i - left).max(1)].min(right - i) } else { 0 };
        let mut len = if i == left { 0 } else { known };
        while i + len < n && at(len) == at(i + len) {
            len += 1;
        }
        out[n - 1 - i] = len;
        if i + len > right {
            (left, right) = (i, i + len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rng::Rng;
    use super::*;

    #[test]
    fn the_window_counts_its_tokens_however_the_history_grows() {
        let seed = 11;
        let mut rng = Rng::new(seed);
        let history: Vec<TokenId> = (0..500).map(|_| (rng.next_u64() % 7) as TokenId).collect();
        for last_n in [0, 1, 5, 64, usize::MAX] {
            let mut window = Window::default();
            let mut len = 0;
            while len < history.len() {
                len = history.len().min(len + 1 + (rng.next_u64() % 9) as usize);
                window.advance(&history[..len], last_n);
                let mut want: HashMap<TokenId, u32> = HashMap::new();
                history[..len].iter().rev().take(last_n).for_each(|token| *want.entry(*token).or_default() += 1);
                assert_eq!(window.counts, want, "seed {seed}, last_n {last_n}, {len} tokens");
            }
        }
    }

    #[test]
    fn common_suffixes_match_the_definition() {
        let seed = 5;
        let mut rng = Rng::new(seed);
        for n in (1..40).chain([300]) {
            let history: Vec<TokenId> = (0..n).map(|_| (rng.next_u64() % 2) as TokenId).collect();
            let mut got = Vec::new();
            common_suffixes(&history, &mut got);
            let want = (0..n - 1).map(|i| {
                let pairs = history[..=i].iter().rev().zip(history.iter().rev());
                pairs.take_while(|(a, b)| a == b).count()
            });
            assert_eq!(got, want.collect::<Vec<_>>(), "seed {seed}, {history:?}");
        }
    }

    #[test]
    fn a_breaker_ends_a_repetition() {
        let state = DryState::new(&Dry { breakers: vec![vec![9], vec![7, 8]], ..Dry::default() });
        let rows: &[(&[TokenId], usize)] =
            &[(&[1, 2, 3], 3), (&[1, 9, 3], 1), (&[9], 0), (&[7, 8, 1, 2], 2), (&[8, 7, 1], 3), (&[9, 7, 8], 0)];
        for (history, want) in rows {
            assert_eq!(state.tokens_since_breaker(history), *want, "{history:?}");
        }
    }
}
