//! What a schedule keeps to, and what it wants done.

use crate::engine::Config;
use crate::prefix::Evicted;
use crate::{PageId, RunnerInfo, StateId};

/// Limits of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most tokens of a step; at least `n_running`.
    pub step_tokens: usize,
    /// Most sequences at once.
    pub n_running: usize,
    /// Most sequences of one client at once.
    pub n_running_client: usize,
    /// Pages of the arena.
    pub n_page: usize,
    /// What pages hold.
    pub past: Past,
}

/// Where a model keeps the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// In pages, of which a token sees all.
    Pages,
    /// In pages, of which a token sees the last so many tokens, itself included.
    Window(usize),
    /// In pages and in a recurrent state, which can be saved.
    Recurrent {
        /// Places for the states after prefixes.
        n_saved: usize,
        /// Places after those, one for each slot, for states from before a draft; 0: nothing is drafted.
        n_rewind: usize,
    },
}

impl Past {
    /// Where the model of `info` keeps it. States from before drafts get places if prefixes keep some.
    pub(crate) fn of(info: &RunnerInfo, config: &Config) -> Past {
        let drafts = config.max_draft > 0 && info.n_saved > config.max_running;
        let n_rewind = if drafts { config.max_running } else { 0 };
        match (info.recurrent, info.window) {
            (true, _) => Past::Recurrent { n_saved: info.n_saved - n_rewind, n_rewind },
            (false, Some(window)) => Past::Window(window),
            (false, None) => Past::Pages,
        }
    }

    /// Whether drafted tokens that are rejected can be taken back.
    pub(crate) fn can_rewind(&self) -> bool {
        !matches!(self, Past::Recurrent { n_rewind: 0, .. })
    }
}

/// What the runner must do, in this order, before it computes the batch ([`plan`](crate::schedule::Schedule::plan)) or after
/// ([`commit`](crate::schedule::Schedule::commit)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Copy a page.
    CopyPage {
        /// Read.
        from: PageId,
        /// Overwritten.
        to: PageId,
    },
    /// The page's prefix was forgotten, and its bytes will be overwritten: the last chance to keep them elsewhere.
    Evicted(Evicted),
    /// Save the recurrent state of a slot.
    SaveState {
        /// Read.
        slot: usize,
        /// Overwritten.
        state: StateId,
    },
    /// Restore a saved recurrent state.
    RestoreState {
        /// Overwritten.
        slot: usize,
        /// Read.
        state: StateId,
    },
}
