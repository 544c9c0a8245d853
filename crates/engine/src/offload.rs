//! The engine's side of the disk tier: which pages are written when, and which are restored before a sequence is admitted.
//!
//! Pages of sequences that ended are written while there is nothing better to do, a few in each step otherwise; pages that
//! are evicted before are written then. A sequence that arrives waits for the pages of its prompt that lie on the disk, if
//! reading them is faster than computing them, by measure; they come into the arena as cached pages. A prefix of a model
//! with recurrent states is worth nothing but up to a state: states lie in files of their own beside the pages.

use std::collections::VecDeque;
use std::sync::mpsc::Sender;
use std::time::Duration;

use crate::disk::{Disk, Maker, ModelDisk};
use crate::engine::Event;
use crate::prefix::{Evicted, PrefixHash};
use crate::runner::PAGE_TOKENS;
use crate::schedule::Schedule;
use crate::sequence::Arrival;
use crate::{PageId, Runner, SeqId, StateId};

/// Pages that are to be written, at most; the oldest are forgotten.
const MAX_PENDING: usize = 1 << 16;
/// Bytes that are read for one sequence before the engine asks for more.
const READ_BYTES: usize = 32 << 20;
/// Weight of a new measure of reading.
const WEIGHT: f64 = 0.3;
/// Of so many prompts that would not be worth reading, one is read: the disk may be faster than it was.
const PROBE_PERIOD: u32 = 16;

/// See the module.
pub(crate) struct Offload {
    disk: ModelDisk,
    page_bytes: usize,
    /// Recurrent states, and the bytes of one.
    states: Option<(ModelDisk, usize)>,
    pending: VecDeque<Pending>,
    fetches: Vec<Fetch>,
    /// Bytes a second.
    rate: Option<f64>,
    n_skipped: u32,
    /// Tokens restored since the start.
    pub n_restored: u64,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    hash: PrefixHash,
    depth: u32,
    used: u64,
}

/// A sequence whose pages are read.
struct Fetch {
    arrival: Arrival,
    /// Names of its pages up to the last that is read, and the next one to come.
    hashes: Vec<PrefixHash>,
    next: usize,
    /// Where the pages that were asked for end, and since when and where they are read.
    asked: usize,
    since: Duration,
    first: usize,
    /// Whether the state after the last of them is read too.
    wants_state: bool,
    events: Sender<Event>,
}

impl Offload {
    /// For pages of `page_bytes`, and the states of `runner`; `None` for a model without pages.
    pub fn new((disk, maker): (Disk, Maker), page_bytes: usize, runner: &dyn Runner) -> Option<Offload> {
        let info = runner.info();
        if page_bytes == 0 || (info.recurrent && info.n_saved == 0) {
            return None;
        }
        let states = info.recurrent.then(|| {
            let mut state = Vec::new();
            runner.export_state(StateId(0), &mut state);
            (disk.of(Maker::new(&[&maker.0, b"state"]), state.len()), state.len())
        });
        let (disk, pending, fetches) = (disk.of(maker, page_bytes), VecDeque::new(), Vec::new());
        Some(Offload { disk, page_bytes, states, pending, fetches, rate: None, n_skipped: 0, n_restored: 0 })
    }

    /// Sequences that wait for their pages.
    pub fn n_fetching(&self) -> usize {
        self.fetches.len()
    }

    /// Whether pages are to be written.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether pages are to be written and only the queue keeps them waiting.
    pub fn is_full(&self) -> bool {
        self.has_pending() && self.disk.is_full()
    }

    /// Lets the pages of a sequence that ended be written.
    pub fn ended(&mut self, hashes: &[PrefixHash]) {
        let used = self.disk.next_use();
        for (depth, hash) in hashes.iter().enumerate() {
            if self.pending.len() == MAX_PENDING {
                self.pending.pop_front();
            }
            self.pending.push_back(Pending { hash: *hash, depth: depth as u32, used });
        }
    }

