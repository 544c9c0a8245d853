//! How many tokens to draft, so that drafting pays.
//!
//! A draft of `k` tokens costs what a step of `k` more tokens takes longer, and what drafting itself takes. It brings
//! `a + a^2 + .. + a^k` tokens, if each is accepted with probability `a` given those before it. Both are measured: the
//! times by the engine, `a` for each sequence and source. The `k` is taken that gives the most tokens a second in all, and
//! none where that is not clearly more than without. What a lookup finds is compared with what comes also when it is not
//! drafted; a model drafts a token from time to time, to see whether that has changed. What a grammar forces is drafted
//! as far as there is room: its tokens must be computed in any case.
//!
//! Which tokens come does not depend on drafts: each is sampled from the model's own logits, and a draft counts as far
//! as it agrees with that. This accepts a drafted token with the probability that the model gives it, which for drafts
//! that are not themselves random is the optimum of speculative sampling (Leviathan et al., arXiv:2211.17192).

use crate::lookup::Lookup;
use crate::times::StepTimes;

/// Most tokens of a draft by prompt lookup.
pub(crate) const MAX_LOOKUP: usize = 16;
/// Most tokens of a draft by a draft model.
pub(crate) const MAX_MODEL: usize = 8;
/// Tokens of a draft that is made to measure what steps with drafts take.
const PROBE: usize = 4;
/// Steps without a draft after which a model drafts one token to measure; twice as many after each that did not help.
const PROBE_PERIOD: u32 = 64;
const MAX_DOUBLINGS: u32 = 5;
/// Drafting must promise this much more tokens a second.
const WORTH: f64 = 1.03;
/// Weight of a new observation of acceptance.
const WEIGHT: f64 = 0.1;

/// Where a draft comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Lookup,
    Model,
    /// Tokens that the grammar forces.
    Forced,
}

/// How drafts from one source did.
#[derive(Debug, Clone, Copy)]
struct Record {
    accept: f64,
    n_without: u32,
    n_doubling: u32,
}

/// Drafting for one sequence.
#[derive(Debug)]
pub(crate) struct Speculator {
    pub lookup: Lookup,
    by_lookup: Record,
    by_model: Record,
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

impl Speculator {
    /// For a sequence of about `n_token` tokens.
    pub fn new(n_token: usize) -> Speculator {
        let record = |accept| Record { accept, n_without: 0, n_doubling: 0 };
        Speculator { lookup: Lookup::new(n_token), by_lookup: record(0.7), by_model: record(0.6) }
    }

    /// How many tokens to draft, at most `max`.
    pub fn length(&mut self, source: Source, costs: &Costs<'_>, max: usize) -> usize {
        let Some(record) = self.record(source) else { return max };
        let best = best(record.accept, costs, max);
        if best > 0 {
            (record.n_without, record.n_doubling) = (0, 0);
            return best;
        }
        record.n_without += 1;
        // What a lookup finds is compared with what comes, whether it is drafted or not.
        if source == Source::Lookup || record.n_without < PROBE_PERIOD << record.n_doubling {
            return 0;
        }
        (record.n_without, record.n_doubling) = (0, (record.n_doubling + 1).min(MAX_DOUBLINGS));
        1.min(max)
    }

    /// Learns that of `n_draft` drafted tokens `n_accepted` were accepted.
    pub fn learn(&mut self, source: Source, n_draft: usize, n_accepted: usize) {
        let Some(record) = self.record(source) else { return };
        for i in 0..n_draft.min(n_accepted + 1) {
            let hit = f64::from(u8::from(i < n_accepted));
            record.accept += WEIGHT * (hit - record.accept);
        }
    }

