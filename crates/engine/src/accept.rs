//! How often drafted tokens are accepted, by measure: of a sequence, of all sequences, by how many tokens before agreed and
//! by how sure a model was.

use crate::lookup::GRAM;

/// Weight of a new observation of acceptance: of a sequence, of all that a model drafts for.
const WEIGHT: f64 = 0.1;
const WEIGHT_ALL: f64 = 0.02;
/// Observations that what is supposed of a new sequence counts for, which makes its first ones weigh more.
const PRIOR: f64 = 4.0;
/// The acceptance of a model's drafts that is supposed at first.
const ACCEPT: f64 = 0.7;
/// How many tokens agree before a drafted one, at least, by class, and the acceptance that is supposed at first.
pub(crate) const AGREE: [(usize, f64); 5] = [(0, 0.4), (GRAM, 0.6), (6, 0.75), (12, 0.85), (24, 0.9)];
/// How sure a model is of a token, at least, by class, and the acceptance that is supposed at first.
const SURE: [(f32, f64); 6] = [(0.0, 0.4), (0.5, 0.6), (0.7, 0.75), (0.85, 0.88), (0.95, 0.95), (0.99, 0.99)];

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

/// How often tokens that were looked up are accepted, of all sequences: what a new one begins with.
#[derive(Debug)]
pub(crate) struct Lookups {
    /// By [`AGREE`].
    accept: [f64; AGREE.len()],
}

impl Lookups {
    /// Nothing measured.
    pub fn new() -> Lookups {
        Lookups { accept: AGREE.map(|(_, accept)| accept) }
    }

    /// What is supposed of a new sequence.
    pub fn supposed(&self) -> [Accept; AGREE.len()] {
        self.accept.map(Accept::supposed)
    }

    /// Learns from a sequence that ended.
    pub fn learn(&mut self, by_agreement: &[Accept; AGREE.len()]) {
        for (all, one) in self.accept.iter_mut().zip(by_agreement) {
            let weight = 1.0 - (1.0 - WEIGHT_ALL).powi(one.n_learned.min(1 << 16) as i32);
            *all += weight * (one.mean - *all);
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
pub(crate) fn agreement(agree: usize) -> usize {
    AGREE.iter().rposition(|(least, _)| *least <= agree).unwrap_or(0)
}

/// The class of [`SURE`].
fn certainty(sure: f32) -> usize {
    SURE.iter().rposition(|(least, _)| *least <= sure).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_is_sure_is_right_more_often() {
        let mut calibration = Calibration::new();
        for i in 0..400 {
            calibration.learn(0.3, i % 4 == 0);
            calibration.learn(1.0, i % 50 != 0);
        }
        let [unsure, sure] = [0.3, 1.0].map(|sure| calibration.accept(sure));
        assert!((0.1..0.5).contains(&unsure) && sure > 0.9, "{unsure} {sure}");
    }
}
