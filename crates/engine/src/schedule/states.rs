//! Recurrent states in the schedule: when they are saved, and how drafts are taken back.
//!
//! A state cannot be cut as pages can: where a drafted token is rejected, the state from before the draft is restored, and
//! the tokens that were accepted are computed again, with the next one, in the next step. Drafts end at page borders, so
//! that the state there is met.

use super::Schedule;
use crate::StateId;
use crate::limits::{Op, Past};
use crate::prefix::PrefixHash;
use crate::runner::PAGE_TOKENS;
use crate::sequence::Sequence;

impl Schedule {
    /// Saves the recurrent state of the running sequence `at`, if it stands at a page border.
    pub(super) fn save(&mut self, at: usize) {
        let sequence = &mut self.running[at];
        let n_page = sequence.n_computed / PAGE_TOKENS;
        if n_page == 0 || !sequence.n_computed.is_multiple_of(PAGE_TOKENS) {
            return;
        }
        let hash = sequence.hashes()[n_page - 1];
        if sequence.n_left() == 0 {
            // While it generates, only the last border is worth a place.
            if let Some(before) = sequence.n_rolled.replace(n_page) {
                let before = sequence.hashes()[before - 1];
                self.pages.drop_state(&before);
            }
        }
        if let Some(state) = self.pages.place_state(&hash) {
            self.ops.push(Op::SaveState { slot: sequence.slot, state });
        }
    }

    /// Takes a state after a known prefix that comes from elsewhere; `import` fills its place, and returns whether it could.
    pub fn adopt_state(&mut self, hash: &PrefixHash, import: impl FnOnce(StateId) -> bool) {
        if let Some(state) = self.pages.place_state(hash)
            && !import(state)
        {
            self.pages.drop_state(hash);
        }
    }

    /// Where the state of a sequence is kept while its draft is verified; `None` where states can be cut, or there is none.
    fn rewind_state(&self, sequence: &Sequence) -> Option<StateId> {
        let Past::Recurrent { n_saved, n_rewind } = self.limits.past else { return None };
        (sequence.slot < n_rewind).then(|| StateId((n_saved + sequence.slot) as u32))
    }

    /// Most tokens that may be drafted for a sequence.
    pub(super) fn draft_room(&self, sequence: &Sequence) -> usize {
        match self.limits.past {
            Past::Recurrent { .. } if self.rewind_state(sequence).is_none() => 0,
            Past::Recurrent { .. } => PAGE_TOKENS - 1 - sequence.n_computed % PAGE_TOKENS,
            _ => usize::MAX,
        }
    }

    /// Keeps the state of the running sequence `at`, if a draft of it is to be verified.
    pub(super) fn keep_state(&mut self, at: usize) {
        let sequence = &self.running[at];
        if !sequence.draft.is_empty()
            && let Some(state) = self.rewind_state(sequence)
        {
            self.ops.push(Op::SaveState { slot: sequence.slot, state });
        }
    }

    /// Takes back the state of the running sequence `at`, whose draft was not accepted whole. Returns whether that is needed.
    pub(super) fn rewind(&mut self, at: usize) -> bool {
        let sequence = &self.running[at];
        let Some(state) = self.rewind_state(sequence) else { return false };
        self.ops.push(Op::RestoreState { slot: sequence.slot, state });
        true
    }
}
