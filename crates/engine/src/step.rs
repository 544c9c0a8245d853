//! The step loop: events, plan, draft, compute, sample, tell.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::Duration;

use crate::accept::Others;
use crate::client::Client;
use crate::disk::RETRY;
use crate::draft::DraftModel;
use crate::engine::{Clock, Config, Event, Parts, Shared};
use crate::models::Models;
use crate::offload::Offload;
use crate::pace::{Pace, Targets};
use crate::prefix::PrefixHash;
use crate::propose::{Means, propose};
use crate::request::{FinishReason, Request, Stats};
use crate::sampling::{Outcome, Sampling};
use crate::schedule::{Limits, Op, Past, Schedule};
use crate::sequence::Arrival;
use crate::times::{MEAN, StepTimes, UNDISTURBED};
use crate::{Batch, PageId, Row, RunError, Runner, SeqId, TokenId, Want};

/// Bytes of pages that are written to disk after a step while others wait for tokens.
const WRITE_BYTES: usize = 1 << 20;
/// Bytes of pages that are written to disk before events are looked at again, while nothing is to be computed.
const WRITE_BYTES_IDLE: usize = 32 << 20;

/// Tokens of a reply for which memory is set aside when it begins.
const MAX_RESERVE: usize = 2048;
/// Tokens of a sequence and pages of a batch for which memory is set aside, at most.
const MAX_ROOM: usize = 1 << 14;
/// How long an engine that ends waits for the disk to take its pages.
const LAST_WRITES: Duration = Duration::from_secs(20);

/// A model and its sequences; owned by the engine's thread.
pub(crate) struct Steps {
    models: Models,
    schedule: Schedule,
    clients: HashMap<SeqId, Client>,
    offload: Option<Offload>,
    shared: Arc<Shared>,
    clock: Clock,
    n_ctx: usize,
    max_draft: usize,
    /// Whether a rejected draft costs the tokens before it too.
    rewinds: bool,
    /// Whether drafts may be trees.
    trees: bool,
    stats: Stats,
    pace: Pace,
    /// Of all steps, and of those that only generate.
    times: StepTimes,
    decode_times: StepTimes,
    others: Others,
    batch: Batch,
    sampling: Sampling,
    /// The ids of running sequences.
    ids: Vec<SeqId>,
}

/// Whether the loop goes on.
#[derive(PartialEq, Eq)]
enum Next {
    Step,
    Stop,
}

impl Steps {
    pub fn new(parts: Parts, config: &Config, n_ctx: usize, shared: Arc<Shared>, clock: Clock) -> Steps {
        let Parts { runner, draft, disk, held } = parts;
        let info = runner.info();
        let past = Past::of(&info, config);
        let limits = Limits {
            step_tokens: config.step_tokens,
            n_running: config.max_running,
            n_running_client: config.max_running_client,
            n_page: info.n_page,
            past,
        };
        // A backend may keep more of a page than its numbers.
        let exported = |runner: &dyn Runner| {
            let mut bytes = Vec::new();
            runner.export_page(PageId(0), &mut bytes);
            bytes.len()
        };
        let own_bytes = exported(runner.as_ref());
        let draft = draft.map(|draft| DraftModel::new(draft, &info, config.draft_trees && !info.recurrent));
        let paged = draft.as_ref().filter(|draft| draft.shares_pages());
        let page_bytes = own_bytes + paged.map_or(0, |draft| exported(draft.runner.as_ref()) + 1);
        let offload = disk.and_then(|disk| Offload::new(disk, page_bytes, runner.as_ref()));
        Steps {
            models: Models { runner, draft, page_bytes: own_bytes, _held: held },
            schedule: Schedule::new(limits),
            clients: HashMap::new(),
            offload,
            shared,
            clock,
            n_ctx,
            max_draft: if past.can_rewind() { config.max_draft } else { 0 },
            rewinds: info.recurrent,
            trees: config.draft_trees && !info.recurrent,
            stats: Stats::default(),
            pace: Pace::new(Targets { token: config.token_time, step: config.step_time }, config.step_tokens),
            times: StepTimes::new(MEAN),
            decode_times: StepTimes::new(UNDISTURBED),
            others: Others::new(),
            batch: Batch::with_room(config.max_running, config.step_tokens, info.n_page.min(MAX_ROOM)),
            sampling: Sampling::with_room(config.max_running, config.step_tokens, n_ctx.min(MAX_ROOM)),
            ids: Vec::new(),
        }
    }

