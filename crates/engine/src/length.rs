//! How long a draft pays: what its tokens cost, and what they bring where each is accepted with some probability.

use crate::times::StepTimes;

/// Tokens of a draft that is made to measure what steps with drafts take.
pub(crate) const PROBE: usize = 3;
/// Drafting must promise this much more tokens a second.
const WORTH: f64 = 1.03;

/// What a draft costs and brings a sequence, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Prices {
    /// To draft a token.
    pub draft: f64,
    /// To verify one.
    pub verify: f64,
    /// An accepted one saves this much.
    pub step: f64,
}

/// What a step costs.
pub(crate) struct Costs<'a> {
    /// Steps that only generate.
    pub times: &'a StepTimes,
    /// Sequences that generate.
    pub n_decode: usize,
    /// Tokens of the step so far: one a sequence, and drafts of others.
    pub n_tok: usize,
    /// Seconds for drafting a token.
    pub each: f64,
    /// Whether after a rejected token a step goes to computing those before it again, and gives one more.
    pub rewinds: bool,
}

impl Costs<'_> {
    /// Of a draft of `n_tok` tokens.
    pub fn prices(&self, n_tok: usize) -> Prices {
        let seconds = |n_tok| self.times.tried(n_tok).unwrap_or(0.0);
        let verify = (seconds(self.n_tok + n_tok) - seconds(self.n_tok)).max(0.0) / n_tok as f64;
        Prices { draft: self.each, verify, step: self.step() }
    }

    /// Seconds of a step without drafts, for one sequence.
    pub fn step(&self) -> f64 {
        self.times.tried(self.n_decode).unwrap_or(0.0) / self.n_decode.max(1) as f64
    }
}

impl Prices {
    /// Tokens of a draft that so many seconds pay for.
    pub fn covered(&self, seconds: f64) -> usize {
        (seconds / (self.draft + self.verify)).max(0.0) as usize
    }
}

/// What a token of a draft must bring, in tokens that are accepted, to be worth its time.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Worth {
    /// To be drafted and verified.
    pub draft: f64,
    /// To be verified, once it is drafted.
    pub verify: f64,
}

/// The length of a draft.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Length {
    pub n_tok: usize,
    /// Tokens a second that it promises, of all sequences; 0 where it is made to measure what steps take.
    pub rate: f64,
    pub prices: Prices,
    /// Tokens that the account covers.
    pub n_covered: usize,
}

/// No draft.
pub(crate) const NONE: Length =
    Length { n_tok: 0, rate: 0.0, prices: Prices { draft: 0.0, verify: 0.0, step: 0.0 }, n_covered: 0 };

/// The most profitable length, where the `i`-th token is accepted with probability `accept(i)` after those before it.
pub(crate) fn best(accept: impl Fn(usize) -> f64, costs: &Costs<'_>, max: usize) -> Length {
    let Some(plain) = costs.times.tried(costs.n_tok) else { return NONE };
    let n_decode = costs.n_decode as f64;
    if !costs.times.knows_beyond(costs.n_tok) {
        return Length { n_tok: PROBE.min(max), ..NONE };
    }
    let (mut best, mut most) = (NONE, WORTH * n_decode / plain);
    let (mut power, mut tokens) = (1.0, n_decode);
    for k in 1..=max {
        power *= accept(k - 1);
        tokens += power;
        let Some(mut seconds) = costs.times.tried(costs.n_tok + k) else { break };
        let mut got = tokens;
        if costs.rewinds {
            let rejected = 1.0 - power;
            got += rejected * n_decode;
            seconds += rejected * costs.times.tried(costs.n_tok + k.div_ceil(2)).unwrap_or(seconds);
        }
        let rate = got / (seconds + costs.each * k as f64);
        if rate > most {
            most = rate;
            best = Length { n_tok: k, rate, ..NONE };
        }
    }
    if best.n_tok > 0 { Length { prices: costs.prices(best.n_tok), ..best } } else { best }
}

