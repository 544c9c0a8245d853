//! How often drafted tokens are accepted, by measure: of a sequence, of all sequences, by how many tokens before agreed and
//! by how sure a model was.

use crate::account::Balance;
use crate::lookup::GRAM;

/// Weight of a new observation of acceptance: of a sequence, of all that a model drafts for.
const WEIGHT: f64 = 0.1;
const WEIGHT_ALL: f64 = 0.02;
/// Observations that what is supposed of a new sequence counts for, which makes its first ones weigh more.
const PRIOR: f64 = 4.0;
/// The acceptance of a model's drafts that is supposed of a new sequence, at least: whatever others showed, its own first tokens
/// tell soon, and an account bounds what they cost.
const ACCEPT: f64 = 0.7;
/// How often a second token comes where the first does not, as is supposed at first.
const SECOND: f64 = 0.5;
/// How many tokens agree before a drafted one, at least, by class, and the acceptance that is supposed at first.
pub(crate) const AGREE: [(usize, f64); 5] = [(0, 0.4), (GRAM, 0.6), (6, 0.75), (12, 0.85), (24, 0.9)];
/// How often another continuation goes on where the one found first does not, as is supposed at first.
pub(crate) const OTHER: f64 = 0.3;
/// How sure a model is of a token, at least, by class, and the acceptance that is supposed at first: as a probability, or
/// where the token was drawn as the distance to where another would have been.
const SURE: [(f32, f64); N_SURE] = [(0.0, 0.4), (0.5, 0.6), (0.7, 0.75), (0.85, 0.88), (0.95, 0.95), (0.99, 0.99)];
const SURE_DRAWN: [(f32, f64); N_SURE] = [(0.0, 0.4), (0.02, 0.6), (0.05, 0.75), (0.1, 0.85), (0.2, 0.92), (0.3, 0.97)];
const N_SURE: usize = 6;
/// How fast it is learned how often a class of tokens is accepted, and how far a sequence is from others: in logits, for a token
/// that was certain to be accepted and was not. The sequence takes most of it, so that a text which no draft fits does not
/// spoil what the next one begins with.
const RATE_ALL: f64 = 0.1;
const RATE_OWN: f64 = 0.8;
/// How far it is at most.
const MAX_BIAS: f64 = 4.0;
/// What a sequence's drafts may cost before they have saved anything, in steps, at most. With less than one, two wrong tokens at
/// the beginning end the drafts of a text of which all others would be right.
pub(crate) const START: f64 = 2.0;
/// What that may come to for all sequences of a kind before drafts have saved anything, in steps.
pub(crate) const FUND: f64 = 64.0;
/// What it may come to in the end: what others saved.
const MOST: f64 = 512.0;
/// What it grows by: a part of the steps that sequences take without drafts.
const INCOME: f64 = 0.01;

/// The probability that a token of a sequence's drafts is accepted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Accept {
    pub mean: f64,
    n_learned: u32,
}

impl Accept {
    /// After other sequences.
    pub fn supposed(mean: f64) -> Accept {
        Accept { mean, n_learned: 0 }
    }

    /// Learns whether a token was accepted.
    pub fn learn(&mut self, is_accepted: bool) {
        self.n_learned = self.n_learned.saturating_add(1);
        let weight = WEIGHT.max(1.0 / (f64::from(self.n_learned) + PRIOR));
        self.mean += weight * (f64::from(u8::from(is_accepted)) - self.mean);
    }
}

impl Default for Accept {
    fn default() -> Accept {
        Accept::supposed(ACCEPT)
    }
}

/// How a sequence's tokens come about, and what drafts take for likely: what is known of drafts for one kind says little
/// of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The likeliest token comes, and is drafted.
    Greedy,
    /// Tokens are drawn, the likeliest is drafted.
    Likeliest,
    /// Tokens are drawn, and drafted with the same random numbers.
    Drawn,
}

impl Kind {
    /// Where the same random numbers draw nothing that is alike, as in another vocabulary.
    pub fn without_draws(self) -> Kind {
        if self == Kind::Drawn { Kind::Likeliest } else { self }
    }
}

