//! A sequence inside the schedule: its tokens, its pages, its row in a batch.

use std::cmp::Reverse;

use crate::prefix::PrefixHash;
use crate::runner::PAGE_TOKENS;
use crate::share::ClientId;
use crate::speculate::MAX_LOOKUP;
use crate::{Batch, PageId, Row, SeqId, TokenId, Want};

/// A sequence that arrives.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Its name.
    pub id: SeqId,
    /// The prompt; at least one token.
    pub tokens: Vec<TokenId>,
    /// Higher goes first.
    pub priority: i32,
    /// Whose it is: clients of one priority share the model fairly.
    pub client: ClientId,
    /// The prefix without tokens: sequences with different roots share no pages.
    pub root: PrefixHash,
    /// Whether logits are wanted after each token of the prompt, so that all are computed.
    pub wants_all: bool,
}

impl Arrival {
    /// Names of the whole pages before its last token.
    #[must_use]
    pub fn hashes(&self) -> Vec<PrefixHash> {
        let mut hash = self.root;
        let next = |part: &[TokenId]| {
            hash = hash.child(part);
            hash
        };
        self.tokens[..self.tokens.len() - 1].chunks_exact(PAGE_TOKENS).map(next).collect()
    }
}

/// A sequence that waits or runs.
#[derive(Debug)]
pub struct Sequence {
    /// Its name.
    pub id: SeqId,
    /// Prompt and generated tokens.
    pub tokens: Vec<TokenId>,
    /// Tokens whose keys and values are stored.
    pub n_computed: usize,
    /// Prompt tokens that were found in cached pages when it was first admitted; `None` before.
    pub n_cached: Option<usize>,
    /// Whose it is.
    pub client: ClientId,
    /// Tokens that may come next, to be verified in the next step.
    pub(crate) draft: Vec<TokenId>,
    /// Where these are a tree: of each the token before it, as index in the row that they are part of, which begins with the
    /// last known one. Empty where they follow each other.
    pub(crate) draft_parents: Vec<i32>,
    /// Tokens after each of which logits are wanted, those of a prompt; 0 once they were computed.
    pub(crate) n_wanted: usize,
    /// Pages that it holds.
    pub(crate) pages: Vec<PageId>,
    /// Pages before those that it gave back, since no later token sees them.
    pub(crate) n_unseen: usize,
    pub(crate) slot: usize,
    /// Whole pages that are registered as a prefix.
    pub(crate) n_registered: usize,
    /// Where its prompt parts from another that is known, in tokens: its recurrent state there is worth saving.
    pub(crate) branch: usize,
    /// Pages before the recurrent state that was last saved while it was generated.
    pub(crate) n_rolled: Option<usize>,
    pub(crate) order: Order,
    root: PrefixHash,
    hashes: Vec<PrefixHash>,
}

/// Smaller goes first: higher priority, then earlier arrival.
pub(crate) type Order = (Reverse<i32>, u64);

impl Sequence {
    pub(crate) fn new(arrival: Arrival, n_arrival: u64) -> Sequence {
        let Arrival { id, tokens, priority, client, root, wants_all } = arrival;
        let n_page = tokens.capacity().div_ceil(PAGE_TOKENS) + 1;
        Sequence {
            id,
            n_wanted: if wants_all { tokens.len() } else { 0 },
            tokens,
            n_computed: 0,
            n_cached: None,
            client,
            draft: Vec::with_capacity(MAX_LOOKUP),
            draft_parents: Vec::with_capacity(MAX_LOOKUP),
            pages: Vec::with_capacity(n_page),
            n_unseen: 0,
            slot: 0,
            n_registered: 0,
            branch: 0,
            n_rolled: None,
            order: (Reverse(priority), n_arrival),
            root,
            hashes: Vec::with_capacity(n_page),
        }
    }

