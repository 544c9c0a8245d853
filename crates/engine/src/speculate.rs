//! How many tokens to draft, so that drafting pays.
//!
//! A draft of `k` tokens costs what a step of `k` more tokens takes longer, and what drafting itself takes. It brings
//! `a1 + a1 a2 + .. + a1 .. ak` tokens, if the `i`-th is accepted with probability `ai` given those before it. Both are
//! measured: the times by the engine, acceptance for each sequence and source, of lookups by how many tokens before
//! agree. The `k` is taken that gives the most tokens a second in all, and none where that is not clearly more than without.
//! What a lookup finds is compared with what comes also when it is not drafted. What a grammar forces is drafted as far as
//! there is room: its tokens must be computed in any case.
//!
//! Drafts are paid from an account ([`Account`]), which bounds what they can cost a sequence. Where a model's drafts stopped
//! to pay, two tokens are drafted from time to time, to see whether that has changed.
//!
//! A model knows how sure it is of each token: it drafts as long as one more is worth its time ([`Worth`]), which is what
//! all tokens so far gain a second.
//!
//! Which tokens come does not depend on drafts: each is sampled from the model's own logits, and a draft counts as far
//! as it agrees with that. This accepts a drafted token with the probability that the model gives it, which for drafts
//! that are not themselves random is the optimum of speculative sampling (Leviathan et al., arXiv:2211.17192).

use crate::TokenId;
use crate::accept::{AGREE, Accept, Bias, Kind, OTHER, Others, agreement};
use crate::account::{Account, By};
use crate::length::{Costs, Length, NONE, Prices, Worth, best, guessed};
use crate::lookahead::{self, Lookahead};
use crate::lookup::Lookup;

/// Most tokens of a draft by prompt lookup.
pub(crate) const MAX_LOOKUP: usize = 16;
/// Most tokens of a draft by a draft model.
pub(crate) const MAX_MODEL: usize = 15;
/// Steps without a draft after which a model drafts some tokens to measure; twice as many after each that did not help.
const PROBE_PERIOD: u32 = 64;
const MAX_DOUBLINGS: u32 = 5;
/// Tokens of such a draft: the second one tells what drafting takes.
const AGAIN: usize = 2;
/// Windows of tokens that a model reads of a sequence before its drafts have saved anything, at most.
const FEW_WINDOWS: f64 = 3.0;

/// Where a draft comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// What followed when so many tokens before were the same.
    Lookup(usize),
    Model,
    /// Tokens that the grammar forces.
    Forced,
    /// A tree of guesses.
    Lookahead,
}

/// Drafting for one sequence.
#[derive(Debug)]
pub(crate) struct Speculator {
    pub lookup: Lookup,
    /// `None` before guesses were asked for.
    lookahead: Option<Lookahead>,
    /// What another token of the model's draft must bring.
    pub worth: Worth,
    /// Of lookups, by [`AGREE`].
    by_agreement: [Accept; AGREE.len()],
    /// Of other continuations, where the one found first was wrong.
    by_other: Accept,
    /// `None`: nothing was measured of this sequence.
    by_model: Option<Accept>,
    /// Of a model's drafts.
    pub bias: Bias,
    pub account: Account,
    /// Of the draft that is being made.
    prices: Prices,
    n_without: u32,
    n_doubling: u32,
    /// What a model reads of the sequence before it drafts.
    pub reads: Extent,
}

/// What a model reads of a sequence before it drafts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Extent {
    /// What comes after what it has read.
    #[default]
    Rest,
    /// The last tokens only.
    Window,
    /// All of it, also what was left out before.
    Whole,
}

/// What is known of a model's drafts before they are made for a sequence.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair {
    /// The probability that a token is accepted, of other sequences.
    pub accept: f64,
    /// Seconds to read what the model has not read of the sequence.
    pub rest_seconds: f64,
    /// Seconds to read the last tokens in place of that, where it is many more.
    pub window_seconds: Option<f64>,
    /// Seconds to read all of it, where only the last tokens were read before.
    pub whole_seconds: Option<f64>,
}

