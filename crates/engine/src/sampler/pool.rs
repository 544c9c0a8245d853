//! The tokens that may still be chosen: the whole vocabulary, or a few candidates once a stage has cut it down.
//!
//! ```text
//! whole:  logits [n_vocab] (the model's, or an edited copy) * scale, with maxima and weights of blocks, made when needed
//! picked: picks  [n_pick]  (id, scaled logit), always in the order of ids, so that seeds reproduce whatever cut it down
//! ```
//! Candidates compare by [`before`]: the larger logit first, then the smaller id. No stage sorts: it finds the candidate at
//! the border by partial selection and keeps what is not after it.

use std::cmp::Ordering;

use super::Logits;
use super::mask::Mask;
use super::scan::{self, BLOCK};
use crate::TokenId;

/// A mask that allows no more than this part of a vocabulary makes a list of candidates.
const FEW: usize = 16;

/// A token and its logit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Token.
    pub id: TokenId,
    /// Logit, scaled.
    pub logit: f32,
}

/// A candidate as seen by [`border`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Key {
    /// Smaller comes first.
    pub rank: f32,
    /// Breaks ties: smaller comes first.
    pub id: TokenId,
    /// Not negative.
    pub weight: f64,
}

/// A token that was drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// Token.
    pub id: TokenId,
    /// Its probability.
    pub probability: f64,
    /// How far the random number is from where another token would have been drawn, and whether that is a lower one.
    pub margin: f64,
    pub is_low: bool,
}

impl Drawn {
    /// The random number is so far within the token's weight.
    fn new(id: TokenId, (within, weight): (f64, f64), sum: f64) -> Drawn {
        let (margin, is_low) = (within.min(weight - within).max(0.0) / sum, within < weight - within);
        Drawn { id, probability: weight / sum, margin, is_low }
    }
}

/// The order of keys.
pub fn key_order(a: &Key, b: &Key) -> Ordering {
    a.rank.total_cmp(&b.rank).then(a.id.cmp(&b.id))
}

/// The order of candidates: the likeliest first.
pub fn before(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// Memory that sampling reuses; one serves any number of samplers, one after another.
#[derive(Debug, Default)]
pub struct Scratch {
    edited: Vec<f32>,
    maxima: Vec<f32>,
    maxima_copy: Vec<f32>,
    weights: Vec<f64>,
    picks: Vec<Candidate>,
    pub(super) keys: Vec<Key>,
}

/// See the module.
pub struct Pool<'a> {
    raw: &'a [f32],
    scratch: &'a mut Scratch,
    is_edited: bool,
    is_picked: bool,
    has_maxima: bool,
    weight_sum: Option<f64>,
    scale: f32,
}