/// Kinds.
pub(crate) const N_KIND: usize = 3;

/// What drafts for other sequences showed: what a new one begins with.
#[derive(Debug)]
pub(crate) struct Others([Other; N_KIND]);

/// Of one kind.
#[derive(Debug, Clone, Copy)]
struct Other {
    /// How often tokens that were looked up are accepted, by [`AGREE`].
    lookups: [f64; AGREE.len()],
    /// Steps that all sequences may still begin with: what drafts saved, less what they cost. Less than nothing is a debt.
    fund: f64,
}

impl Others {
    /// Nothing measured.
    pub fn new() -> Others {
        Others([Other { lookups: AGREE.map(|(_, accept)| accept), fund: FUND }; N_KIND])
    }

    /// How often tokens of a new sequence that are looked up are accepted, as is supposed.
    pub fn lookups(&self, kind: Kind) -> [Accept; AGREE.len()] {
        self.0[kind as usize].lookups.map(Accept::supposed)
    }

    /// Steps that a new sequence's drafts may cost before they have saved any.
    pub fn start(&self, kind: Kind) -> f64 {
        self.0[kind as usize].fund.clamp(0.0, START)
    }

    /// Learns from a sequence that ended.
    pub fn learn(&mut self, kind: Kind, lookups: &[Accept; AGREE.len()], balance: Option<Balance>) {
        let other = &mut self.0[kind as usize];
        for (all, one) in other.lookups.iter_mut().zip(lookups) {
            let weight = 1.0 - (1.0 - WEIGHT_ALL).powi(one.n_learned.min(1 << 16) as i32);
            *all += weight * (one.mean - *all);
        }
        if let Some(Balance { saved, plain }) = balance {
            other.fund = (other.fund + saved + INCOME * plain).clamp(-FUND, MOST);
        }
    }
}

/// How often tokens of which a model is so sure are accepted: a pair of models has one, since it says how they differ.
#[derive(Debug)]
pub(crate) struct Calibration {
    kinds: [Calibrated; N_KIND],
}

/// Of one kind.
#[derive(Debug)]
struct Calibrated {
    /// Classes of certainty.
    classes: &'static [(f32, f64); N_SURE],
    /// By class: of the token, in logits.
    accept: [f64; N_SURE],
    /// By class: of the second one.
    second: [f64; N_SURE],
    mean: f64,
}

/// How far a sequence's tokens are from others of which a model is as sure, in logits of their acceptance.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bias(f64);

impl Calibration {
    /// Nothing measured.
    pub fn new() -> Calibration {
        let classes = [&SURE, &SURE, &SURE_DRAWN];
        let kinds = classes.map(|classes| {
            let accept = classes.map(|(_, accept)| (accept / (1.0 - accept)).ln());
            let second = classes.map(|(_, accept)| SECOND * (1.0 - accept));
            Calibrated { classes, accept, second, mean: ACCEPT }
        });
        Calibration { kinds }
    }

    /// The probability that a token of a sequence is accepted.
    pub fn accept(&self, kind: Kind, sure: f32, bias: Bias) -> f64 {
        let kind = &self.kinds[kind as usize];
        1.0 / (1.0 + (-kind.accept[kind.class(sure)] - bias.0).exp())
    }

    /// The probability that the second token comes in its place.
    pub fn second(&self, kind: Kind, sure: f32) -> f64 {
        let kind = &self.kinds[kind as usize];
        kind.second[kind.class(sure)]
    }

    /// The probability that is supposed of a new sequence's tokens.
    pub fn supposed(&self, kind: Kind) -> f64 {
        self.kinds[kind as usize].mean.max(ACCEPT)
    }

    /// Learns whether a token of a sequence was accepted.
    pub fn learn(&mut self, kind: Kind, sure: f32, is_accepted: bool, bias: &mut Bias) {
        let hit = f64::from(u8::from(is_accepted));
        let error = hit - self.accept(kind, sure, *bias);
        let kind = &mut self.kinds[kind as usize];
        kind.accept[kind.class(sure)] += RATE_ALL * error;
        bias.0 = (bias.0 + RATE_OWN * error).clamp(-MAX_BIAS, MAX_BIAS);
        kind.mean += WEIGHT_ALL * (hit - kind.mean);
    }

