//! How many tokens a step may have, so that it does not take too long: while it runs, no other sequence gets its next token
//! and no one can be cancelled. Measured, not guessed.

use std::time::Duration;

/// Budgets are multiples of this: kernels work on blocks of tokens.
const BLOCK: usize = 32;
/// Steps of fewer tokens say little about how long a token takes: weights are read once for all of them.
const MIN_MEASURED: usize = 2 * BLOCK;
/// The first step's budget; unknown machines are not asked for too much.
const FIRST: usize = 4 * BLOCK;

/// The budget of the next step.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    target: Duration,
    max_tokens: usize,
    budget_tokens: usize,
}

impl Pace {
    /// Steps shall take no longer than `target`, where one of [`MIN_MEASURED`] tokens does not, and have at most
    /// `max_tokens`.
    pub fn new(target: Duration, max_tokens: usize) -> Pace {
        Pace { target, max_tokens, budget_tokens: FIRST.min(max_tokens) }
    }

    /// Most tokens of the next step.
    pub fn budget_tokens(&self) -> usize {
        self.budget_tokens
    }

    /// Learns from a step.
    pub fn learn(&mut self, n_tok: usize, took: Duration) {
        if n_tok < MIN_MEASURED {
            return;
        }
        // The target at the speed of this step; at most twice the budget, since one fast step may be a mistake.
        let fits = n_tok as f64 * self.target.as_secs_f64() / took.as_secs_f64().max(1e-9);
        let next = fits.min(2.0 * self.budget_tokens as f64) as usize / BLOCK * BLOCK;
        self.budget_tokens = next.max(MIN_MEASURED).min(self.max_tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_follows_the_speed_of_steps() {
        let mut pace = Pace::new(Duration::from_millis(500), 512);
        let mut budgets = vec![pace.budget_tokens()];
        // Tokens of a step and milliseconds that it took.
        for (n_tok, took) in [(128, 10), (256, 20), (512, 40), (512, 2000), (1, 900), (128, 1000), (64, 9000), (64, 1)]
        {
            pace.learn(n_tok, Duration::from_millis(took));
            budgets.push(pace.budget_tokens());
        }
        assert_eq!(budgets, [128, 256, 512, 512, 128, 128, 64, 64, 128]);
        assert_eq!(Pace::new(Duration::from_millis(500), 8).budget_tokens(), 8);
    }
}