impl Speculator {
    /// For a sequence of about `n_token` tokens, after what others showed.
    pub fn new(n_token: usize, kind: Kind, others: &Others) -> Speculator {
        Speculator {
            lookup: Lookup::new(n_token),
            lookahead: None,
            worth: Worth::default(),
            by_agreement: others.lookups(kind),
            by_other: Accept::supposed(OTHER),
            by_model: None,
            bias: Bias::default(),
            account: Account::new(others.start(kind)),
            prices: Prices::default(),
            n_without: 0,
            n_doubling: 0,
            reads: Extent::Rest,
        }
    }

    /// A step goes by.
    pub fn step(&mut self, costs: &Costs<'_>) {
        self.account.step(costs.step());
    }

    /// How many tokens of what was looked up to draft, at most `max`, where so many before them agree.
    pub fn looked_up(&self, agree: usize, costs: &Costs<'_>, max: usize) -> Length {
        let best = best(|i| self.by_agreement[agreement(agree + i)].mean, costs, max);
        self.covered(best, self.account.covers())
    }

    /// How many tokens of another continuation, at most `max`, are worth a place beside a looked up draft of this length.
    pub fn branched(&self, agree: usize, length: &Length, max: usize) -> usize {
        let worth = length.rate * length.prices.verify;
        let accept = |i| self.by_agreement[agreement(agree + i)].mean;
        let mut power = (1.0 - accept(0)) * self.by_other.mean;
        let max = if length.rate > 0.0 { max.min(length.n_covered - length.n_tok) } else { 0 };
        let is_worth = |n: &usize| {
            let is_worth = power >= worth;
            power *= accept(*n);
            is_worth
        };
        (1..=max).take_while(is_worth).count()
    }

    /// How many tokens a model is to draft, at most `max`: fewer if it is not sure of them. Called once a step.
    pub fn modelled(&mut self, pair: &Pair, costs: &Costs<'_>, max: usize) -> Length {
        let accept = self.by_model.get_or_insert(Accept::supposed(pair.accept)).mean;
        let best = best(|_| accept, costs, max);
        let (reads, seconds) = self.extent(pair, &costs.prices(1));
        self.reads = reads;
        let covered = self.account.covers() - seconds;
        let length = self.covered(best, covered);
        if length.n_tok > 0 {
            return length;
        }
        self.n_without += 1;
        let prices = costs.prices(AGAIN);
        let n_covered = prices.covered(covered);
        let waits = self.n_without < PROBE_PERIOD << self.n_doubling;
        if best.n_tok > 0 || n_covered < AGAIN || max == 0 || waits || prices.step == 0.0 {
            return NONE;
        }
        (self.n_without, self.n_doubling) = (0, (self.n_doubling + 1).min(MAX_DOUBLINGS));
        Length { n_tok: AGAIN.min(max), rate: 0.0, prices, n_covered }
    }

    /// What a model is to read before it drafts, and the seconds that it takes. Many windows are read where its drafts have saved more
    /// than that already: what it knows of the last tokens alone shows whether they agree.
    fn extent(&self, pair: &Pair, prices: &Prices) -> (Extent, f64) {
        let (covers, saved) = (self.account.covers() - prices.draft - prices.verify, self.account.saved_by_model());
        let is_worth = |seconds: &f64| covers >= *seconds && saved > *seconds;
        if let Some(whole) = pair.whole_seconds.filter(is_worth) {
            return (Extent::Whole, whole);
        }
        let rest = pair.rest_seconds;
        let reads_few = |window: f64| covers >= rest && window > 0.0 && rest <= FEW_WINDOWS * window;
        match pair.window_seconds {
            Some(window) if !is_worth(&rest) && !reads_few(window) => (Extent::Window, window),
            _ => (Extent::Rest, rest),
        }
    }

