//! The step loop: events, plan, compute, sample, tell.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvError, TryRecvError};
use std::time::Duration;

use crate::client::{Client, Sampled};
use crate::engine::{Clock, Config, Event, Shared};
use crate::pace::Pace;
use crate::prefix::PrefixHash;
use crate::request::{FinishReason, Request, Stats};
use crate::sampler::{SampleError, Scratch};
use crate::schedule::{Limits, Op, Past, Schedule};
use crate::sequence::Arrival;
use crate::{Batch, RunError, Runner, SeqId, TokenId, Want};

/// A model and its sequences; owned by the engine's thread.
pub(crate) struct Steps {
    runner: Box<dyn Runner>,
    schedule: Schedule,
    clients: HashMap<SeqId, Client>,
    shared: Arc<Shared>,
    clock: Clock,
    n_ctx: usize,
    stats: Stats,
    pace: Pace,
    batch: Batch,
    scratch: Scratch,
    sampled: Vec<Outcome>,
    /// By row: tokens that count.
    n_kept: Vec<usize>,
    /// Sequences whose prompt was computed and that have others to split off.
    parents: Vec<SeqId>,
    /// A sequence and its accepted draft.
    history: Vec<TokenId>,
}

/// What came of a sequence's logits.
struct Outcome {
    id: SeqId,
    /// `None` if no token was wanted.
    sampled: Option<Result<Sampled, SampleError>>,
    /// Whether the token is not part of the sequence yet; drafted tokens that were accepted are.
    is_new: bool,
}

/// Whether the loop goes on.
#[derive(PartialEq, Eq)]
enum Next {
    Step,
    Stop,
}