/// What guesses of `n_tok` tokens promise, of which so many are accepted a step; none where that is not clearly more than without.
pub(crate) fn guessed(n_tok: usize, accepted: f64, costs: &Costs<'_>) -> Length {
    let seconds = |n_tok| costs.times.tried(n_tok).filter(|seconds| *seconds > 0.0);
    let (Some(plain), Some(longer)) = (seconds(costs.n_tok), seconds(costs.n_tok + n_tok)) else { return NONE };
    let (n_decode, rate) = (costs.n_decode as f64, (costs.n_decode as f64 + accepted) / longer);
    if !costs.times.knows_beyond(costs.n_tok) || rate <= WORTH * n_decode / plain {
        return NONE;
    }
    let prices = costs.prices(n_tok);
    Length { n_tok, rate, prices, ..NONE }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::times::{Least, MEAN, UNDISTURBED};

    /// Times of these numbers of tokens and of all between.
    pub(crate) fn times(rows: &[(usize, u64)]) -> StepTimes {
        let mut times = StepTimes::new(MEAN);
        rows.iter().for_each(|(n_tok, ms)| times.learn(*n_tok, Duration::from_millis(*ms)));
        let mut all = StepTimes::new(MEAN);
        for n_tok in rows.first().map_or(1, |row| row.0)..=rows.last().map_or(0, |row| row.0) {
            all.learn(n_tok, Duration::from_secs_f64(times.seconds(n_tok).expect("measured")));
        }
        all
    }

    #[test]
    fn a_draft_is_as_long_as_it_pays() {
        // Weights are read once: 16 tokens take little longer than one.
        let cheap = times(&[(1, 100), (17, 110)]);
        // Each token costs the same.
        let dear = times(&[(1, 100), (17, 1700)]);
        // Times, acceptance, milliseconds to draft a token, expected length.
        let rows = [
            (&cheap, 0.95, 0.0, 12..17),
            (&cheap, 0.5, 0.0, 5..8),
            (&cheap, 0.02, 0.0, 0..1),
            (&cheap, 0.8, 20.0, 2..6),
            (&cheap, 0.3, 60.0, 0..1),
            (&dear, 0.9, 0.0, 0..1),
        ];
        for (times, accept, each, want) in rows {
            let costs = Costs { times, n_decode: 1, n_tok: 1, each: each / 1e3, rewinds: false };
            let found = best(|_| accept, &costs, 16).n_tok;
            assert!(want.contains(&found), "acceptance {accept}, {each} ms: {found} and not {want:?}");
        }
        // Where a state must be taken back, drafts pay that are mostly right.
        for (accept, want) in [(0.95, 8..17), (0.5, 2..6), (0.01, 0..1)] {
            let costs = Costs { times: &cheap, n_decode: 1, n_tok: 1, each: 0.0, rewinds: true };
            let found = best(|_| accept, &costs, 16).n_tok;
            assert!(want.contains(&found), "acceptance {accept}: {found} and not {want:?}");
        }
        // Eight sequences share the cost of the weights already.
        let full = times(&[(8, 100), (16, 150), (32, 250)]);
        let costs = Costs { times: &full, n_decode: 8, n_tok: 8, each: 0.0, rewinds: false };
        assert_eq!(best(|_| 0.4, &costs, 16), NONE);
    }

    #[test]
    fn steps_that_another_program_disturbs_end_no_drafts() {
        let us = Duration::from_micros;
        let (mut times, mut pass) = (StepTimes::new(UNDISTURBED), Least::default());
        for _ in 0..20 {
            (1..=4).for_each(|n| times.learn(n, us(850 + 150 * n as u64)));
            pass.learn(us(120));
        }
        (2..=4).for_each(|n| times.learn(n, us(11_000)));
        (0..2).for_each(|_| pass.learn(us(10_000)));
        let costs = Costs { times: &times, n_decode: 1, n_tok: 1, each: pass.seconds, rewinds: false };
        let length = best(|_| 0.8, &costs, 8);
        assert!(length.n_tok > 0, "{times:?} {pass:?}");
    }
}
