//! How many tokens to draft, so that drafting pays.
//!
//! A draft of `k` tokens costs what a step of `k` more tokens takes longer, and what drafting itself takes. It brings
//! `a1 + a1 a2 + .. + a1 .. ak` tokens, if the `i`-th is accepted with probability `ai` given those before it. Both are
//! measured: the times by the engine, acceptance for each sequence and source, of lookups by how many tokens before
//! agree. The `k` is taken that gives the most tokens a second in all, and none where that is not clearly more than without.
//! What a lookup finds is compared with what comes also when it is not drafted; a model drafts two tokens from time to time,
//! to see whether that has changed. What a grammar forces is drafted as far as there is room: its tokens must be computed
//! in any case.
//!
//! A model knows how sure it is of each token: it drafts as long as one more is worth its time ([`Worth`]), which is what
//! all tokens so far gain a second.
//!
//! Which tokens come does not depend on drafts: each is sampled from the model's own logits, and a draft counts as far
//! as it agrees with that. This accepts a drafted token with the probability that the model gives it, which for drafts
//! that are not themselves random is the optimum of speculative sampling (Leviathan et al., arXiv:2211.17192).

use crate::lookup::{GRAM, Lookup};
use crate::times::StepTimes;

/// Most tokens of a draft by prompt lookup.
pub(crate) const MAX_LOOKUP: usize = 16;
/// Most tokens of a draft by a draft model.
pub(crate) const MAX_MODEL: usize = 15;
/// Tokens of a draft that is made to measure what steps with drafts take.
const PROBE: usize = 3;
/// Steps without a draft after which a model drafts some tokens to measure; twice as many after each that did not help.
const PROBE_PERIOD: u32 = 64;
const MAX_DOUBLINGS: u32 = 5;
/// Tokens of such a draft: the second one tells what drafting takes.
const AGAIN: usize = 2;
/// Drafting must promise this much more tokens a second.
const WORTH: f64 = 1.03;
/// Weight of a new observation of acceptance: of a sequence, of all that a model drafts for.
const WEIGHT: f64 = 0.1;
const WEIGHT_ALL: f64 = 0.02;
/// The acceptance of a model's drafts that is supposed at first.
const ACCEPT: f64 = 0.7;
/// How many tokens agree before a drafted one, at least, by class, and the acceptance that is supposed at first.
const AGREE: [(usize, f64); 5] = [(0, 0.4), (GRAM, 0.6), (6, 0.75), (12, 0.85), (24, 0.9)];
/// How sure a model is of a token, at least, by class, and the acceptance that is supposed at first.
const SURE: [(f32, f64); 6] = [(0.0, 0.4), (0.5, 0.6), (0.7, 0.75), (0.85, 0.88), (0.95, 0.95), (0.99, 0.99)];

/// Where a draft comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// What followed when so many tokens before were the same.
    Lookup(usize),
    Model,
    /// Tokens that the grammar forces.
    Forced,
}

/// Drafting for one sequence.
#[derive(Debug)]
pub(crate) struct Speculator {
    pub lookup: Lookup,
    /// What another token of the model's draft must bring.
    pub worth: Worth,
    /// By [`AGREE`].
    by_agreement: [f64; AGREE.len()],
    /// `None`: nothing was measured of this sequence.
    by_model: Option<f64>,
    n_without: u32,
    n_doubling: u32,
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
    /// Tokens a second that it promises, of all sequences.
    pub rate: f64,
}

/// No draft.
const NONE: Length = Length { n_tok: 0, rate: 0.0 };

impl Speculator {
    /// For a sequence of about `n_token` tokens.
    pub fn new(n_token: usize) -> Speculator {
        Speculator {
            lookup: Lookup::new(n_token),
            worth: Worth::default(),
            by_agreement: AGREE.map(|(_, accept)| accept),
            by_model: None,
            n_without: 0,
            n_doubling: 0,
        }
    }

    /// How many tokens of what was looked up to draft, at most `max`, where so many before them agree.
    pub fn looked_up(&self, agree: usize, costs: &Costs<'_>, max: usize) -> Length {
        best(|i| self.by_agreement[agreement(agree + i)], costs, max)
    }

    /// How many tokens a model is to draft, at most `max`: fewer if it is not sure of them. `accept`: the probability that
    /// a token is accepted, of other sequences.
    pub fn modelled(&mut self, accept: f64, costs: &Costs<'_>, max: usize) -> Length {
        let accept = *self.by_model.get_or_insert(accept);
        let best = best(|_| accept, costs, max);
        if best.n_tok > 0 {
            return best;
        }
        self.n_without += 1;
        if max == 0 || self.n_without < PROBE_PERIOD << self.n_doubling {
            return NONE;
        }
        (self.n_without, self.n_doubling) = (0, (self.n_doubling + 1).min(MAX_DOUBLINGS));
        Length { n_tok: AGAIN.min(max), ..best }
    }

    /// Notes that a model drafts as much as [`Speculator::modelled`] said, and returns how many tokens it may draft if it is
    /// sure of them, at most `max`.
    pub fn begin(&mut self, length: Length, costs: &Costs<'_>, max: usize) -> usize {
        if length.rate == 0.0 {
            self.worth = Worth::default();
            return length.n_tok;
        }
        (self.n_without, self.n_doubling) = (0, 0);
        let seconds = |n_tok| costs.times.tried(n_tok).unwrap_or(0.0);
        let column = (seconds(costs.n_tok + length.n_tok) - seconds(costs.n_tok)).max(0.0) / length.n_tok as f64;
        self.worth = Worth { draft: length.rate * (costs.each + column), verify: length.rate * column };
        (2 * length.n_tok).min(max)
    }

    /// The probability that a token which a model drafts is accepted.
    pub fn accept(&self) -> f64 {
        self.by_model.unwrap_or(ACCEPT)
    }