    fn record(&mut self, source: Source) -> Option<&mut Record> {
        match source {
            Source::Lookup => Some(&mut self.by_lookup),
            Source::Model => Some(&mut self.by_model),
            Source::Forced => None,
        }
    }
}

/// The most profitable length; 0 if none is.
fn best(accept: f64, costs: &Costs<'_>, max: usize) -> usize {
    let Some(plain) = costs.times.seconds(costs.n_tok) else { return 0 };
    if !costs.times.knows_beyond(costs.n_tok) {
        return PROBE.min(max);
    }
    let n_decode = costs.n_decode as f64;
    let (mut best, mut most) = (0, WORTH * n_decode / plain);
    let (mut power, mut tokens) = (1.0, n_decode);
    for k in 1..=max {
        power *= accept;
        tokens += power;
        let Some(mut seconds) = costs.times.seconds(costs.n_tok + k) else { break };
        let mut got = tokens;
        if costs.rewinds {
            let rejected = 1.0 - power;
            got += rejected * n_decode;
            seconds += rejected * costs.times.seconds(costs.n_tok + k.div_ceil(2)).unwrap_or(seconds);
        }
        let rate = got / (seconds + costs.each * k as f64);
        if rate > most {
            (best, most) = (k, rate);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn times(rows: &[(usize, u64)]) -> StepTimes {
        let mut times = StepTimes::new();
        rows.iter().for_each(|(n_tok, ms)| times.learn(*n_tok, Duration::from_millis(*ms)));
        times
    }

    #[test]
    fn a_draft_is_as_long_as_it_pays() {
        // Weights are read once: 16 tokens take little longer than one.
        let cheap = times(&[(1, 100), (17, 110)]);
        // Each token costs the same.
        let dear = times(&[(1, 100), (17, 1700)]);
        // Times, acceptance, milliseconds to draft a token, expected length.
        let rows = [
            (&cheap, 0.95, 0.0, 16..17),
            (&cheap, 0.5, 0.0, 5..8),
            (&cheap, 0.02, 0.0, 0..1),
            (&cheap, 0.8, 20.0, 2..6),
            (&cheap, 0.3, 60.0, 0..1),
            (&dear, 0.9, 0.0, 0..1),
        ];
        for (times, accept, each, want) in rows {
            let costs = Costs { times, n_decode: 1, n_tok: 1, each: each / 1e3, rewinds: false };
            let found = best(accept, &costs, 16);
            assert!(want.contains(&found), "acceptance {accept}, {each} ms: {found} and not {want:?}");
        }
        // Where a state must be taken back, drafts pay that are mostly right.
        for (accept, want) in [(0.95, 8..17), (0.5, 2..6), (0.01, 0..1)] {
            let costs = Costs { times: &cheap, n_decode: 1, n_tok: 1, each: 0.0, rewinds: true };
            let found = best(accept, &costs, 16);
            assert!(want.contains(&found), "acceptance {accept}: {found} and not {want:?}");
        }
        // Eight sequences share the cost of the weights already.
        let full = times(&[(8, 100), (16, 150), (32, 250)]);
        let costs = Costs { times: &full, n_decode: 8, n_tok: 8, each: 0.0, rewinds: false };
        assert_eq!(best(0.4, &costs, 16), 0);
    }

    #[test]
    fn drafts_that_fail_stop_and_are_tried_again() {
        let source = Source::Model;
        let times = times(&[(1, 100), (17, 400)]);
        let costs = Costs { times: &times, n_decode: 1, n_tok: 1, each: 0.0, rewinds: false };
        let mut speculator = Speculator::new(0);
        let mut lengths = Vec::new();
        for _ in 0..200 {
            let n = speculator.length(source, &costs, 16);
            speculator.learn(source, n, 0);
            lengths.push(n);
        }
        let tried = lengths.iter().filter(|n| **n > 0).count();
        assert!((3..25).contains(&tried), "{lengths:?}");
        for _ in 0..20_000 {
            let n = speculator.length(source, &costs, 16);
            speculator.learn(source, n, n);
        }
        assert!(speculator.length(source, &costs, 16) > 8);
    }

    #[test]
    fn unknown_costs_are_measured() {
        for (times, want) in [(times(&[]), 0), (times(&[(1, 9)]), PROBE)] {
            let costs = Costs { times: &times, n_decode: 1, n_tok: 1, each: 0.0, rewinds: false };
            assert_eq!(Speculator::new(0).length(Source::Lookup, &costs, 16), want);
        }
    }
}