    /// Whether guesses are worth a step after `tokens`; made at most once a step, where nothing else is drafted.
    pub fn guessed(&mut self, tokens: &[TokenId], costs: &Costs<'_>) -> Option<&mut Lookahead> {
        let lookahead = self.lookahead.get_or_insert_with(|| Lookahead::new(tokens));
        let length = guessed(lookahead::N_TOK, lookahead.accepted, costs);
        let is_covered = length.prices.covered(self.account.covers()) >= length.n_tok;
        self.prices = length.prices;
        (length.n_tok > 0 && is_covered).then_some(lookahead)
    }

    /// Its guesses, if it made some.
    pub fn lookahead(&mut self) -> Option<&mut Lookahead> {
        self.lookahead.as_mut()
    }

    /// As much of a draft as so many seconds pay for. What steps take is measured in any case.
    fn covered(&self, best: Length, seconds: f64) -> Length {
        if best.n_tok == 0 || best.rate == 0.0 {
            return best;
        }
        let n_covered = best.prices.covered(seconds);
        // Half of it at most is put at stake at once, so that it is not lost to a single draft.
        let n_bold = best.prices.covered(seconds / 2.0).max(1);
        Length { n_tok: best.n_tok.min(n_covered).min(n_bold), n_covered, ..best }
    }

    /// Notes that a draft is looked up.
    pub fn begin_lookup(&mut self, length: &Length) {
        self.prices = length.prices;
    }

    /// Notes that a model drafts as much as [`Speculator::modelled`] said, and returns how many tokens it may draft if it is
    /// sure of them, at most `max`.
    pub fn begin_model(&mut self, length: &Length, max: usize) -> usize {
        self.prices = length.prices;
        if length.rate == 0.0 {
            self.worth = Worth::default();
            return length.n_tok;
        }
        (self.n_without, self.n_doubling) = (0, 0);
        let Prices { draft, verify, .. } = self.prices;
        self.worth = Worth { draft: length.rate * (draft + verify), verify: length.rate * verify };
        (2 * length.n_tok).min(length.n_covered).min(max)
    }

    /// How often lookups were accepted, by [`AGREE`].
    pub fn by_agreement(&self) -> &[Accept; AGREE.len()] {
        &self.by_agreement
    }

    /// Notes that a model drafted a token.
    pub fn drafted(&mut self) {
        self.account.spend(By::Model, self.prices.draft);
    }

    /// The probability that a token which a model drafts is accepted.
    pub fn accept(&self) -> f64 {
        self.by_model.unwrap_or_default().mean
    }

    /// Learns that of `n_draft` drafted tokens `n_accepted` were accepted; of the first line of them, where they are a tree,
    /// `line` says how many there were and how many were accepted.
    pub fn learn(&mut self, source: Source, (n_draft, n_accepted): (usize, usize), line: (usize, usize)) {
        let Prices { verify, step, .. } = self.prices;
        let cost = n_draft as f64 * verify - n_accepted as f64 * step;
        match source {
            Source::Lookup(_) | Source::Lookahead => self.account.spend(By::Lookup, cost),
            Source::Model => self.account.spend(By::Model, cost),
            Source::Forced => return,
        }
        // A draft with a branch: that is for where the first line is wrong at once.
        if matches!(source, Source::Lookup(_)) && n_draft > line.0 && line.1 == 0 {
            self.by_other.learn(n_accepted > 0);
        }
        for i in 0..line.0.min(line.1 + 1) {
            self.compared(source, i, i < line.1);
        }
    }

