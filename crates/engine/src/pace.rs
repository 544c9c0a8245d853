//! How many tokens a step may have. While it runs, no sequence gets its next token and no one can be cancelled.
//!
//! Where sequences generate, a step is to take no longer than the target of the time between two tokens, at the 95th
//! percentile: the budget is what fits by measure, less a margin that grows with each step that took longer and shrinks
//! with each that did not. Where none does, only the longer limit counts.

use std::time::Duration;

use crate::times::StepTimes;

/// The first step's budget; unknown machines are not asked for too much.
const FIRST: usize = 128;
/// Tokens of prompts that a step may have at least, so that prompts come to an end.
const LEAST: usize = 16;
/// A step with prompts may take this much longer than one without, where that alone takes more than the target: on slow
/// machines weights would be read for a handful of prompt tokens each time.
const SLOW_FACTOR: f64 = 2.0;
/// What a step over the target takes off the margin, and one within it gives back: at rest one step in twenty is over.
const OVER: f64 = 0.95;
const WITHIN: f64 = 1.002_703;
const LEAST_MARGIN: f64 = 0.25;

/// The budget of the next step.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    targets: Targets,
    max_tokens: usize,
    margin: f64,
}

/// How long steps may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Targets {
    /// Where sequences generate: the 95th percentile.
    pub token: Duration,
    /// Where none does.
    pub step: Duration,
}

impl Pace {
    /// Steps of at most `max_tokens`.
    pub fn new(targets: Targets, max_tokens: usize) -> Pace {
        Pace { targets, max_tokens, margin: 1.0 }
    }

    /// Most tokens of the next step, in which `n_decode` sequences generate.
    pub fn budget_tokens(&self, times: &StepTimes, n_decode: usize) -> usize {
        let least = (n_decode + LEAST).min(self.max_tokens);
        let seconds = match n_decode {
            0 => self.targets.step.as_secs_f64(),
            _ => self.target(times, n_decode) * self.margin,
        };
        times.fits(seconds, least, self.max_tokens).unwrap_or(FIRST.min(self.max_tokens))
    }

    /// Learns from a step of prompts in which `n_decode` sequences generated.
    pub fn learn(&mut self, times: &StepTimes, n_decode: usize, took: Duration) {
        if n_decode == 0 {
            return;
        }
        let is_over = took.as_secs_f64() > self.target(times, n_decode);
        self.margin = (self.margin * if is_over { OVER } else { WITHIN }).clamp(LEAST_MARGIN, 1.0);
    }

    fn target(&self, times: &StepTimes, n_decode: usize) -> f64 {
        let alone = times.seconds(n_decode).unwrap_or(0.0);
        self.targets.token.as_secs_f64().max(SLOW_FACTOR * alone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::Rng;
    use crate::times::MEAN;

    const TARGETS: Targets = Targets { token: Duration::from_millis(80), step: Duration::from_millis(500) };

    /// A machine: a step takes so many milliseconds, and more for each token, give or take a fifth.
    fn took(rng: &mut Rng, (fixed, each): (f64, f64), n_tok: usize) -> Duration {
        let noise = 0.8 + 0.4 * rng.next_unit();
        Duration::from_secs_f64((fixed + each * n_tok as f64) * noise / 1e3)
    }

    #[test]
    fn steps_keep_to_the_target_where_the_machine_allows_it() {
        // Machine, sequences that generate, milliseconds that 95 of 100 steps should take, and tokens that a step has.
        let rows = [
            ((10.0, 0.5), 4, 80.0, 80..140),
            ((1.0, 0.01), 4, 80.0, 512..513),
            ((60.0, 4.0), 2, 160.0, 18..30),
            ((0.0, 20.0), 4, 490.0, 20..21),
        ];
        for (seed, (machine, n_decode, limit, tokens)) in rows.into_iter().enumerate() {
            let mut rng = Rng::new(seed as u64);
            let (mut pace, mut times) = (Pace::new(TARGETS, 512), StepTimes::new(MEAN));
            let mut late = Vec::new();
            let mut sum = 0;
            for step in 0..4000 {
                let n_tok = if step % 4 == 0 { n_decode } else { pace.budget_tokens(&times, n_decode) };
                let took = took(&mut rng, machine, n_tok);
                times.learn(n_tok, took);
                if step % 4 != 0 {
                    pace.learn(&times, n_decode, took);
                }
                if step % 4 != 0 && step >= 1000 {
                    late.push(took.as_secs_f64() * 1e3 > limit);
                    sum += n_tok;
                }
            }
            let part = late.iter().filter(|late| **late).count() as f64 / late.len() as f64;
            assert!(part < 0.08, "{machine:?}: {part} of the steps are late");
            let mean = sum / late.len();
            assert!(tokens.contains(&mean), "{machine:?}: {mean} tokens a step");
        }
    }

    #[test]
    fn prompts_alone_keep_to_the_longer_limit() {
        let (pace, mut times) = (Pace::new(TARGETS, 512), StepTimes::new(MEAN));
        assert_eq!(pace.budget_tokens(&times, 0), 128);
        times.learn(128, Duration::from_millis(256));
        assert_eq!(pace.budget_tokens(&times, 0), 250);
        assert_eq!(Pace::new(TARGETS, 8).budget_tokens(&times, 0), 8);
    }
}