    /// Writes pending pages, at most `max_bytes` of them and as many as the disk takes.
    pub fn write(&mut self, schedule: &Schedule, runner: &dyn Pages, max_bytes: usize) {
        // At least one, however large it is.
        let mut left = max_bytes.max(self.page_bytes);
        while left >= self.page_bytes && !self.pending.is_empty() && self.disk.takes() {
            let Some(Pending { hash, depth, used }) = self.pending.pop_front() else { return };
            let Some(page) = schedule.pages().find(&hash) else { continue };
            if !self.disk.contains(&hash) {
                self.disk.write(hash, (depth, used), |out| runner.export(page, out));
                left -= self.page_bytes;
            }
            if let Some((states, bytes)) = &self.states
                && let Some(state) = schedule.pages().state(&hash)
                && !states.contains(&hash)
            {
                states.write(hash, (depth, used), |out| runner.export_state(state, out));
                left = left.saturating_sub(*bytes);
            }
        }
    }

    /// Writes a page that is about to be overwritten.
    pub fn evicted(&mut self, evicted: Evicted, runner: &dyn Pages) {
        let Evicted { page, hash, depth } = evicted;
        if !self.disk.contains(&hash) {
            self.disk.write(hash, (depth, self.disk.next_use()), |out| runner.export(page, out));
        }
    }

    /// Takes a sequence that arrived, if pages of it are worth reading; `seconds_token` is what a prompt token takes to
    /// compute. Returns it otherwise.
    pub fn arrive(
        &mut self,
        arrival: Arrival,
        schedule: &Schedule,
        (events, now): (Sender<Event>, Duration),
        seconds_token: Option<f64>,
    ) -> Option<Arrival> {
        let mut hashes = arrival.hashes();
        let n_known = hashes.iter().take_while(|hash| schedule.pages().find(hash).is_some()).count();
        hashes.truncate(n_known + self.disk.find(&hashes[n_known..]));
        let (mut n_reused, mut wants_state) = (n_known, false);
        if let Some((states, _)) = &self.states {
            let is_kept = |hash: &PrefixHash| schedule.pages().state(hash).is_some();
            let last = hashes.iter().rposition(|hash| is_kept(hash) || states.contains(hash));
            hashes.truncate(last.map_or(0, |last| last + 1));
            n_reused = hashes.iter().take(n_known).rposition(is_kept).map_or(0, |last| last + 1);
            wants_state = hashes.last().is_some_and(|hash| !is_kept(hash));
        }
        let n_more = hashes.len().saturating_sub(n_known);
        let bytes =
            n_more * self.page_bytes + if wants_state { self.states.as_ref().map_or(0, |(_, n)| *n) } else { 0 };
        let n_saved = hashes.len().saturating_sub(n_reused) * PAGE_TOKENS;
        if bytes == 0 || !self.is_worth_it(bytes, n_saved, seconds_token) {
            return Some(arrival);
        }
        let next = n_known.min(hashes.len());
        let (asked, first, since) = (next, next, now);
        let mut fetch = Fetch { arrival, hashes, next, asked, since, first, wants_state, events };
        self.ask(&mut fetch, now);
        self.fetches.push(fetch);
        None
    }

    /// Whether reading `bytes` is faster than computing `n_tok` tokens.
    fn is_worth_it(&mut self, bytes: usize, n_tok: usize, seconds_token: Option<f64>) -> bool {
        let (Some(rate), Some(seconds_token)) = (self.rate, seconds_token) else { return true };
        let is_faster = bytes as f64 / rate < n_tok as f64 * seconds_token;
        self.n_skipped = if is_faster { 0 } else { self.n_skipped + 1 };
        is_faster || self.n_skipped.is_multiple_of(PROBE_PERIOD)
    }