    /// Learns whether a second token came in place of the first.
    pub fn learn_second(&mut self, kind: Kind, sure: f32, came: bool) {
        let kind = &mut self.kinds[kind as usize];
        let second = &mut kind.second[kind.class(sure)];
        *second += WEIGHT * (f64::from(u8::from(came)) - *second);
    }
}

impl Calibrated {
    fn class(&self, sure: f32) -> usize {
        self.classes.iter().rposition(|(least, _)| *least <= sure).unwrap_or(0)
    }
}

/// The class of [`AGREE`].
pub(crate) fn agreement(agree: usize) -> usize {
    AGREE.iter().rposition(|(least, _)| *least <= agree).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_is_sure_is_right_more_often() {
        let mut calibration = Calibration::new();
        let [mut greedy, mut drawn] = [Bias::default(); 2];
        for i in 0..400 {
            calibration.learn(Kind::Greedy, 0.3, i % 4 == 0, &mut greedy);
            calibration.learn(Kind::Greedy, 1.0, i % 50 != 0, &mut greedy);
            calibration.learn(Kind::Drawn, 1.0, false, &mut drawn);
        }
        let [unsure, sure] = [0.3, 1.0].map(|sure| calibration.accept(Kind::Greedy, sure, greedy));
        assert!((0.1..0.5).contains(&unsure) && sure > 0.9, "{unsure} {sure}");
        assert!(calibration.accept(Kind::Drawn, 1.0, drawn) < 0.1);
    }

    #[test]
    fn a_text_that_no_draft_fits_does_not_spoil_the_next_one() {
        let (mut calibration, mut bias) = (Calibration::new(), Bias::default());
        let accept = |calibration: &Calibration, bias| calibration.accept(Kind::Greedy, 1.0, bias);
        // Of five tokens one is accepted, however sure the model is.
        (0..200).for_each(|i| calibration.learn(Kind::Greedy, 1.0, i % 5 == 0, &mut bias));
        assert!(accept(&calibration, bias) < 0.5, "{calibration:?} {bias:?}");
        assert!(accept(&calibration, Bias::default()) > 0.75, "{calibration:?}");
        assert!(calibration.supposed(Kind::Greedy) >= ACCEPT);
        // A pair that never agrees is known in the end.
        for _ in 0..50 {
            let mut bias = Bias::default();
            (0..20).for_each(|_| calibration.learn(Kind::Greedy, 1.0, false, &mut bias));
        }
        assert!(accept(&calibration, Bias::default()) < 0.3, "{calibration:?}");
    }

    #[test]
    fn sequences_begin_with_what_drafts_saved_others() {
        let mut others = Others::new();
        let lookups = others.lookups(Kind::Greedy);
        let balance = |saved| Some(Balance { saved, plain: 5.0 });
        let learn = |others: &mut Others, n, saved| {
            (0..n).for_each(|_| others.learn(Kind::Drawn, &lookups, balance(saved)));
            [Kind::Greedy, Kind::Likeliest, Kind::Drawn].map(|kind| others.start(kind))
        };
        others.learn(Kind::Greedy, &lookups, None);
        assert_eq!(learn(&mut others, 30, -2.0), [START; 3]);
        // What there was is spent, and a hundredth of all steps does not make it up.
        assert_eq!(learn(&mut others, 30, -2.0), [START, START, 0.0]);
        assert_eq!(learn(&mut others, 30, 5.0), [START; 3]);
        // What was saved may be lost, but not all of it.
        assert_eq!(learn(&mut others, 1000, 5.0), [START; 3]);
        assert_eq!(learn(&mut others, 200, -2.0), [START; 3]);
        assert_eq!(learn(&mut others, 100, -2.0), [START, START, 0.0]);
    }
}