    /// Runs until it is told to stop or no one can tell it anything any more.
    pub fn run(&mut self, inbox: &Receiver<Event>) -> Result<(), RunError> {
        while self.hear(inbox) == Next::Step {
            self.step()?;
        }
        while let Some(id) = self.clients.keys().next().copied() {
            self.cancel(id);
        }
        let end = (self.clock)() + LAST_WRITES;
        loop {
            self.write_pages(usize::MAX);
            if !self.offload.as_ref().is_some_and(Offload::is_full) || (self.clock)() >= end {
                return Ok(());
            }
            std::thread::sleep(RETRY);
        }
    }

    /// Ends every sequence because the model failed.
    pub fn fail(mut self, message: &str) {
        let now = (self.clock)();
        for (_, mut client) in self.clients.drain() {
            for (_, fork) in client.forks.drain(..) {
                fork.finish(FinishReason::Error(message.to_owned()), now, &self.shared.metrics);
            }
            client.finish(FinishReason::Error(message.to_owned()), now, &self.shared.metrics);
        }
    }

    /// Takes what has come in; waits for something if there is nothing to do.
    fn hear(&mut self, inbox: &Receiver<Event>) -> Next {
        loop {
            let is_idle = self.schedule.n_running() + self.schedule.n_waiting() == 0;
            let event = if is_idle { self.rest(inbox) } else { inbox.try_recv() };
            match event {
                Ok(Event::Submit(id, submitted, events)) => self.arrive(id, *submitted, events),
                Ok(Event::Cancel(id)) => self.cancel(id),
                Ok(Event::Page(id, page)) => self.fetched(id, page),
                Ok(Event::Shutdown) => return Next::Stop,
                Err(TryRecvError::Empty) => return Next::Step,
                Err(TryRecvError::Disconnected) => return if is_idle { Next::Stop } else { Next::Step },
            }
            self.publish();
        }
    }

