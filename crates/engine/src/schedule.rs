//! Which tokens a step computes. Pure policy: it sees ids and lengths, no clock, no model.
//!
//! ```text
//! push -> waiting --admit--> running --remove--> gone
//!            ^                  |
//!            +----- preempt ----+     gives up its pages; they are recomputed, or found again as a prefix
//! ```
//! A step has one budget of tokens. Running sequences that need one token go first, then chunks of running prompts, then
//! waiting ones are admitted, each in the order of priority and arrival. A sequence is admitted when pages for all its
//! tokens are there and one for each running sequence is left; it grows page by page. When no page is left for a sequence
//! to grow, the running sequence that is last in order gives up its own.
//! Source of the scheme: vLLM V1, `vllm/v1/core/sched/scheduler.py`.

use std::cmp::Reverse;
use std::collections::VecDeque;

use crate::pages::Pages;
use crate::prefix::{NodeId, ROOT};
use crate::runner::PAGE_TOKENS;
use crate::{Batch, PageId, Row, SeqId, TokenId, Want};

/// Limits of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most tokens of a step; at least `n_running`.
    pub step_tokens: usize,
    /// Most sequences at once.
    pub n_running: usize,
    /// Pages of the arena.
    pub n_page: usize,
    /// Whether a later request may use a page again that holds the same prefix.
    pub reuse: Reuse,
}

/// Whether prefixes are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// Pages of finished sequences keep their prefix until they are needed.
    Prefixes,
    /// Nothing is kept: the model has a recurrent state, which pages do not hold.
    Nothing,
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
    pages: Vec<PageId>,
    slot: usize,
    /// Whole pages that are registered as a prefix, and its node.
    n_registered: usize,
    node: NodeId,
    order: Order,
}

impl Sequence {
    /// Tokens that are not computed yet.
    fn n_left(&self) -> usize {
        self.tokens.len() - self.n_computed
    }
}

/// Smaller goes first: higher priority, then earlier arrival.
type Order = (Reverse<i32>, u64);

/// The schedule of one model.
#[derive(Debug)]
pub struct Schedule {
    limits: Limits,
    pages: Pages,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    slots_free: Vec<usize>,
    next_arrival: u64,
    n_preempted: u64,
}

impl Schedule {
    /// An empty schedule.
    ///
    /// # Panics
    /// If a limit is 0, or `step_tokens` is less than `n_running`.
    #[must_use]
    pub fn new(limits: Limits) -> Schedule {
        assert!(limits.n_running > 0 && limits.n_page > 0, "a schedule needs sequences and pages: {limits:?}");
        assert!(limits.step_tokens >= limits.n_running, "a step must hold a token of each sequence: {limits:?}");
        Schedule {
            limits,
            pages: Pages::new(limits.n_page),
            waiting: VecDeque::new(),
            running: Vec::with_capacity(limits.n_running),
            slots_free: (0..limits.n_running).rev().collect(),
            next_arrival: 0,
            n_preempted: 0,
        }
    }

    /// Lets a sequence wait for its first step.
    ///
    /// # Panics
    /// If it has no tokens or more than the arena holds; the engine refuses such requests.
    pub fn push(&mut self, id: SeqId, tokens: Vec<TokenId>, priority: i32) {
        assert!(!tokens.is_empty() && tokens.len() <= self.limits.n_page * PAGE_TOKENS, "{} tokens", tokens.len());
        let order = (Reverse(priority), self.next_arrival);
        self.next_arrival += 1;
        let (n_computed, n_cached, n_registered, node, slot) = (0, None, 0, ROOT, 0);
        let pages = Vec::new();
        self.wait(Sequence { id, tokens, n_computed, n_cached, pages, slot, n_registered, node, order });
    }

    fn wait(&mut self, sequence: Sequence) {
        let at = self.waiting.partition_point(|other| other.order < sequence.order);
        self.waiting.insert(at, sequence);
    }

    /// Ends a sequence and frees its pages at once; `None` if there is no such sequence.
    pub fn remove(&mut self, id: SeqId) -> Option<Sequence> {
        if let Some(at) = self.waiting.iter().position(|sequence| sequence.id == id) {
            return self.waiting.remove(at);
        }
        let at = self.running.iter().position(|sequence| sequence.id == id)?;
        Some(self.stop(at))
    }

    fn stop(&mut self, at: usize) -> Sequence {
        let mut sequence = self.running.remove(at);
        self.pages.release(&mut sequence.pages);
        self.slots_free.push(sequence.slot);
        (sequence.n_computed, sequence.n_registered, sequence.node) = (0, 0, ROOT);
        sequence
    }

    /// A running sequence.
    #[must_use]
    pub fn running(&self, id: SeqId) -> Option<&Sequence> {
        self.running.iter().find(|sequence| sequence.id == id)
    }

    /// Appends a generated token to a running sequence.
    ///
    /// # Panics
    /// If it does not run.
    pub fn append(&mut self, id: SeqId, token: TokenId) {
        let sequence = self.running.iter_mut().find(|sequence| sequence.id == id).expect("only running sequences grow");
        sequence.tokens.push(token);
    }

    /// Sequences that run.
    #[must_use]
    pub fn n_running(&self) -> usize {
        self.running.len()
    }

    /// Sequences that wait.
    #[must_use]
    pub fn n_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Times that a sequence was preempted.
    #[must_use]
    pub fn n_preempted(&self) -> u64 {
        self.n_preempted
    }

    /// The arena's pages.
    #[must_use]
    pub fn pages(&self) -> &Pages {
        &self.pages
    }

