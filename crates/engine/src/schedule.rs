//! Which tokens a step computes. Pure policy: it sees ids and lengths, no clock, no model.
//!
//! ```text
//! push -> waiting --admit--> running --remove--> gone
//!            ^                  |  |
//!            +----- preempt ----+  +--fork--> running, with shared pages
//! ```
//! A step has one budget of tokens. Running sequences that need one token go first, with what is drafted for them, then
//! chunks of running prompts, then waiting ones are admitted: by priority, then the client that was served least, then by
//! arrival. A sequence is admitted when pages for all its tokens are there and one for each running sequence is left; it
//! grows page by page. When no page is left for a sequence to grow, the running sequence that is last in order gives up
//! its own.
//!
//! Pages that sequences share are copied before one writes to them. The recurrent state of a model lies in slots, not in
//! pages: it is saved where a later prompt may begin, at page borders, and prompts are cut there.
//! Sources: vLLM V1, `vllm/v1/core/sched/scheduler.py`; where states are worth saving: Pan et al., "Marconi: prefix caching
//! for the era of hybrid LLMs", MLSys 2025.

mod states;

pub use crate::limits::{Limits, Op, Past};
use crate::pages::{Pages, n_unseen};
use crate::prefix::{Evicted, PrefixHash};
use crate::runner::PAGE_TOKENS;
use crate::sequence::{Arrival, Sequence};
use crate::share::{GENERATED_WEIGHT, Shares};
use crate::{Batch, PageId, Row, SeqId, TokenId};

/// Where prompts are to be read, drafts get one part in so many of what a step has left.
const DRAFT_PART: usize = 4;
/// Most tokens of a prompt in a step where logits are wanted after each: they take memory.
const MAX_WANTED: usize = 64;