    /// Waits for an event, and writes pages meanwhile.
    fn rest(&mut self, inbox: &Receiver<Event>) -> Result<Event, TryRecvError> {
        self.shared.rests();
        loop {
            self.write_pages(WRITE_BYTES_IDLE);
            let has_pending = self.offload.as_ref().is_some_and(Offload::has_pending);
            let event = match has_pending {
                true => inbox.recv_timeout(RETRY),
                false => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match event {
                Ok(event) => return Ok(event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(TryRecvError::Disconnected),
            }
        }
    }

    fn write_pages(&mut self, max_bytes: usize) {
        if let Some(offload) = &mut self.offload {
            offload.write(&self.schedule, &self.models, max_bytes);
        }
    }

    fn arrive(&mut self, id: SeqId, (request, client): (Request, Client), events: Sender<Event>) {
        self.clients.insert(id, client);
        let Request { mut tokens, priority, client, salt, max_tokens, prompt_logprobs, .. } = request;
        let wants_all = prompt_logprobs.is_some();
        // Most replies then grow without memory being moved.
        tokens.reserve(max_tokens.min(self.n_ctx.saturating_sub(tokens.len())).min(MAX_RESERVE) + 1);
        let arrival = Arrival { id, tokens, priority, client, root: PrefixHash::root(&salt), wants_all };
        let seconds_token = self.read_seconds();
        let now = (self.clock)();
        let arrival = match &mut self.offload {
            Some(offload) if !wants_all => offload.arrive(arrival, &self.schedule, (events, now), seconds_token),
            _ => Some(arrival),
        };
        if let Some(arrival) = arrival {
            self.schedule.push(arrival);
        }
    }

    /// Seconds of a token of a prompt, as far as that is known.
    fn read_seconds(&self) -> Option<f64> {
        self.times.seconds(512).map(|seconds| seconds / 512.0)
    }

    fn fetched(&mut self, id: SeqId, page: Option<Vec<u8>>) {
        let now = (self.clock)();
        let Steps { offload, schedule, models, .. } = self;
        let arrival = offload.as_mut().and_then(|offload| offload.fetched((id, page), schedule, models, now));
        if let Some(arrival) = arrival {
            self.schedule.push(arrival);
        }
    }

    fn step(&mut self) -> Result<(), RunError> {
        let start = (self.clock)();
        self.shared.works(start);
        let n_decode = self.draft();
        self.schedule.plan(&mut self.batch, self.pace.budget_tokens(&self.times, n_decode));
        self.batch.n_best = self.n_best();
        self.batch.wants_hidden = self.models.draft.as_ref().is_some_and(DraftModel::reads_hidden);
        self.do_ops();
        self.note_starts(start);
        let is_decode = self.batch.rows.iter().all(|row| row.want != Want::Nothing && row.start > 0)
            && self.batch.rows.len() <= n_decode;
        let drafts = (self.clock)();
        if let Some(draft) = &mut self.models.draft {
            draft.draft(&mut self.batch, &self.schedule, &mut self.clients, &self.clock)?;
        }
        let computes = (self.clock)();
        self.models.runner.submit(&self.batch)?;
        let outputs = self.models.runner.wait()?;
        let computed = (self.clock)();
        let took = computed.saturating_sub(computes);
        self.stats.computing += computed.saturating_sub(drafts);
        self.sampling.sample(&self.batch, outputs, &self.schedule, &mut self.clients)?;
        if let Some(draft) = &mut self.models.draft {
            let since = (self.clock)();
            for (at, row) in self.batch.rows.iter().enumerate() {
                let kept = (self.sampling.n_kept[at], self.sampling.path(at));
                draft.keep(row, kept, self.models.runner.hidden());
            }
            draft.follow(&self.batch, (&self.schedule, &self.clients), &self.clock)?;
            self.stats.computing += (self.clock)().saturating_sub(since);
        }
        self.learn_drafts();
        self.models.straighten(&mut self.batch, &self.sampling);
        self.schedule.commit(&self.batch, &self.sampling.n_kept);
        self.do_ops();
        let now = (self.clock)();
        self.learn((n_decode, is_decode), took, now.saturating_sub(start));
        self.split(now);
        let mut outcomes = std::mem::take(&mut self.sampling.outcomes);
        outcomes.drain(..).for_each(|outcome| self.take(outcome, now));
        self.sampling.outcomes = outcomes;
        self.write_pages(WRITE_BYTES);
        self.stats.busy += (self.clock)().saturating_sub(start);
        self.publish();
        Ok(())
    }

    fn learn(&mut self, (n_decode, is_decode): (usize, bool), computed: Duration, took: Duration) {
        let n_tok = self.batch.tokens.len();
        self.stats.n_step += 1;
        self.shared.metrics.iteration_tokens_total.observe(n_tok as f64);
        if !self.models.runner.compiled() {
            self.times.learn(n_tok, took);
            match is_decode {
                true => self.decode_times.learn(n_tok, computed),
                false => self.pace.learn(&self.times, n_decode, took),
            }
        }
    }

    /// Drafts for the sequences that generate, as far as it pays. Returns how many there are.
    fn draft(&mut self) -> usize {
        let running = self.schedule.all_running();
        self.ids.clear();
        self.ids.extend(running.iter().filter(|sequence| sequence.is_decode()).map(|sequence| sequence.id));
        let n_decode = self.ids.len();
        let mut n_tok = n_decode;
        let read_seconds = self.read_seconds().unwrap_or(0.0);
        for id in self.ids.drain(..) {
            let client = self.clients.get_mut(&id).expect("each sequence has a client");
            let tokens = &self.schedule.running(id).expect("it runs").tokens;
            let room = self.max_draft.min(client.n_left().saturating_sub(1));
            let means = Means {
                id,
                model: self.models.draft.as_ref(),
                others: &self.others,
                times: &self.decode_times,
                rewinds: self.rewinds,
                n_decode,
                n_tok,
                room: room.min(self.n_ctx.saturating_sub(tokens.len())),
                read_seconds,
                trees: self.trees,
            };
            propose(client, tokens, &means, (&mut self.sampling.draft, &mut self.sampling.draft_parents));
            n_tok += self.sampling.draft.len();
            self.schedule.draft(id, &self.sampling.draft, &self.sampling.draft_parents);
        }
        n_decode
    }

    /// How many of the largest logits the step's clients need; `None` for all.
    fn n_best(&self) -> Option<usize> {
        let wanted = self.batch.rows.iter().filter(|row| row.want != Want::Nothing);
        let needed = |row: &Row| self.clients.get(&row.seq).and_then(Client::n_best);
        wanted.map(needed).try_fold(1, |most, n| Some(most.max(n?)))
    }

    fn learn_drafts(&mut self) {
        for (at, (row, n_kept)) in self.batch.rows.iter().zip(&self.sampling.n_kept).enumerate() {
            let n_draft = self.schedule.n_draft(row);
            let client = self.clients.get_mut(&row.seq).expect("each sequence has a client");
            let (line, came) = match n_draft {
                0 => ((0, 0), self.sampling.ends[at]),
                _ => line_of(&self.batch, &self.sampling, at),
            };
            if n_draft > 0 {
                if let (Some(source), Some(speculator)) = (client.source, client.speculator()) {
                    speculator.learn(source, (n_draft, n_kept - 1), line);
                }
                self.shared.metrics.drafted(n_draft, n_kept - 1);
            }
            let Some(draft) = &mut self.models.draft else { continue };
            draft.learn((row.seq, client), line, came);
            if n_draft > 0 {
                draft.verified(row.seq, row.start + 1 + line.1);
            }
        }
    }

    /// Does what the schedule wants done to pages and states.
    fn do_ops(&mut self) {
        let Steps { schedule, models, offload, .. } = self;
        for op in schedule.ops() {
            match op {
                Op::CopyPage { from, to } => models.copy_page(from, to),
                Op::Evicted(evicted) => {
                    if let Some(offload) = offload {
                        offload.evicted(evicted, models);
                    }
                }
                Op::SaveState { slot, state } => models.runner.save_state(slot, state),
                Op::RestoreState { slot, state } => models.runner.restore_state(slot, state),
            }
        }
    }

    fn note_starts(&mut self, now: Duration) {
        for row in &self.batch.rows {
            let n_cached = self.schedule.running(row.seq).and_then(|sequence| sequence.n_cached).unwrap_or(0);
            let client = self.clients.get_mut(&row.seq).expect("each sequence has a client");
            self.stats.n_prompt += prompt_tokens(row.start, row.tokens, client.n_prompt());
            if client.start(n_cached, now) {
                self.stats.n_asked += client.n_prompt() as u64;
                self.stats.n_cached += n_cached as u64;
                self.shared.started(now);
            }
        }
    }

    /// Splits off the sequences that continue a prompt that was computed in this step.
    fn split(&mut self, now: Duration) {
        for parent in self.sampling.parents.drain(..) {
            let n_cached = self.schedule.running(parent).and_then(|sequence| sequence.n_cached).unwrap_or(0);
            let client = self.clients.get_mut(&parent).expect("each sequence has a client");
            for (id, mut fork) in std::mem::take(&mut client.forks) {
                self.schedule.fork(parent, id);
                if fork.start(n_cached, now) {
                    self.shared.started(now);
                }
                self.clients.insert(id, fork);
            }
        }
    }

    fn take(&mut self, outcome: Outcome, now: Duration) {
        let id = outcome.id;
        let client = self.clients.get_mut(&id).expect("each sequence has a client");
        let reason = match outcome.sampled {
            None => Some(FinishReason::Length),
            Some(Err(error)) => Some(FinishReason::Error(error.to_string())),
            Some(Ok(sampled)) => {
                self.stats.n_generated += 1;
                if outcome.is_new {
                    self.schedule.append(id, sampled.token);
                }
                let n_tok = self.schedule.sequence(id).map_or(0, |sequence| sequence.tokens.len());
                let is_full = outcome.is_new && n_tok > self.n_ctx;
                client.take(sampled, now, &self.shared.metrics).or(is_full.then_some(FinishReason::Length))
            }
        };
        if let Some(reason) = reason {
            self.end(id, reason);
        }
    }

    /// Ends a sequence whose client wants no more of it.
    fn cancel(&mut self, id: SeqId) {
        if let Some(client) = self.clients.get_mut(&id)
            && !client.forks.is_empty()
        {
            // Others wait for this prompt: the next of them takes the sequence over.
            let (heir, mut next) = client.forks.remove(0);
            next.forks = std::mem::take(&mut client.forks);
            self.schedule.rename(id, heir);
            if let Some(arrival) = self.offload.as_mut().and_then(|offload| offload.rename(id, heir)) {
                self.schedule.push(arrival);
            }
            self.clients.insert(heir, next);
        } else if !self.clients.contains_key(&id) {
            let fork = |client: &mut Client| {
                let at = client.forks.iter().position(|(fork, _)| *fork == id)?;
                Some(client.forks.remove(at))
            };
            if let Some((id, fork)) = self.clients.values_mut().find_map(fork) {
                self.clients.insert(id, fork);
            }
        }
        self.end(id, FinishReason::Cancelled);
    }

    fn end(&mut self, id: SeqId, reason: FinishReason) {
        let sequence = self.schedule.remove(id);
        if let Some(offload) = &mut self.offload {
            offload.cancel(id);
            if let Some(sequence) = sequence {
                offload.ended(sequence.names());
            }
        }
        if let (Some(draft), Some(client)) = (&mut self.models.draft, self.clients.get(&id)) {
            draft.forget(id, client);
        }
        if let Some(mut client) = self.clients.remove(&id) {
            let kind = client.kind();
            if let Some(speculator) = client.speculator() {
                self.others.learn(kind, speculator.by_agreement(), speculator.account.balance());
                self.stats.saved_by_drafts += speculator.account.saved();
            }
            self.shared.left(client.asked_by, client.has_started());
            // Whoever hears of the end finds it in the statistics.
            self.publish();
            client.finish(reason, (self.clock)(), &self.shared.metrics);
        }
    }

    fn publish(&mut self) {
        self.stats = self.stats();
        self.shared.set_stats(self.stats);
    }

    pub fn stats(&self) -> Stats {
        let pages = self.schedule.pages();
        let (n_fetching, n_restored) =
            self.offload.as_ref().map_or((0, 0), |offload| (offload.n_fetching(), offload.n_restored));
        Stats {
            running: self.schedule.n_running(),
            waiting: self.schedule.n_waiting() + n_fetching,
            pages_used: pages.n_used(),
            pages_cached: pages.n_cached(),
            pages_free: pages.n_free(),
            n_preempted: self.schedule.n_preempted(),
            n_restored,
            ..self.stats
        }
    }
}

/// Tokens of a row that are the prompt's.
fn prompt_tokens(start: usize, tokens: (usize, usize), n_prompt: usize) -> u64 {
    let end = start + tokens.1 - tokens.0;
    (end.min(n_prompt).saturating_sub(start)) as u64
}

/// Of the first line of a row's draft: how many tokens it has and how many of them were accepted; and what came in place of
/// the next.
fn line_of(batch: &Batch, sampling: &Sampling, at: usize) -> ((usize, usize), Option<TokenId>) {
    let (row, path) = (&batch.rows[at], sampling.path(at));
    let n_draft = row.tokens.1 - row.tokens.0 - 1;
    let Some((from, to)) = row.parents else { return ((n_draft, sampling.n_kept[at] - 1), sampling.ends[at]) };
    let n_line = (1..).zip(&batch.parents[from + 1..to]).take_while(|(i, parent)| **parent + 1 == *i).count();
    let n_same = path.iter().enumerate().take_while(|(i, at)| i == *at).count();
    let came = path.get(n_same).map(|at| batch.tokens[row.tokens.0 + at]);
    ((n_line, n_same - 1), came.or(sampling.ends[at]))
}