    /// Overwrites `batch` with the next step, of at most `budget_tokens`, if that is within the limits. It is empty only
    /// if no sequence is left.
    pub fn plan(&mut self, batch: &mut Batch, budget_tokens: usize) {
        batch.clear();
        let n_preempted = self.n_preempted;
        let mut budget = budget_tokens.clamp(self.limits.n_running, self.limits.step_tokens);
        let mut at = 0;
        // Running sequences are in order, and the last in order is preempted: one that has its row keeps it.
        while at < self.running.len() {
            let is_decode = self.running[at].n_left() == 1;
            if is_decode && self.grow(at) {
                budget -= push_row(batch, &self.running[at], 1);
            }
            at += 1;
        }
        for sequence in self.running.iter().filter(|sequence| sequence.n_left() > 1) {
            let n = sequence.n_left().min(budget);
            budget -= push_row(batch, sequence, n);
        }
        // Pages that were just taken from one sequence are not for a new one.
        while budget > 0 && self.n_preempted == n_preempted {
            let Some(at) = self.admit() else { break };
            let n = self.running[at].n_left().min(budget);
            budget -= push_row(batch, &self.running[at], n);
        }
    }

    /// Makes sure that the running sequence `at` has a page for its next token, at others' cost if need be. Returns
    /// whether it still runs.
    fn grow(&mut self, at: usize) -> bool {
        while self.running[at].pages.len() * PAGE_TOKENS <= self.running[at].n_computed {
            if let Some(page) = self.pages.alloc() {
                self.running[at].pages.push(page);
                return true;
            }
            let last = self.running.len() - 1;
            let sequence = self.stop(last);
            self.wait(sequence);
            self.n_preempted += 1;
            if last == at {
                return false;
            }
        }
        true
    }

    /// Admits the first waiting sequence, if it fits, and returns where it runs.
    fn admit(&mut self) -> Option<usize> {
        let sequence = self.waiting.front_mut()?;
        if self.running.len() >= self.limits.n_running {
            return None;
        }
        if self.limits.reuse == Reuse::Prefixes {
            // The last token is always computed: its logits are wanted.
            let known = &sequence.tokens[..sequence.tokens.len() - 1];
            sequence.node = self.pages.hold_prefix(known, &mut sequence.pages);
        }
        let n_kept = sequence.pages.len();
        let n_needed = sequence.tokens.len().div_ceil(PAGE_TOKENS) - n_kept;
        if n_needed + self.running.len() > self.pages.n_available() {
            self.pages.release(&mut sequence.pages);
            return None;
        }
        let mut sequence = self.waiting.pop_front().expect("the front is there");
        for _ in 0..n_needed {
            sequence.pages.push(self.pages.alloc().expect("so many are available"));
        }
        sequence.n_computed = n_kept * PAGE_TOKENS;
        sequence.n_registered = n_kept;
        sequence.n_cached.get_or_insert(sequence.n_computed);
        sequence.slot = self.slots_free.pop().expect("there are as many slots as running sequences");
        let at = self.running.partition_point(|other| other.order < sequence.order);
        self.running.insert(at, sequence);
        Some(at)
    }

    /// Notes that `batch` was computed, and keeps the prefixes that it completed.
    pub fn commit(&mut self, batch: &Batch) {
        for row in &batch.rows {
            let Some(sequence) = self.running.iter_mut().find(|sequence| sequence.id == row.seq) else { continue };
            sequence.n_computed = row.start + row.tokens.1 - row.tokens.0;
            while self.limits.reuse == Reuse::Prefixes
                && (sequence.n_registered + 1) * PAGE_TOKENS <= sequence.n_computed
            {
                let first = sequence.n_registered * PAGE_TOKENS;
                let tokens = &sequence.tokens[first..first + PAGE_TOKENS];
                let page = sequence.pages[sequence.n_registered];
                sequence.node = self.pages.register(sequence.node, tokens, page);
                sequence.n_registered += 1;
            }
        }
    }

    /// Checks every invariant: of pages, of limits, of order.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn check(&self) {
        self.pages.check(self.running.iter().flat_map(|sequence| sequence.pages.iter().copied()));
        assert!(self.running.len() <= self.limits.n_running);
        assert!(self.running.is_sorted_by_key(|sequence| sequence.order), "running out of order");
        assert!(self.waiting.iter().is_sorted_by_key(|sequence| sequence.order), "waiting out of order");
        assert!(self.waiting.iter().all(|sequence| sequence.pages.is_empty()), "waiting sequences hold no page");
        let mut slots: Vec<usize> = self.running.iter().map(|sequence| sequence.slot).collect();
        slots.extend(&self.slots_free);
        slots.sort_unstable();
        assert!(slots.into_iter().eq(0..self.limits.n_running), "each slot is free or used once");
        for sequence in &self.running {
            let n_stored = sequence.pages.len() * PAGE_TOKENS;
            assert!(sequence.n_computed <= n_stored && sequence.n_computed < sequence.tokens.len());
        }
    }
}

/// Appends a row with the next `n` tokens of a sequence, if `n > 0`, and returns `n`.
fn push_row(batch: &mut Batch, sequence: &Sequence, n: usize) -> usize {
    if n > 0 {
        let start = sequence.n_computed;
        let end = start + n;
        let (first_token, first_page) = (batch.tokens.len(), batch.pages.len());
        batch.tokens.extend_from_slice(&sequence.tokens[start..end]);
        batch.pages.extend_from_slice(&sequence.pages[..end.div_ceil(PAGE_TOKENS)]);
        batch.rows.push(Row {
            seq: sequence.id,
            start,
            tokens: (first_token, batch.tokens.len()),
            pages: (first_page, batch.pages.len()),
            slot: sequence.slot,
            parents: None,
            want: if end == sequence.tokens.len() { Want::Last } else { Want::Nothing },
        });
    }
    n
}
