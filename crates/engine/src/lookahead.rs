//! Lookahead: guesses at what comes further on, which each step makes better, and the runs of tokens that come of them.
//!
//! ```text
//!              +-- b --- c                 runs that begin with the last token, to be verified
//!              +-- d --- e
//! last token --+-- x1 -- x2 -- .. -- x5    guesses at the next tokens
//!                  |     |           |
//!                  y1    y2          y5    and at what comes after each of them
//! ```
//! All of it is one tree, a row of the batch. The step says what comes after each `y`: a run of three tokens, which is kept by
//! its first. Then what stood second stands first, and what the step said stands second. In a step with few tokens, where
//! weights are what takes time, such a row costs little more than a token.
//! Source: Fu et al., arXiv:2402.02057, with N = 3, W = 5 and G = 3.

use crate::TokenId;

/// Guesses, side by side.
const WIDE: usize = 5;
/// Runs of a first token that are kept and verified.
const N_RUN: usize = 3;
/// First tokens of which runs are kept, a power of two.
const N_SLOT: usize = 1 << 10;
/// Most tokens of a row beside the last one.
pub(crate) const N_TOK: usize = 2 * (N_RUN + WIDE);
/// Tokens that are accepted a step, as is supposed at first.
const ACCEPTED: f64 = 0.5;
/// Weight of a step's. Guesses must become better before runs come of them.
const WEIGHT: f64 = 0.05;

/// The guesses of one sequence, and its runs.
#[derive(Debug)]
pub(crate) struct Lookahead {
    /// By a hash of the first token.
    slots: Box<[Slot]>,
    guesses: [[TokenId; WIDE]; 2],
    /// Where the second guesses stand in the row that was made last.
    second: usize,
    /// Tokens that are accepted a step.
    pub accepted: f64,
}

/// The runs of a first token, the latest first.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    first: TokenId,
    runs: [[TokenId; 2]; N_RUN],
    n_run: usize,
}

impl Lookahead {
    /// First guesses are tokens of the sequence, which has some.
    pub fn new(tokens: &[TokenId]) -> Lookahead {
        let some = |level| std::array::from_fn(|i| tokens[(7 * i + level) % tokens.len()]);
        let slots = vec![Slot::default(); N_SLOT].into();
        Lookahead { slots, guesses: [some(0), some(1)], second: 0, accepted: ACCEPTED }
    }

    /// Overwrites `out` with a tree after the token `last`, and `parents` with the token before each, as index in the row that
    /// begins with `last`.
    pub fn grow(&mut self, last: TokenId, out: &mut Vec<TokenId>, parents: &mut Vec<i32>) {
        out.clear();
        parents.clear();
        let slot = &self.slots[place(last)];
        for run in slot.runs.iter().take(if slot.first == last { slot.n_run } else { 0 }) {
            let mut parent = 0;
            for token in run {
                // Runs that begin alike share tokens.
                let known = (0..out.len()).find(|i| parents[*i] == parent && out[*i] == *token);
                parent = known.unwrap_or_else(|| push((out, parents), parent, *token)) as i32 + 1;
            }
        }
        let first = out.len() as i32 + 1;
        for (i, guess) in (0..).zip(self.guesses[0]) {
            push((out, parents), if i == 0 { 0 } else { first + i - 1 }, guess);
        }
        self.second = out.len() + 1;
        for (i, guess) in (0..).zip(self.guesses[1]) {
            push((out, parents), first + i, guess);
        }
    }

    /// Learns from a row that [`Lookahead::grow`] made, of which `n_tok` tokens were computed and `n_accepted` came; `said` says
    /// what is likeliest after its `i`-th.
    pub fn learn(&mut self, n_tok: usize, n_accepted: usize, mut said: impl FnMut(usize) -> TokenId) {
        self.accepted += WEIGHT * (n_accepted as f64 - self.accepted);
        // A row that did not fit was cut.
        if self.second + WIDE > n_tok {
            return;
        }
        let said: [TokenId; WIDE] = std::array::from_fn(|i| said(self.second + i));
        for (i, third) in said.into_iter().enumerate() {
            self.keep(self.guesses[0][i], [self.guesses[1][i], third]);
        }
        self.guesses = [self.guesses[1], said];
    }

    fn keep(&mut self, first: TokenId, run: [TokenId; 2]) {
        let slot = &mut self.slots[place(first)];
        if slot.first != first {
            *slot = Slot { first, ..Slot::default() };
        }
        let at = slot.runs[..slot.n_run].iter().position(|known| *known == run);
        let at = at.unwrap_or_else(|| {
            slot.n_run = (slot.n_run + 1).min(N_RUN);
            slot.n_run - 1
        });
        slot.runs[at] = run;
        slot.runs[..=at].rotate_right(1);
    }
}

/// Appends a token, and returns its index.
fn push((out, parents): (&mut Vec<TokenId>, &mut Vec<i32>), parent: i32, token: TokenId) -> usize {
    out.push(token);
    parents.push(parent);
    out.len() - 1
}

fn place(token: TokenId) -> usize {
    (u64::from(token).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize % N_SLOT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_guesses_gave_are_verified_where_they_begin() {
        let tokens: Vec<TokenId> = (0..40).collect();
        let mut lookahead = Lookahead::new(&tokens);
        let (mut out, mut parents) = (Vec::new(), Vec::new());
        lookahead.grow(39, &mut out, &mut parents);
        assert_eq!(out, [0, 7, 14, 21, 28, 1, 8, 15, 22, 29]);
        assert_eq!(parents, [0, 1, 2, 3, 4, 1, 2, 3, 4, 5]);
        // After each token comes the next one: 2 after the guess 1, which stands as sixth in the row.
        let after = |row: &[TokenId], i: usize| row[i - 1] + 1;
        lookahead.learn(11, 0, |i| after(&out, i));
        lookahead.grow(0, &mut out, &mut parents);
        assert_eq!(out, [1, 2, 1, 8, 15, 22, 29, 2, 9, 16, 23, 30]);
        assert_eq!(parents, [0, 1, 0, 3, 4, 5, 6, 3, 4, 5, 6, 7]);
        // A row that was cut teaches nothing but that nothing was accepted.
        lookahead.learn(5, 0, |_| unreachable!("it was not computed"));
        assert!(lookahead.accepted < ACCEPTED);
    }

    #[test]
    fn the_latest_runs_are_kept_and_those_that_begin_alike_share_tokens() {
        let mut lookahead = Lookahead::new(&[1]);
        [[5, 6], [7, 8], [5, 9], [5, 6], [3, 4]].into_iter().for_each(|run| lookahead.keep(2, run));
        let (mut out, mut parents) = (Vec::new(), Vec::new());
        lookahead.grow(2, &mut out, &mut parents);
        assert_eq!((&out[..5], &parents[..5]), (&[3, 4, 5, 6, 9][..], &[0, 1, 0, 3, 3][..]));
        assert!(out.len() <= N_TOK && out.len() == parents.len());
        // Another token that falls into the same slot takes it.
        let other = (3..).find(|token| place(*token) == place(2)).expect("there are fewer slots than tokens");
        lookahead.keep(other, [1, 1]);
        lookahead.grow(2, &mut out, &mut parents);
        assert_eq!(out.len(), 2 * WIDE);
    }
}