    /// A second sequence with the same tokens, which shares this one's pages once they are shared.
    pub(crate) fn forked(&self, id: SeqId, n_arrival: u64) -> Sequence {
        Sequence {
            id,
            tokens: self.tokens.clone(),
            n_computed: self.n_computed,
            n_cached: self.n_cached,
            client: self.client,
            draft: Vec::with_capacity(MAX_LOOKUP),
            draft_parents: Vec::with_capacity(MAX_LOOKUP),
            n_wanted: 0,
            // Pages that were only for a draft stay this one's.
            pages: self.pages[..self.n_computed.div_ceil(PAGE_TOKENS) - self.n_unseen].to_vec(),
            n_unseen: self.n_unseen,
            slot: 0,
            n_registered: self.n_registered,
            branch: 0,
            n_rolled: None,
            order: (self.order.0, n_arrival),
            root: self.root,
            hashes: self.hashes.clone(),
        }
    }

    /// Forgets what was computed.
    pub(crate) fn reset(&mut self) {
        (self.n_computed, self.n_registered, self.n_unseen, self.branch) = (0, 0, 0, 0);
        self.n_rolled = None;
        self.set_draft(&[], &[]);
    }

    /// Replaces its draft; `parents` are as [`Sequence::draft_parents`].
    pub(crate) fn set_draft(&mut self, tokens: &[TokenId], parents: &[i32]) {
        self.draft.clear();
        self.draft.extend_from_slice(tokens);
        self.draft_parents.clear();
        self.draft_parents.extend_from_slice(parents);
    }

    /// Tokens that are not computed yet.
    pub(crate) fn n_left(&self) -> usize {
        self.tokens.len() - self.n_computed
    }

    /// Whether it needs one token, as one that generates does.
    pub(crate) fn is_decode(&self) -> bool {
        self.n_left() == 1 && self.n_wanted == 0
    }

    /// Pages up to now, those given back included.
    pub(crate) fn n_page(&self) -> usize {
        self.n_unseen + self.pages.len()
    }

    /// Names of its whole pages.
    pub(crate) fn hashes(&mut self) -> &[PrefixHash] {
        for part in self.tokens[self.hashes.len() * PAGE_TOKENS..].chunks_exact(PAGE_TOKENS) {
            let parent = self.hashes.last().unwrap_or(&self.root);
            self.hashes.push(parent.child(part));
        }
        &self.hashes
    }

    /// Names of its whole pages, as far as they were needed.
    pub(crate) fn names(&self) -> &[PrefixHash] {
        &self.hashes
    }

    /// The last page border before its last token.
    pub(crate) fn last_border(&self) -> usize {
        (self.tokens.len() - 1) / PAGE_TOKENS * PAGE_TOKENS
    }

    /// Appends a row with the next `n` tokens and the draft, if `n > 0`, and returns how many.
    pub(crate) fn push_row(&self, batch: &mut Batch, n: usize) -> usize {
        if n == 0 {
            return 0;
        }
        let (start, end) = (self.n_computed, self.n_computed + n);
        let (first_token, first_page) = (batch.tokens.len(), batch.pages.len());
        batch.tokens.extend_from_slice(&self.tokens[start..end]);
        batch.tokens.extend_from_slice(&self.draft);
        let n_page = (end + self.draft.len()).div_ceil(PAGE_TOKENS);
        // A page that no token sees needs a number all the same: that of the oldest page there is.
        batch.pages.extend(std::iter::repeat_n(self.pages[0], self.n_unseen));
        batch.pages.extend_from_slice(&self.pages[..n_page - self.n_unseen]);
        let want = match (end == self.tokens.len(), self.draft.is_empty()) {
            _ if start < self.n_wanted => Want::All,
            (false, _) => Want::Nothing,
            (true, true) => Want::Last,
            (true, false) => Want::All,
        };
        let first_parent = batch.parents.len();
        if !self.draft_parents.is_empty() {
            batch.parents.push(-1);
            batch.parents.extend_from_slice(&self.draft_parents);
        }
        batch.rows.push(Row {
            seq: self.id,
            start,
            tokens: (first_token, batch.tokens.len()),
            pages: (first_page, batch.pages.len()),
            slot: self.slot,
            parents: (first_parent < batch.parents.len()).then_some((first_parent, batch.parents.len())),
            want,
        });
        n + self.draft.len()
    }
}