impl Steps {
    pub fn new(runner: Box<dyn Runner>, config: &Config, n_ctx: usize, shared: Arc<Shared>, clock: Clock) -> Steps {
        let info = runner.info();
        let past = match (info.recurrent, info.window) {
            (true, _) => Past::Recurrent { n_saved: info.n_saved },
            (false, Some(window)) => Past::Window(window),
            (false, None) => Past::Pages,
        };
        let limits = Limits {
            step_tokens: config.step_tokens,
            n_running: config.max_running,
            n_running_client: config.max_running_client,
            n_page: info.n_page,
            past,
        };
        Steps {
            runner,
            schedule: Schedule::new(limits),
            clients: HashMap::new(),
            shared,
            clock,
            n_ctx,
            stats: Stats::default(),
            pace: Pace::new(config.step_time, config.step_tokens),
            batch: Batch::default(),
            scratch: Scratch::default(),
            sampled: Vec::new(),
            n_kept: Vec::new(),
            parents: Vec::new(),
            history: Vec::new(),
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
        Ok(())
    }

    /// Ends every sequence because the model failed.
    pub fn fail(mut self, message: &str) {
        let now = (self.clock)();
        for (_, mut client) in self.clients.drain() {
            for (_, fork) in client.forks.drain(..) {
                fork.finish(FinishReason::Error(message.to_owned()), now);
            }
            client.finish(FinishReason::Error(message.to_owned()), now);
        }
    }

    /// Takes what has come in; waits for something if there is nothing to do.
    fn hear(&mut self, inbox: &Receiver<Event>) -> Next {
        loop {
            let is_idle = self.schedule.n_running() + self.schedule.n_waiting() == 0;
            let event =
                if is_idle { inbox.recv().map_err(|RecvError| TryRecvError::Disconnected) } else { inbox.try_recv() };
            match event {
                Ok(Event::Submit(id, submitted)) => {
                    let (request, client) = *submitted;
                    self.clients.insert(id, client);
                    let Request { tokens, priority, client, .. } = request;
                    let root = PrefixHash::root(&request.salt);
                    self.schedule.push(Arrival { id, tokens, priority, client, root });
                }
                Ok(Event::Cancel(id)) => self.cancel(id),
                Ok(Event::Shutdown) => return Next::Stop,
                Err(TryRecvError::Empty) => return Next::Step,
                Err(TryRecvError::Disconnected) => return if is_idle { Next::Stop } else { Next::Step },
            }
            self.publish();
        }
    }

    fn step(&mut self) -> Result<(), RunError> {
        let start = (self.clock)();
        self.schedule.plan(&mut self.batch, self.pace.budget_tokens());
        self.do_ops();
        self.note_starts(start);
        self.runner.submit(&self.batch)?;
        self.sample()?;
        self.schedule.commit(&self.batch, &self.n_kept);
        self.do_ops();
        let now = (self.clock)();
        self.stats.n_step += 1;
        self.stats.busy += now.saturating_sub(start);
        self.pace.learn(self.batch.tokens.len(), now.saturating_sub(start));
        self.split(now);
        let mut sampled = std::mem::take(&mut self.sampled);
        sampled.drain(..).for_each(|outcome| self.take(outcome, now));
        self.sampled = sampled;
        self.publish();
        Ok(())
    }

    /// Does what the schedule wants done to pages and states.
    fn do_ops(&mut self) {
        for op in self.schedule.ops() {
            match op {
                Op::CopyPage { from, to } => self.runner.copy_page(from, to),
                Op::Evicted { .. } => {}
                Op::SaveState { slot, state } => self.runner.save_state(slot, state),
                Op::RestoreState { slot, state } => self.runner.restore_state(slot, state),
            }
        }
    }

    fn note_starts(&mut self, now: Duration) {
        for row in &self.batch.rows {
            let n_cached = self.schedule.running(row.seq).and_then(|sequence| sequence.n_cached).unwrap_or(0);
            let client = self.clients.get_mut(&row.seq).expect("each sequence has a client");
            self.stats.n_prompt += prompt_tokens(row.start, row.tokens, client.n_prompt());
            if client.start(n_cached, now) {
                self.stats.n_cached += n_cached as u64;
                self.shared.n_queued.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }

    /// Waits for the batch and chooses tokens for each row that wants some.
    fn sample(&mut self) -> Result<(), RunError> {
        let Steps { runner, schedule, clients, batch, scratch, sampled, n_kept, parents, history, .. } = self;
        let outputs = runner.wait()?;
        let mut logits = outputs.data.chunks_exact(outputs.n_vocab.max(1));
        let missing = || RunError::Backend("the model returned fewer logits than were asked for".into());
        n_kept.clear();
        for row in &batch.rows {
            let tokens = &batch.tokens[row.tokens.0..row.tokens.1];
            if !matches!(row.want, Want::Last | Want::All) {
                n_kept.push(tokens.len());
                continue;
            }
            let client = clients.get_mut(&row.seq).expect("each sequence has a client");
            let stored = &schedule.running(row.seq).expect("a planned sequence runs").tokens;
            if row.want == Want::Last {
                n_kept.push(tokens.len());
                let logits = logits.next().ok_or_else(missing)?;
                if !client.forks.is_empty() {
                    parents.push(row.seq);
                }
                // The forks first: each begins with the prompt alone.
                let mut forks = std::mem::take(&mut client.forks);
                for (id, client) in forks.iter_mut().map(|(id, fork)| (*id, fork)).chain([(row.seq, &mut *client)]) {
                    let outcome = client.wants_tokens().then(|| client.sample(scratch, logits, stored));
                    sampled.push(Outcome { id, sampled: outcome, is_new: true });
                }
                client.forks = forks;
                continue;
            }
            // A draft: each token is sampled as it would be without one, and the draft counts as far as it agrees.
            history.clone_from(stored);
            let mut n = 0;
            let mut logits = logits.by_ref().take(tokens.len());
            loop {
                let outcome = client.sample(scratch, logits.next().ok_or_else(missing)?, history);
                n += 1;
                let drafted = tokens.get(n).copied();
                let agrees =
                    |sampled: &Sampled| Some(sampled.token) == drafted && !client.ends_with(sampled.token, n - 1);
                let goes_on = outcome.as_ref().is_ok_and(agrees);
                history.extend(drafted);
                sampled.push(Outcome { id: row.seq, sampled: Some(outcome), is_new: !goes_on });
                if !goes_on {
                    break;
                }
            }
            logits.for_each(drop);
            n_kept.push(n);
        }
        Ok(())
    }

    /// Splits off the sequences that continue a prompt that was computed in this step.
    fn split(&mut self, now: Duration) {
        for parent in self.parents.drain(..) {
            let n_cached = self.schedule.running(parent).and_then(|sequence| sequence.n_cached).unwrap_or(0);
            let client = self.clients.get_mut(&parent).expect("each sequence has a client");
            for (id, mut fork) in std::mem::take(&mut client.forks) {
                self.schedule.fork(parent, id);
                if fork.start(n_cached, now) {
                    self.shared.n_queued.fetch_sub(1, Ordering::AcqRel);
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
                client.take(sampled, now).or(is_full.then_some(FinishReason::Length))
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
        self.schedule.remove(id);
        if let Some(client) = self.clients.remove(&id) {
            if !client.has_started() {
                self.shared.n_queued.fetch_sub(1, Ordering::AcqRel);
            }
            // Whoever hears of the end finds it in the statistics.
            self.publish();
            client.finish(reason, (self.clock)());
        }
    }

    fn publish(&mut self) {
        self.stats = self.stats();
        self.shared.set_stats(self.stats);
    }

    pub fn stats(&self) -> Stats {
        let pages = self.schedule.pages();
        Stats {
            running: self.schedule.n_running(),
            waiting: self.schedule.n_waiting(),
            pages_used: pages.n_used(),
            pages_cached: pages.n_cached(),
            pages_free: pages.n_free(),
            n_preempted: self.schedule.n_preempted(),
            ..self.stats
        }
    }
}

/// Tokens of a row that are the prompt's.
fn prompt_tokens(start: usize, tokens: (usize, usize), n_prompt: usize) -> u64 {
    let end = start + tokens.1 - tokens.0;
    (end.min(n_prompt).saturating_sub(start)) as u64
}