/// The schedule of one model.
#[derive(Debug)]
pub struct Schedule {
    limits: Limits,
    pages: Pages,
    waiting: Vec<Sequence>,
    /// In order.
    running: Vec<Sequence>,
    slots_free: Vec<usize>,
    shares: Shares,
    ops: Vec<Op>,
    n_arrival: u64,
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
        assert!(limits.n_running_client > 0, "each client needs a sequence: {limits:?}");
        assert!(limits.step_tokens >= limits.n_running, "a step must hold a token of each sequence: {limits:?}");
        let n_saved = if let Past::Recurrent { n_saved, .. } = limits.past { n_saved } else { 0 };
        Schedule {
            limits,
            pages: Pages::new(limits.n_page, n_saved),
            waiting: Vec::new(),
            running: Vec::with_capacity(limits.n_running),
            slots_free: (0..limits.n_running).rev().collect(),
            shares: Shares::default(),
            ops: Vec::new(),
            n_arrival: 0,
            n_preempted: 0,
        }
    }

    /// Lets a sequence wait for its first step.
    ///
    /// # Panics
    /// If it has no tokens or more than the arena holds; the engine refuses such requests.
    pub fn push(&mut self, arrival: Arrival) {
        let n = arrival.tokens.len();
        assert!(n > 0 && n <= self.limits.n_page * PAGE_TOKENS, "{n} tokens");
        self.n_arrival += 1;
        self.wait(Sequence::new(arrival, self.n_arrival));
    }

    fn wait(&mut self, sequence: Sequence) {
        self.shares.wait(sequence.client);
        self.waiting.push(sequence);
    }

    /// Ends a sequence and frees its pages at once; `None` if there is no such sequence.
    pub fn remove(&mut self, id: SeqId) -> Option<Sequence> {
        if let Some(at) = self.waiting.iter().position(|sequence| sequence.id == id) {
            let sequence = self.waiting.remove(at);
            self.shares.leave(sequence.client);
            return Some(sequence);
        }
        let at = self.running.iter().position(|sequence| sequence.id == id)?;
        Some(self.stop(at))
    }

    /// Gives a sequence another name.
    pub fn rename(&mut self, id: SeqId, name: SeqId) {
        let mut all = self.running.iter_mut().chain(&mut self.waiting);
        if let Some(sequence) = all.find(|sequence| sequence.id == id) {
            sequence.id = name;
        }
    }

    fn stop(&mut self, at: usize) -> Sequence {
        let mut sequence = self.running.remove(at);
        self.pages.release(sequence.pages.drain(..));
        self.slots_free.push(sequence.slot);
        self.shares.stop(sequence.client);
        sequence.reset();
        sequence
    }

    /// A running sequence.
    #[must_use]
    pub fn running(&self, id: SeqId) -> Option<&Sequence> {
        self.running.iter().find(|sequence| sequence.id == id)
    }

    /// A sequence that runs or waits.
    #[must_use]
    pub fn sequence(&self, id: SeqId) -> Option<&Sequence> {
        self.running.iter().chain(&self.waiting).find(|sequence| sequence.id == id)
    }

    /// The sequences that run, in order.
    #[must_use]
    pub fn all_running(&self) -> &[Sequence] {
        &self.running
    }

    /// Appends a generated token to a sequence.
    ///
    /// # Panics
    /// If there is no such sequence.
    pub fn append(&mut self, id: SeqId, token: TokenId) {
        let mut all = self.running.iter_mut().chain(&mut self.waiting);
        let sequence = all.find(|sequence| sequence.id == id).expect("only sequences that are there grow");
        sequence.tokens.push(token);
    }

    /// Drafts tokens for a running sequence that needs one token: as many of them as fit are part of its next row.
    /// Where they are a tree, `parents` are the tokens before them, as indices in that row; else it is empty.
    pub fn draft(&mut self, id: SeqId, tokens: &[TokenId], parents: &[i32]) {
        if let Some(sequence) = self.running.iter_mut().find(|sequence| sequence.id == id && sequence.is_decode()) {
            sequence.set_draft(tokens, parents);
        }
    }

    /// How many tokens at the end of a planned row are drafted.
    #[must_use]
    pub fn n_draft(&self, row: &Row) -> usize {
        let n_known = self.running(row.seq).map_or(usize::MAX, |sequence| sequence.tokens.len() - row.start);
        (row.tokens.1 - row.tokens.0).saturating_sub(n_known)
    }

    /// Splits a second sequence `id` off the running sequence `parent`, all of whose tokens are computed. It runs beside
    /// it on shared pages if there is room, and waits otherwise.
    ///
    /// # Panics
    /// If `parent` does not run or is not computed.
    pub fn fork(&mut self, parent: SeqId, id: SeqId) {
        self.n_arrival += 1;
        let parent = self.running(parent).expect("only running sequences are forked");
        assert_eq!(parent.n_left(), 0, "a sequence is forked when it is computed");
        let mut sequence = parent.forked(id, self.n_arrival);
        let shares = !matches!(self.limits.past, Past::Recurrent { .. });
        let room = self.running.len() < self.limits.n_running && self.pages.n_available() > self.running.len();
        if shares && room && self.shares.n_running(sequence.client) < self.limits.n_running_client {
            self.pages.share(&sequence.pages);
            self.start(sequence);
        } else {
            sequence.pages.clear();
            sequence.reset();
            self.wait(sequence);
        }
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

    /// What the runner must do now, in order.
    pub fn ops(&mut self) -> std::vec::Drain<'_, Op> {
        self.ops.drain(..)
    }

    /// Overwrites `batch` with the next step, of at most `budget_tokens`, if that is within the limits. It is empty only
    /// if no sequence is left. Before it is computed, [`Schedule::ops`] must be done.
    pub fn plan(&mut self, batch: &mut Batch, budget_tokens: usize) {
        batch.clear();
        let n_preempted = self.n_preempted;
        let mut budget = budget_tokens.clamp(self.limits.n_running, self.limits.step_tokens);
        let mut n_decode = self.running.iter().filter(|sequence| sequence.is_decode()).count();
        let is_asked = !self.waiting.is_empty() && self.running.len() < self.limits.n_running;
        // Drafts do not keep prompts waiting.
        let part = if is_asked || n_decode < self.running.len() { DRAFT_PART } else { 1 };
        let mut drafts = budget.saturating_sub(n_decode) / part;
        let mut at = 0;
        // Running sequences are in order, and the last in order is preempted: one that has its row keeps it.
        while at < self.running.len() {
            if self.running[at].is_decode() {
                if self.grow(at) {
                    self.fit_draft(at, drafts.min(budget.saturating_sub(n_decode)));
                    drafts -= self.running[at].draft.len();
                    self.keep_state(at);
                    budget -= self.running[at].push_row(batch, 1);
                }
                n_decode -= 1;
            }
            at += 1;
        }
        for at in 0..self.running.len() {
            if self.running[at].n_left() > 0 && !self.running[at].is_decode() {
                budget -= self.push_chunk(batch, at, budget);
            }
        }
        // Pages that were just taken from one sequence are not for a new one.
        while budget > 0 && self.n_preempted == n_preempted {
            let Some(at) = self.admit() else { break };
            budget -= self.push_chunk(batch, at, budget);
        }
    }

    /// Appends a row with a prompt's next tokens, at most `budget`, and returns how many.
    fn push_chunk(&self, batch: &mut Batch, at: usize, budget: usize) -> usize {
        let sequence = &self.running[at];
        let limit = if sequence.n_wanted > 0 { MAX_WANTED } else { usize::MAX };
        let mut end = sequence.n_computed + sequence.n_left().min(budget).min(limit);
        if matches!(self.limits.past, Past::Recurrent { .. }) {
            let stops = [sequence.branch, sequence.last_border()];
            let stop = stops.into_iter().filter(|stop| *stop > sequence.n_computed).min();
            end = end.min(stop.unwrap_or(end));
            let border = end / PAGE_TOKENS * PAGE_TOKENS;
            if end < sequence.tokens.len() && border > sequence.n_computed {
                end = border;
            }
        }
        sequence.push_row(batch, end - sequence.n_computed)
    }

    /// Takes a page of a prefix that comes from elsewhere, with `depth` pages before it, as a cached page. `import` fills it,
    /// after it has seen what was evicted for it, and returns whether it could. Returns whether the prefix is cached now:
    /// no page is taken that a sequence needs.
    pub fn adopt(
        &mut self,
        hash: PrefixHash,
        depth: usize,
        import: impl FnOnce(Option<Evicted>, PageId) -> bool,
    ) -> bool {
        if self.pages.find(&hash).is_some() {
            return true;
        }
        if self.pages.n_available() <= self.running.len() {
            return false;
        }
        let page = self.pages.alloc().expect("a page is available");
        let is_filled = import(self.pages.take_evicted(), page);
        if is_filled {
            self.pages.adopt(hash, depth, page);
        }
        self.pages.release(std::iter::once(page));
        is_filled
    }

    /// A page, which is noted if it kept a prefix.
    fn alloc(&mut self) -> Option<PageId> {
        let page = self.pages.alloc()?;
        self.ops.extend(self.pages.take_evicted().map(Op::Evicted));
        Some(page)
    }

    /// Makes sure that the running sequence `at` has a page of its own for its next token, at others' cost if need be.
    /// Returns whether it still runs.
    fn grow(&mut self, at: usize) -> bool {
        loop {
            let sequence = &self.running[at];
            let (next, n_unseen) = (sequence.n_computed / PAGE_TOKENS, sequence.n_unseen);
            let held = sequence.pages.get(next - n_unseen).copied();
            if held.is_some_and(|page| !self.pages.is_shared(page)) {
                return true;
            }
            if let Some(page) = self.alloc() {
                if let Some(shared) = held {
                    self.running[at].pages[next - n_unseen] = page;
                    self.pages.release(std::iter::once(shared));
                    self.ops.push(Op::CopyPage { from: shared, to: page });
                } else {
                    self.running[at].pages.push(page);
                }
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
    }

    /// Cuts the draft of the running sequence `at` down to `budget` and to the pages that can be spared.
    fn fit_draft(&mut self, at: usize, budget: usize) {
        let spare = self.pages.n_available().saturating_sub(self.running.len());
        let budget = budget.min(self.draft_room(&self.running[at]));
        let sequence = &mut self.running[at];
        let stored = (sequence.n_page() + spare) * PAGE_TOKENS;
        let fits = stored.saturating_sub(sequence.n_computed + 1).min(budget);
        sequence.draft.truncate(fits);
        sequence.draft_parents.truncate(fits);
        let need = (sequence.n_computed + 1 + sequence.draft.len()).div_ceil(PAGE_TOKENS);
        while self.running[at].n_page() < need {
            let page = self.alloc().expect("pages that are spare are available");
            self.running[at].pages.push(page);
        }
    }

    /// Admits the waiting sequence that is next, if it fits, and returns where it runs.
    fn admit(&mut self) -> Option<usize> {
        if self.running.len() >= self.limits.n_running {
            return None;
        }
        let (shares, limit) = (&self.shares, self.limits.n_running_client);
        let free = self.waiting.iter().enumerate().filter(|(_, next)| shares.n_running(next.client) < limit);
        // One that was preempted was next before: it has waited enough.
        let key = |next: &Sequence| (next.order.0, next.n_cached.is_none(), shares.served(next.client), next.order.1);
        let next = free.min_by_key(|(_, next)| key(next)).map(|(at, _)| at)?;
        let sequence = &mut self.waiting[next];
        let n_token = sequence.tokens.len();
        // The last token is always computed: its logits are wanted.
        let n_whole = if sequence.n_wanted > 0 { 0 } else { (n_token - 1) / PAGE_TOKENS };
        let window = if let Past::Window(window) = self.limits.past { Some(window) } else { None };
        let hashes = &sequence.hashes()[..n_whole];
        let mut known = self.pages.known(hashes, window);
        let mut branch = 0;
        if matches!(self.limits.past, Past::Recurrent { .. }) {
            branch = known.n_page * PAGE_TOKENS;
            known = self.pages.known_state(hashes, known);
        }
        let mut pages = std::mem::take(&mut self.waiting[next].pages);
        let hashes = &self.waiting[next].hashes()[..n_whole];
        let n_unseen = self.pages.hold(hashes, known, &mut pages);
        let n_needed = n_token.div_ceil(PAGE_TOKENS) - known.n_page;
        if n_needed + self.running.len() > self.pages.n_available() {
            self.pages.release(pages.drain(..));
            self.waiting[next].pages = pages;
            return None;
        }
        let mut sequence = self.waiting.remove(next);
        self.shares.leave(sequence.client);
        for _ in 0..n_needed {
            pages.push(self.alloc().expect("so many are available"));
        }
        (sequence.pages, sequence.n_unseen, sequence.branch) = (pages, n_unseen, branch);
        sequence.n_computed = known.n_page * PAGE_TOKENS;
        sequence.n_registered = known.n_page;
        if sequence.n_cached.is_none() {
            sequence.n_cached = Some(sequence.n_computed);
            self.shares.serve(sequence.client, sequence.n_left() as u64);
        }
        Some(self.start(sequence))
    }

    /// Lets a sequence run that has its pages, and returns where.
    fn start(&mut self, mut sequence: Sequence) -> usize {
        sequence.slot = self.slots_free.pop().expect("there are as many slots as running sequences");
        if matches!(self.limits.past, Past::Recurrent { .. }) && sequence.n_computed > 0 {
            let n_page = sequence.n_computed / PAGE_TOKENS;
            let state = self.pages.use_state(&sequence.hashes()[n_page - 1]).expect("its prefix ends at a saved state");
            self.ops.push(Op::RestoreState { slot: sequence.slot, state });
        }
        self.shares.run(sequence.client);
        let at = self.running.partition_point(|other| other.order < sequence.order);
        self.running.insert(at, sequence);
        at
    }

    /// Notes that `batch` was computed and how many tokens of each row count: all but the drafted ones that were
    /// rejected. Drafted tokens that count become part of the sequence. Prefixes that are complete are kept. Then
    /// [`Schedule::ops`] must be done.
    pub fn commit(&mut self, batch: &Batch, n_kept: &[usize]) {
        for (row, n_kept) in batch.rows.iter().zip(n_kept) {
            let Some(at) = self.running.iter().position(|sequence| sequence.id == row.seq) else { continue };
            let sequence = &mut self.running[at];
            let n_known = sequence.tokens.len() - row.start;
            if *n_kept > n_known {
                sequence.tokens.extend_from_slice(&batch.tokens[row.tokens.0..][n_known..*n_kept]);
            }
            sequence.n_computed = row.start + n_kept;
            if sequence.n_computed >= sequence.n_wanted {
                sequence.n_wanted = 0;
            }
            sequence.set_draft(&[], &[]);
            if sequence.n_computed == sequence.tokens.len() {
                self.shares.serve(sequence.client, GENERATED_WEIGHT * (n_kept - n_kept.min(&n_known) + 1) as u64);
            }
            if *n_kept < row.tokens.1 - row.tokens.0 && self.rewind(at) {
                self.running[at].n_computed = row.start;
            } else {
                self.keep(at);
            }
        }
    }

    /// Keeps the prefixes that the running sequence `at` completed, and gives back what no later token sees.
    fn keep(&mut self, at: usize) {
        let sequence = &mut self.running[at];
        let n_whole = sequence.n_computed / PAGE_TOKENS;
        sequence.hashes();
        while sequence.n_registered < n_whole {
            let at = sequence.n_registered;
            let page = sequence.pages[at - sequence.n_unseen];
            self.pages.register(sequence.hashes()[at], at, page);
            sequence.n_registered += 1;
        }
        match self.limits.past {
            Past::Pages => {}
            Past::Window(window) => {
                let n = n_unseen(sequence.n_computed, Some(window)).min(sequence.n_page() - 1);
                let n_more = n.saturating_sub(sequence.n_unseen);
                self.pages.release(sequence.pages.drain(..n_more));
                sequence.n_unseen += n_more;
            }
            Past::Recurrent { .. } => self.save(at),
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
        assert!(self.waiting.iter().all(|sequence| sequence.pages.is_empty()), "waiting sequences hold no page");
        let mut slots: Vec<usize> = self.running.iter().map(|sequence| sequence.slot).collect();
        slots.extend(&self.slots_free);
        slots.sort_unstable();
        assert!(slots.into_iter().eq(0..self.limits.n_running), "each slot is free or used once");
        for sequence in &self.running {
            let of_client = self.running.iter().filter(|other| other.client == sequence.client).count();
            assert_eq!(of_client, self.shares.n_running(sequence.client), "a client's running sequences");
            assert!(of_client <= self.limits.n_running_client, "too many sequences of one client");
            let n_stored = sequence.n_page() * PAGE_TOKENS;
            assert!(sequence.n_computed <= n_stored && sequence.n_computed < sequence.tokens.len());
        }
    }
}