    /// Learns whether the `i`-th token that was found agreed with what came.
    pub fn compared(&mut self, source: Source, i: usize, agrees: bool) {
        match source {
            Source::Lookup(agree) => self.by_agreement[agreement(agree + i)].learn(agrees),
            Source::Model => self.by_model.get_or_insert_default().learn(agrees),
            Source::Forced | Source::Lookahead => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accept::{FUND, START};
    use crate::account::{Balance, INCOME};
    use crate::length::PROBE;
    use crate::length::tests::times;

    const PAIR: Pair = Pair { accept: 0.6, rest_seconds: 0.0, window_seconds: None, whole_seconds: None };

    impl Speculator {
        /// What the model reads before the draft that was just planned.
        fn extent_seconds(&self, pair: &Pair) -> f64 {
            match self.reads {
                Extent::Rest => pair.rest_seconds,
                Extent::Window => pair.window_seconds.expect("there is much to read"),
                Extent::Whole => pair.whole_seconds.expect("something was left out"),
            }
        }
    }

    /// Learns of a line.
    fn learn(speculator: &mut Speculator, source: Source, n_draft: usize, n_accepted: usize) {
        speculator.learn(source, (n_draft, n_accepted), (n_draft, n_accepted));
    }

    /// A step in which all drafted tokens are accepted, or none. Returns how many were drafted.
    fn step(speculator: &mut Speculator, pair: &Pair, costs: &Costs<'_>, is_right: bool) -> usize {
        speculator.step(costs);
        let length = speculator.modelled(pair, costs, 16);
        let n = match length.n_tok {
            0 => 0,
            _ => speculator.begin_model(&length, 16),
        };
        (0..n).for_each(|_| speculator.drafted());
        if n > 0 {
            speculator.account.spend(By::Model, speculator.extent_seconds(pair));
            learn(speculator, Source::Model, n, if is_right { n } else { 0 });
        }
        n
    }

    #[test]
    fn drafts_that_fail_stop_and_are_tried_again() {
        let times = times(&[(1, 100), (17, 400)]);
        let costs = Costs { times: &times, n_decode: 1, n_tok: 1, each: 0.02, rewinds: false };
        let mut speculator = Speculator::new(0, Kind::Greedy, &Others::new());
        let lengths: Vec<usize> = (0..200).map(|_| step(&mut speculator, &PAIR, &costs, false)).collect();
        let tried = lengths.iter().filter(|n| **n > 0).count();
        assert!((3..25).contains(&tried), "{lengths:?}");
        let good: usize = (0..20_000).map(|_| step(&mut speculator, &PAIR, &costs, true)).sum();
        assert!(good > 100_000 && step(&mut speculator, &PAIR, &costs, true) > 8, "{good}");
    }

    /// What a sequence came to.
    struct Replay {
        /// The least that its drafts ever saved beside a fiftieth of its plain time, in steps.
        least: f64,
        n_drafted: usize,
        balance: Balance,
    }

    /// A sequence of so many steps and tokens of a prompt, at most, of which such a part of drafts is right, at most, of a model and a
    /// machine at random. What the model has not read grows by what it did not draft for.
    fn replay(seed: u64, (longest, prompt, right): (u64, u64, f64), others: &Others) -> Replay {
        let mut rng = crate::sampler::Rng::new(seed);
        let times = times(&[(1, 100), (17, 110 + rng.next_u64() % 900)]);
        let part = right * rng.next_unit() * rng.next_unit();
        let (accept, each, n_step) = (rng.next_unit(), 0.03 * rng.next_unit(), 1 + rng.next_u64() % longest);
        let costs = Costs { times: &times, n_decode: 1, n_tok: 1, each, rewinds: false };
        let (mut n_token, token) = ((rng.next_u64() % prompt) as f64, each * rng.next_unit());
        let mut speculator = Speculator::new(0, Kind::Greedy, others);
        let read = 0.03 * n_token;
        speculator.account.begin(read, costs.step());
        let (mut n_drafted, mut n_unread, mut is_whole, mut least) = (0, n_token, true, 0f64);
        for n in 1..=n_step {
            let pair = Pair {
                accept,
                rest_seconds: n_unread * token,
                window_seconds: (n_unread > 32.0).then_some(16.0 * token),
                whole_seconds: (!is_whole).then_some(n_token * token),
            };
            let n_draft = step(&mut speculator, &pair, &costs, rng.next_unit() < part);
            if n_draft > 0 {
                is_whole = speculator.reads == Extent::Whole || is_whole && speculator.reads == Extent::Rest;
                n_unread = 0.0;
            }
            (n_drafted, n_token, n_unread) = (n_drafted + n_draft, n_token + 1.0, n_unread + 1.0);
            // Copies that are right or not, as often.
            let length = speculator.looked_up(3, &costs, 8);
            if n_draft == 0 && length.n_tok > 0 && length.rate > 0.0 {
                speculator.begin_lookup(&length);
                let n_right = if rng.next_unit() < part { length.n_tok } else { 0 };
                learn(&mut speculator, Source::Lookup(3), length.n_tok, n_right);
            }
            let plain = read + costs.step() * n as f64;
            let saved = speculator.account.balance().expect("steps were measured").saved * costs.step();
            least = least.min((saved + INCOME * plain) / costs.step());
        }
        Replay { least, n_drafted, balance: speculator.account.balance().expect("steps were measured") }
    }

    #[test]
    fn a_sequence_loses_two_steps_and_a_fiftieth_of_its_time() {
        let (mut n_all, mut lowest) = (0, 0f64);
        for seed in 0..3000 {
            let Replay { least, n_drafted, .. } = replay(seed, (400, 300, 1.0), &Others::new());
            (n_all, lowest) = (n_all + n_drafted, lowest.min(least));
            assert!(least >= -START - 1e-9, "seed {seed}: {least} steps beside a fiftieth of its time");
        }
        assert!(n_all > 50_000 && lowest < 0.8 - START, "{n_all} {lowest}");
    }

    #[test]
    fn sequences_together_lose_what_there_is_and_three_hundredths_of_their_time() {
        let (mut others, lookups) = (Others::new(), Others::new().lookups(Kind::Greedy));
        let (mut plain, mut saved, mut alone) = (0.0, 0.0, 0.0);
        for seed in 0..3000 {
            let [balance, by_itself] =
                [&others, &Others::new()].map(|others| replay(seed, (6, 1, 0.0), others).balance);
            alone += by_itself.saved;
            (plain, saved) = (plain + balance.plain, saved + balance.saved);
            others.learn(Kind::Greedy, &lookups, Some(balance));
            assert!(saved >= -FUND - START - 0.03 * plain, "{saved} steps of {plain} by seed {seed}");
        }
        // Each by itself may lose two steps.
        assert!(saved < -FUND && alone < 4.0 * saved, "{alone} and {saved} of {plain}");
    }

    #[test]
    fn much_is_read_once_drafts_have_saved_more() {
        let times = times(&[(1, 100), (17, 200)]);
        let costs = Costs { times: &times, n_decode: 1, n_tok: 1, each: 0.01, rewinds: false };
        let long = Pair { rest_seconds: 0.5, window_seconds: Some(0.04), ..PAIR };
        let mut speculator = Speculator::new(0, Kind::Greedy, &Others::new());
        assert!(step(&mut speculator, &long, &costs, true) > 0 && speculator.reads == Extent::Window);
        let skipped = Pair { whole_seconds: Some(0.5), ..PAIR };
        let mut reads = Vec::new();
        while reads.last() != Some(&Extent::Whole) {
            assert!(reads.len() < 10 && step(&mut speculator, &skipped, &costs, true) > 0, "{reads:?}");
            reads.push(speculator.reads);
        }
        assert!(reads.len() > 1 && speculator.account.saved_by_model() > 0.0, "{reads:?}");
        // What nothing is known of takes no time, and is not believed.
        let mut speculator = Speculator::new(0, Kind::Greedy, &Others::new());
        let unknown = Pair { window_seconds: Some(0.0), ..PAIR };
        assert!(step(&mut speculator, &unknown, &costs, true) > 0 && speculator.reads == Extent::Window);
    }

    #[test]
    fn another_continuation_is_verified_where_it_is_often_right() {
        let times = times(&[(1, 100), (17, 132)]);
        let costs = Costs { times: &times, n_decode: 1, n_tok: 1, each: 0.0, rewinds: false };
        for (is_right, want) in [(true, 3..9), (false, 0..1)] {
            let mut speculator = Speculator::new(0, Kind::Greedy, &Others::new());
            (0..50).for_each(|_| speculator.step(&costs));
            // The first of four tokens is right every other time; where it is not, a branch of two is, or never.
            for i in 0..40 {
                let line = if i % 2 == 0 { 4 } else { 0 };
                let accepted = if line == 0 && is_right { 2 } else { line };
                speculator.learn(Source::Lookup(3), (6, accepted), (4, line));
            }
            let length = speculator.looked_up(3, &costs, 8);
            let n = speculator.branched(3, &length, 8);
            assert!(length.n_tok > 0 && want.contains(&n), "{n} and not {want:?}: {length:?}");
        }
    }

    #[test]
    fn unknown_costs_are_measured() {
        for (times, want) in [(times(&[]), 0), (times(&[(1, 9)]), PROBE)] {
            let costs = Costs { times: &times, n_decode: 1, n_tok: 1, each: 0.0, rewinds: false };
            assert_eq!(Speculator::new(0, Kind::Greedy, &Others::new()).looked_up(8, &costs, 16).n_tok, want);
        }
    }

    #[test]
    fn the_longer_a_copy_the_longer_its_draft() {
        let times = times(&[(1, 100), (17, 400)]);
        let costs = Costs { times: &times, n_decode: 1, n_tok: 1, each: 0.0, rewinds: false };
        let mut speculator = Speculator::new(0, Kind::Greedy, &Others::new());
        for _ in 0..100 {
            // Copies go on for as long as they are long already.
            learn(&mut speculator, Source::Lookup(3), 16, 0);
            learn(&mut speculator, Source::Lookup(40), 16, 16);
        }
        // As many steps as fill the account.
        (0..1000).for_each(|_| speculator.step(&costs));
        let lengths = [3, 40].map(|agree| speculator.looked_up(agree, &costs, 16).n_tok);
        assert_eq!(lengths, [0, 16]);
    }

    #[test]
    fn what_sequences_showed_is_supposed_of_new_ones() {
        let times = times(&[(1, 100), (17, 400)]);
        let costs = Costs { times: &times, n_decode: 1, n_tok: 1, each: 0.0, rewinds: false };
        let mut others = Others::new();
        let length = |others: &Others| {
            let mut speculator = Speculator::new(0, Kind::Greedy, others);
            speculator.step(&costs);
            speculator.looked_up(3, &costs, 16).n_tok
        };
        let first = length(&others);
        for (right, want) in [(16, first + 1..17), (0, 0..1)] {
            for _ in 0..20 {
                let mut speculator = Speculator::new(0, Kind::Greedy, &others);
                (0..20).for_each(|_| learn(&mut speculator, Source::Lookup(3), 16, right));
                others.learn(Kind::Greedy, speculator.by_agreement(), None);
            }
            assert!(want.contains(&length(&others)), "{} and not {want:?}", length(&others));
        }
    }

    #[test]
    fn a_token_must_bring_what_the_draft_brings_in_its_time() {
        let times = times(&[(1, 100), (5, 140), (17, 260)]);
        let costs = Costs { times: &times, n_decode: 1, n_tok: 1, each: 0.02, rewinds: false };
        let mut speculator = Speculator::new(0, Kind::Greedy, &Others::new());
        speculator.step(&costs);
        let length = speculator.modelled(&PAIR, &costs, 16);
        assert!(speculator.begin_model(&length, 16) >= length.n_tok);
        let Worth { draft, verify } = speculator.worth;
        assert!(
            (draft - length.rate * 0.03).abs() < 1e-3 && (verify - length.rate * 0.01).abs() < 1e-3,
            "{draft} {verify}"
        );
    }
}