impl<'a> Pool<'a> {
    /// The whole vocabulary with these logits.
    pub fn new(logits: impl Into<Logits<'a>>, scratch: &'a mut Scratch) -> Pool<'a> {
        let logits: Logits<'a> = logits.into();
        let (raw, is_edited, is_picked) = (logits.all, false, false);
        let has_maxima = !logits.maxima.is_empty();
        if has_maxima {
            scratch.maxima.clear();
            scratch.maxima.extend_from_slice(logits.maxima);
        }
        Pool { raw, scratch, is_edited, is_picked, has_maxima, weight_sum: None, scale: 1.0 }
    }

    /// Whether a stage has cut the vocabulary down.
    pub fn is_picked(&self) -> bool {
        self.is_picked
    }

    /// How many tokens are left.
    pub fn len(&self) -> usize {
        if self.is_picked { self.scratch.picks.len() } else { self.raw.len() }
    }

    /// Adds to or replaces logits: `change(token, logit)` for each of `tokens` that is left.
    pub fn edit(&mut self, tokens: impl Iterator<Item = TokenId>, mut change: impl FnMut(TokenId, f32) -> f32) {
        for token in tokens {
            if self.is_picked {
                let picks = &mut self.scratch.picks;
                if let Ok(at) = picks.binary_search_by_key(&token, |pick| pick.id) {
                    picks[at].logit = change(token, picks[at].logit);
                }
            } else if (token as usize) < self.raw.len() {
                let scale = self.scale;
                let logit = &mut self.own()[token as usize];
                *logit = change(token, *logit * scale) / scale;
            }
        }
    }

    fn own(&mut self) -> &mut [f32] {
        if !self.is_edited {
            self.scratch.edited.clear();
            self.scratch.edited.extend_from_slice(self.raw);
            self.is_edited = true;
        }
        self.has_maxima = false;
        self.weight_sum = None;
        &mut self.scratch.edited
    }

    fn whole(&self) -> &[f32] {
        if self.is_edited { &self.scratch.edited } else { self.raw }
    }

    /// Multiplies all logits by a positive factor.
    pub fn scale(&mut self, factor: f32) {
        if self.is_picked {
            self.scratch.picks.iter_mut().for_each(|pick| pick.logit *= factor);
        } else {
            self.scale *= factor;
            self.weight_sum = None;
        }
    }

    fn maxima(&mut self) -> &[f32] {
        if !self.has_maxima {
            let logits = if self.is_edited { &self.scratch.edited } else { self.raw };
            scan::block_maxima(logits, &mut self.scratch.maxima);
            self.has_maxima = true;
        }
        &self.scratch.maxima
    }

    /// The likeliest token; `None` if no logit is a number above minus infinity.
    pub fn best(&mut self) -> Option<Candidate> {
        let best = if self.is_picked {
            self.scratch.picks.iter().copied().filter(|pick| !pick.logit.is_nan()).min_by(before)
        } else {
            let maxima = self.maxima().iter().enumerate();
            let (block, max) = maxima.fold((0, f32::NEG_INFINITY), |m, (i, &x)| if x > m.1 { (i, x) } else { m });
            let first = block * BLOCK;
            let rest = self.whole().get(first..).unwrap_or_default();
            let at = rest.iter().position(|x| *x == max);
            at.map(|at| Candidate { id: (first + at) as TokenId, logit: max * self.scale })
        };
        best.filter(|best| best.logit > f32::NEG_INFINITY)
    }

    /// `sum exp(logit - max)` of all tokens left, where `max` is the largest logit.
    pub fn weight_sum(&mut self, max: f32) -> f64 {
        if self.is_picked {
            return self.scratch.picks.iter().map(|pick| f64::from(pick.logit - max).exp()).sum();
        }
        if let Some(sum) = self.weight_sum {
            return sum;
        }
        let logits = if self.is_edited { &self.scratch.edited } else { self.raw };
        let sum = scan::block_weights(logits, max / self.scale, self.scale, &mut self.scratch.weights);
        self.weight_sum = Some(sum);
        sum
    }

    /// `(sum exp(logit - max), entropy in nats)` of all tokens left, where `max` is the largest logit.
    pub fn entropy(&self, max: f32) -> (f64, f64) {
        let (sum, dot) = if self.is_picked {
            let terms = self.scratch.picks.iter().map(|pick| f64::from(pick.logit - max));
            terms.fold((0.0, 0.0), |(sum, dot), x| (sum + x.exp(), dot + x * x.exp()))
        } else {
            scan::entropy_sums(self.whole(), max / self.scale, self.scale)
        };
        (sum, sum.ln() - dot / sum)
    }

    /// How many of the tokens left have a logit above minus infinity.
    pub fn count(&self) -> usize {
        if self.is_picked { self.scratch.picks.len() } else { scan::count(self.whole()) }
    }

    /// Standard deviation of the logits above minus infinity, where `max` is the largest logit.
    pub fn deviation(&self, max: f32) -> f64 {
        let count = self.count() as f64;
        // Around the mean, so that nothing cancels.
        let mean = f64::from(max) + self.moments(max).0 / count;
        let (sum, square) = self.moments(mean as f32);
        (square / count - (sum / count).powi(2)).max(0.0).sqrt()
    }

    /// Sums of `logit - center` and of its square.
    fn moments(&self, center: f32) -> (f64, f64) {
        if self.is_picked {
            let terms = self.scratch.picks.iter().map(|pick| f64::from(pick.logit - center));
            return terms.fold((0.0, 0.0), |(sum, square), x| (sum + x, square + x * x));
        }
        let (sum, square) = scan::moments(self.whole(), center / self.scale);
        let scale = f64::from(self.scale);
        (sum * scale, square * scale * scale)
    }

    /// Cuts down to the `k` likeliest, `k > 0`.
    pub fn keep_top(&mut self, k: usize) {
        if k >= self.len() {
            return;
        }
        if !self.is_picked {
            let threshold = self.block_threshold(k);
            self.pick_at_least(threshold);
        }
        let Scratch { picks, keys, .. } = &mut *self.scratch;
        if k < picks.len() {
            keys.clear();
            keys.extend(picks.iter().map(|pick| Key { rank: -pick.logit, id: pick.id, weight: 0.0 }));
            let (_, border, _) = keys.select_nth_unstable_by(k - 1, key_order);
            let border = Candidate { id: border.id, logit: -border.rank };
            picks.retain(|pick| before(pick, &border).is_le());
        }
    }

    /// Whether the weights of the `k` likeliest of a whole vocabulary reach `target`; if so, cuts down to them.
    pub fn top_reaches(&mut self, k: usize, max: f32, target: f64) -> bool {
        if k < self.len() {
            self.keep_top(k);
            let sum: f64 = self.scratch.picks.iter().map(|pick| f64::from(pick.logit - max).exp()).sum();
            self.is_picked = sum >= target;
        }
        self.is_picked
    }

    /// Whether the weights of the logits of at least `threshold` reach `target`; if so, cuts down to them.
    pub fn at_least_reaches(&mut self, threshold: f32, max: f32, target: f64) -> bool {
        if !self.is_picked {
            self.keep_at_least(threshold);
            let sum: f64 = self.scratch.picks.iter().map(|pick| f64::from(pick.logit - max).exp()).sum();
            self.is_picked = sum >= target;
        }
        self.is_picked
    }

    /// A logit that at least `k` logits reach: the `k`-th largest maximum of a block, or none at all. Unscaled.
    fn block_threshold(&mut self, k: usize) -> f32 {
        self.maxima();
        let Scratch { maxima, maxima_copy, .. } = &mut *self.scratch;
        if k > maxima.len() {
            return f32::NEG_INFINITY;
        }
        maxima_copy.clone_from(maxima);
        *maxima_copy.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
    }

    /// The `k` largest logits in no order, without cutting down.
    pub fn top_logits(&mut self, k: usize) -> Vec<f32> {
        let was_picked = self.is_picked;
        if was_picked {
            let mut logits: Vec<f32> = self.scratch.picks.iter().map(|pick| pick.logit).collect();
            if k < logits.len() {
                logits.select_nth_unstable_by(k, |a, b| b.total_cmp(a));
                logits.truncate(k);
            }
            return logits;
        }
        self.keep_top(k);
        let logits = self.picks().iter().map(|pick| pick.logit).collect();
        self.is_picked = was_picked;
        logits
    }

    /// Cuts down to logits of at least `threshold`, and above minus infinity.
    pub fn keep_at_least(&mut self, threshold: f32) {
        if self.is_picked {
            self.scratch.picks.retain(|pick| pick.logit >= threshold && pick.logit > f32::NEG_INFINITY);
        } else {
            self.pick_at_least(threshold / self.scale);
        }
    }

    /// Picks from the whole vocabulary; `threshold` is unscaled.
    fn pick_at_least(&mut self, threshold: f32) {
        self.maxima();
        let scale = self.scale;
        let Scratch { edited, maxima, picks, .. } = &mut *self.scratch;
        let logits = if self.is_edited { edited.as_slice() } else { self.raw };
        picks.clear();
        for (block, _) in maxima.iter().enumerate().filter(|(_, max)| **max >= threshold) {
            let first = block * BLOCK;
            let ids = first as TokenId..;
            let logits = ids.zip(&logits[first..logits.len().min(first + BLOCK)]);
            let kept = logits.filter(|(_, logit)| **logit >= threshold && **logit > f32::NEG_INFINITY);
            picks.extend(kept.map(|(id, logit)| Candidate { id, logit: logit * scale }));
        }
        self.is_picked = true;
    }

    /// The candidates as a list, in the order of ids; those of minus infinity are dropped.
    pub fn picks(&mut self) -> &mut Vec<Candidate> {
        if !self.is_picked {
            self.pick_at_least(f32::NEG_INFINITY);
        }
        &mut self.scratch.picks
    }

    /// Candidates and a list of keys to fill, together.
    pub fn picks_and_keys(&mut self) -> (&mut Vec<Candidate>, &mut Vec<Key>) {
        self.picks();
        let Scratch { picks, keys, .. } = &mut *self.scratch;
        (picks, keys)
    }

    /// Excludes all tokens that `mask` does not allow.
    pub fn keep_allowed(&mut self, mask: &Mask) {
        // A list of most of a vocabulary is slower to read than the vocabulary.
        if mask.count() > self.len() / FEW {
            let logits = self.own();
            let n_spoken = logits.len().min(mask.n_vocab());
            logits[n_spoken..].fill(f32::NEG_INFINITY);
            let parts = logits[..n_spoken].chunks_mut(64).zip(mask.words());
            for (part, word) in parts.filter(|(_, word)| **word != u64::MAX) {
                for (bit, logit) in part.iter_mut().enumerate() {
                    *logit = if word >> bit & 1 == 1 { *logit } else { f32::NEG_INFINITY };
                }
            }
            return;
        }
        let scale = self.scale;
        let Scratch { edited, picks, .. } = &mut *self.scratch;
        let logits = if self.is_edited { edited.as_slice() } else { self.raw };
        picks.clear();
        let tokens = mask.tokens().take_while(|token| (*token as usize) < logits.len());
        picks.extend(tokens.map(|id| Candidate { id, logit: logits[id as usize] * scale }));
        picks.retain(|pick| pick.logit > f32::NEG_INFINITY);
        self.is_picked = true;
    }

    /// Chooses a token with probability in proportion to `exp(logit)`; `unit` is a random number in `0.0..1.0`. Returns
    /// the token and its probability. `None` if there is nothing to choose from.
    pub fn draw(&mut self, unit: f64) -> Option<Drawn> {
        let max = self.best()?.logit;
        let sum = self.weight_sum(max);
        let mut left = unit * sum;
        let mut last = None;
        if self.is_picked {
            for pick in &self.scratch.picks {
                let weight = f64::from(pick.logit - max).exp();
                if weight > 0.0 {
                    last = Some(Drawn::new(pick.id, (left, weight), sum));
                    if left < weight {
                        break;
                    }
                    left -= weight;
                }
            }
            return last;
        }
        let weights = &self.scratch.weights;
        // Rounding may leave a little after the last block: then the last block that has any weight is meant.
        let mut block = 0;
        for (i, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
            block = i;
            if left < *weight {
                break;
            }
            left -= weight;
        }
        let first = block * BLOCK;
        let ids = first as TokenId..;
        for (id, logit) in ids.zip(self.whole()[first..].iter().take(BLOCK)) {
            let weight = f64::from(scan::weight(*logit, max / self.scale, self.scale));
            if weight > 0.0 {
                last = Some(Drawn::new(id, (left, weight), sum));
                if left < weight {
                    break;
                }
                left -= weight;
            }
        }
        last
    }
}

/// The first key in order at which the weights so far reach `target`; the last key if they never do. Expected linear time:
/// a quickselect that goes on in the half where the border lies. `None` if there is no key.
pub fn border(keys: &mut [Key], target: f64) -> Option<Key> {
    let mut rest = keys;
    let mut before = 0.0;
    while rest.len() > 1 {
        let middle = rest.len() / 2;
        rest.select_nth_unstable_by(middle, key_order);
        let (low, high) = rest.split_at_mut(middle);
        let sum: f64 = low.iter().map(|key| key.weight).sum();
        if before + sum >= target {
            rest = low;
        } else {
            before += sum;
            rest = high;
        }
    }
    rest.first().copied()
}