    /// Learns that of `n_draft` drafted tokens `n_accepted` were accepted.
    pub fn learn(&mut self, source: Source, n_draft: usize, n_accepted: usize) {
        for i in 0..n_draft.min(n_accepted + 1) {
            let accept = match source {
                Source::Lookup(agree) => &mut self.by_agreement[agreement(agree + i)],
                Source::Model => self.by_model.get_or_insert(ACCEPT),
                Source::Forced => return,
            };
            *accept += WEIGHT * (f64::from(u8::from(i < n_accepted)) - *accept);
        }
    }
}

/// How often tokens of which a model is so sure are accepted: a pair of models has one, since it says how they differ.
#[derive(Debug)]
pub(crate) struct Calibration {
    /// By [`SURE`].
    accept: [f64; SURE.len()],
    mean: f64,
}

impl Calibration {
    /// Nothing measured.
    pub fn new() -> Calibration {
        Calibration { accept: SURE.map(|(_, accept)| accept), mean: ACCEPT }
    }

    /// The probability that a token is accepted.
    pub fn accept(&self, sure: f32) -> f64 {
        self.accept[certainty(sure)]
    }

    /// The same of all tokens together.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// Learns whether a token was accepted.
    pub fn learn(&mut self, sure: f32, is_accepted: bool) {
        let hit = f64::from(u8::from(is_accepted));
        let accept = &mut self.accept[certainty(sure)];
        *accept += WEIGHT * (hit - *accept);
        self.mean += WEIGHT_ALL * (hit - self.mean);
    }
}

/// The class of [`AGREE`].
fn agreement(agree: usize) -> usize {
    AGREE.iter().rposition(|(least, _)| *least <= agree).unwrap_or(0)
}

/// The class of [`SURE`].
fn certainty(sure: f32) -> usize {
    SURE.iter().rposition(|(least, _)| *least <= sure).unwrap_or(0)
}

/// The most profitable length, where the `i`-th token is accepted with probability `accept(i)` after those before it.
fn best(accept: impl Fn(usize) -> f64, costs: &Costs<'_>, max: usize) -> Length {
    let Some(plain) = costs.times.tried(costs.n_tok) else { return NONE };
    let n_decode = costs.n_decode as f64;
    if !costs.times.knows_beyond(costs.n_tok) {
        return Length { n_tok: PROBE.min(max), rate: 0.0 };
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
            best = Length { n_tok: k, rate };
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::times::MEAN;

    /// Times of these numbers of tokens and of all between.
    fn times(rows: &[(usize, u64)]) -> StepTimes {
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
    fn drafts_that_fail_stop_and_are_tried_again() {
        let times = times(&[(1, 100), (17, 400)]);
        let costs = Costs { times: &times, n_decode: 1, n_tok: 1, each: 0.0, rewinds: false };
        let mut speculator = Speculator::new(0);
        let mut lengths = Vec::new();
        for _ in 0..200 {
            let length = speculator.modelled(0.6, &costs, 16);
            let n = speculator.begin(length, &costs, 16);
            speculator.learn(Source::Model, n, 0);
            lengths.push(n);
        }
        let tried = lengths.iter().filter(|n| **n > 0).count();
        assert!((3..25).contains(&tried), "{lengths:?}");
        for _ in 0..20_000 {
            let length = speculator.modelled(0.6, &costs, 16);
            let n = speculator.begin(length, &costs, 16);
            speculator.learn(Source::Model, n, n);
        }
        assert!(speculator.modelled(0.6, &costs, 16).n_tok > 8);
    }

    #[test]
    fn unknown_costs_are_measured() {
        for (times, want) in [(times(&[]), 0), (times(&[(1, 9)]), PROBE)] {
            let costs = Costs { times: &times, n_decode: 1, n_tok: 1, each: 0.0, rewinds: false };
            assert_eq!(Speculator::new(0).looked_up(8, &costs, 16).n_tok, want);
        }
    }

    #[test]
    fn the_longer_a_copy_the_longer_its_draft() {
        let times = times(&[(1, 100), (17, 400)]);
        let costs = Costs { times: &times, n_decode: 1, n_tok: 1, each: 0.0, rewinds: false };
        let mut speculator = Speculator::new(0);
        for _ in 0..100 {
            // Copies go on for as long as they are long already.
            speculator.learn(Source::Lookup(3), 16, 0);
            speculator.learn(Source::Lookup(40), 16, 16);
        }
        let lengths = [3, 40].map(|agree| speculator.looked_up(agree, &costs, 16).n_tok);
        assert_eq!(lengths, [0, 16]);
    }

    #[test]
    fn a_sure_token_is_worth_more() {
        let mut calibration = Calibration::new();
        for i in 0..400 {
            calibration.learn(0.3, i % 4 == 0);
            calibration.learn(1.0, i % 50 != 0);
        }
        let [unsure, sure] = [0.3, 1.0].map(|sure| calibration.accept(sure));
        assert!((0.1..0.5).contains(&unsure) && sure > 0.9, "{unsure} {sure}");
        // What a token must bring is what the whole draft brings a second, for its own time.
        let times = times(&[(1, 100), (5, 140), (17, 260)]);
        let costs = Costs { times: &times, n_decode: 1, n_tok: 1, each: 0.02, rewinds: false };
        let mut speculator = Speculator::new(0);
        let length = speculator.modelled(0.6, &costs, 16);
        assert!(speculator.begin(length, &costs, 16) >= length.n_tok);
        let Worth { draft, verify } = speculator.worth;
        assert!(
            (draft - length.rate * 0.03).abs() < 1e-3 && (verify - length.rate * 0.01).abs() < 1e-3,
            "{draft} {verify}"
        );
    }
}
