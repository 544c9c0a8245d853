//! The large model's hidden states, for a draft model that reads them with its tokens: layers that predict further tokens.
//!
//! ```text
//! place          0        1        2        3      keys and values of the draft model
//! token          1        2        3        4      what it reads
//! state of       0        1        2        3      what it reads it with
//! ```
//! States are kept until they are read, which is when a draft is made, but of the last few tokens only.
//! What the layer itself said of a drafted token stands for its state until the large model has computed that. Where states
//! are missing, since pages came from elsewhere, places stay as they are, which only makes drafts worse.

use std::collections::HashMap;

use crate::SeqId;

/// States that are kept of a sequence.
pub(crate) const MANY: usize = 32;

/// See the module.
#[derive(Debug)]
pub(crate) struct Features {
    /// Numbers of a state.
    d_state: usize,
    kept: HashMap<SeqId, Kept>,
}

/// States of a sequence.
#[derive(Debug, Default)]
struct Kept {
    /// The token of the first.
    from: usize,
    states: Vec<f32>,
}

impl Features {
    /// None kept, of `d_state` numbers each.
    pub fn new(d_state: usize) -> Features {
        Features { d_state, kept: HashMap::new() }
    }

    /// Numbers of a state.
    pub fn d_state(&self) -> usize {
        self.d_state
    }

    /// Takes the states of tokens from `start` on. Those kept before are forgotten unless these continue them.
    pub fn take(&mut self, id: SeqId, start: usize, states: &[f32]) {
        let d_state = self.d_state;
        let kept = self.kept.entry(id).or_default();
        if kept.from + kept.states.len() / d_state != start {
            (kept.from, kept.states) = (start, std::mem::take(&mut kept.states));
            kept.states.clear();
        }
        kept.states.extend_from_slice(states);
    }

    /// The tokens whose states are kept.
    pub fn tokens(&self, id: SeqId) -> std::ops::Range<usize> {
        self.kept.get(&id).map_or(0..0, |kept| kept.from..kept.from + kept.states.len() / self.d_state)
    }

    /// States of kept tokens.
    pub fn of(&self, id: SeqId, tokens: std::ops::Range<usize>) -> &[f32] {
        let kept = &self.kept[&id];
        &kept.states[(tokens.start - kept.from) * self.d_state..(tokens.end - kept.from) * self.d_state]
    }

    /// Forgets states of tokens before `to`.
    pub fn forget_before(&mut self, id: SeqId, to: usize) {
        let d_state = self.d_state;
        if let Some(kept) = self.kept.get_mut(&id) {
            let n = to.saturating_sub(kept.from).min(kept.states.len() / d_state);
            kept.states.drain(..n * d_state);
            kept.from += n;
        }
    }

    /// Forgets a sequence.
    pub fn forget(&mut self, id: SeqId) {
        self.kept.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_kept_as_far_as_they_are_of_consecutive_tokens() {
        let mut features = Features::new(2);
        features.take(SeqId(1), 3, &[3.0, 3.5, 4.0, 4.5]);
        features.take(SeqId(1), 5, &[5.0, 5.5]);
        assert_eq!((features.tokens(SeqId(1)), features.of(SeqId(1), 4..6)), (3..6, &[4.0, 4.5, 5.0, 5.5][..]));
        features.forget_before(SeqId(1), 5);
        assert_eq!(features.tokens(SeqId(1)), 5..6);
        features.take(SeqId(1), 9, &[9.0, 9.5]);
        assert_eq!((features.tokens(SeqId(1)), features.of(SeqId(1), 9..10)), (9..10, &[9.0, 9.5][..]));
        features.forget(SeqId(1));
        assert!(features.tokens(SeqId(1)).is_empty() && features.tokens(SeqId(2)).is_empty());
    }
}