    fn ask(&self, fetch: &mut Fetch, now: Duration) {
        let n = (READ_BYTES / self.page_bytes.max(1)).max(1);
        (fetch.first, fetch.since) = (fetch.next, now);
        fetch.asked = (fetch.next + n).min(fetch.hashes.len());
        let (id, events) = (fetch.arrival.id, fetch.events.clone());
        // When the engine has ended, nothing more is to be read.
        let reply = move |page| events.send(Event::Page(id, page)).is_ok();
        match &self.states {
            Some((states, _)) if fetch.next == fetch.hashes.len() => {
                states.read(fetch.hashes[fetch.next - 1..].to_vec(), reply)
            }
            _ => self.disk.read(fetch.hashes[fetch.next..fetch.asked].to_vec(), reply),
        }
    }

    /// Takes a page that was read into the arena. Returns the sequence when it need not wait any more.
    pub fn fetched(
        &mut self,
        (id, page): (SeqId, Option<Vec<u8>>),
        schedule: &mut Schedule,
        runner: &mut dyn Pages,
        now: Duration,
    ) -> Option<Arrival> {
        let at = self.fetches.iter().position(|fetch| fetch.arrival.id == id)?;
        let depth = self.fetches[at].next;
        if depth == self.fetches[at].hashes.len() {
            let Fetch { arrival, hashes, .. } = self.fetches.swap_remove(at);
            let last = hashes.last().expect("a state comes after a page");
            if let Some(bytes) = page {
                schedule.adopt_state(last, |state| runner.import_state(state, &bytes));
            }
            return Some(arrival);
        }
        let hash = self.fetches[at].hashes[depth];
        let is_kept = page.is_some_and(|bytes| {
            let is_kept = schedule.adopt(hash, depth, |evicted, page| {
                if let Some(evicted) = evicted {
                    self.evicted(evicted, runner);
                }
                runner.import(page, &bytes)
            });
            self.n_restored += if is_kept { PAGE_TOKENS as u64 } else { 0 };
            is_kept
        });
        let fetch = &mut self.fetches[at];
        fetch.next += usize::from(is_kept);
        if is_kept && fetch.next < fetch.asked {
            return None;
        }
        let seconds = now.saturating_sub(fetch.since).as_secs_f64();
        if is_kept && seconds > 0.0 {
            let rate = ((fetch.next - fetch.first) * self.page_bytes) as f64 / seconds;
            self.rate = Some(self.rate.map_or(rate, |mean| mean + WEIGHT * (rate - mean)));
        }
        if is_kept && (fetch.next < fetch.hashes.len() || fetch.wants_state) {
            let mut fetch = self.fetches.swap_remove(at);
            self.ask(&mut fetch, now);
            self.fetches.push(fetch);
            return None;
        }
        Some(self.fetches.swap_remove(at).arrival)
    }

    /// Gives up a sequence that waits for its pages; returns whether it did.
    pub fn cancel(&mut self, id: SeqId) -> bool {
        let at = self.fetches.iter().position(|fetch| fetch.arrival.id == id);
        at.map(|at| self.fetches.swap_remove(at)).is_some()
    }

    /// Gives a sequence that waits for its pages another name. What is read for the old name is then not taken: it goes on
    /// without.
    pub fn rename(&mut self, id: SeqId, name: SeqId) -> Option<Arrival> {
        let at = self.fetches.iter().position(|fetch| fetch.arrival.id == id)?;
        let mut arrival = self.fetches.swap_remove(at).arrival;
        arrival.id = name;
        Some(arrival)
    }
}

/// The bytes of pages, of the model and of what drafts for it.
pub(crate) trait Pages {
    /// Appends a page's bytes.
    fn export(&self, page: PageId, out: &mut Vec<u8>);
    /// Overwrites a page; returns whether the bytes were one.
    fn import(&mut self, page: PageId, bytes: &[u8]) -> bool;
    /// Appends a saved state's bytes.
    fn export_state(&self, state: StateId, out: &mut Vec<u8>);
    /// Overwrites a saved state; returns whether the bytes were one.
    fn import_state(&mut self, state: StateId, bytes: &[u8]) -> bool;
}
