//! The step loop: events, plan, compute, sample, tell.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvError, TryRecvError};
use std::time::Duration;

use crate::client::{Client, Sampled};
use crate::engine::{Clock, Config, Event, Shared};
use crate::pace::Pace;
use crate::request::{FinishReason, Stats};
use crate::sampler::{SampleError, Scratch};
use crate::schedule::{Limits, Reuse, Schedule};
use crate::{Batch, RunError, Runner, SeqId, Want};

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
    sampled: Vec<(SeqId, Option<Result<Sampled, SampleError>>)>,
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
        let reuse = if info.recurrent { Reuse::Nothing } else { Reuse::Prefixes };
        let limits =
            Limits { step_tokens: config.step_tokens, n_running: config.max_running, n_page: info.n_page, reuse };
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
        }
    }

    /// Runs until it is told to stop or no one can tell it anything any more.
    pub fn run(&mut self, inbox: &Receiver<Event>) -> Result<(), RunError> {
        while self.hear(inbox) == Next::Step {
            self.step()?;
        }
        let ids: Vec<SeqId> = self.clients.keys().copied().collect();
        ids.into_iter().for_each(|id| self.end(id, FinishReason::Cancelled));
        Ok(())
    }

    /// Ends every sequence because the model failed.
    pub fn fail(mut self, message: &str) {
        let now = (self.clock)();
        for (_, client) in self.clients.drain() {
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
                    self.schedule.push(id, request.tokens, request.priority);
                }
                Ok(Event::Cancel(id)) => self.end(id, FinishReason::Cancelled),
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
        self.note_starts(start);
        self.runner.submit(&self.batch)?;
        self.sample()?;
        self.schedule.commit(&self.batch);
        let now = (self.clock)();
        self.stats.n_step += 1;
        self.stats.busy += now.saturating_sub(start);
        self.pace.learn(self.batch.tokens.len(), now.saturating_sub(start));
        let mut sampled = std::mem::take(&mut self.sampled);
        for (id, outcome) in sampled.drain(..) {
            self.take(id, outcome, now);
        }
        self.sampled = sampled;
        self.publish();
        Ok(())
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

    /// Waits for the batch and chooses a token for each row that wants one.
    fn sample(&mut self) -> Result<(), RunError> {
        let Steps { runner, schedule, clients, batch, scratch, sampled, .. } = self;
        let outputs = runner.wait()?;
        let mut logits = outputs.data.chunks_exact(outputs.n_vocab.max(1));
        for row in batch.rows.iter().filter(|row| row.want == Want::Last) {
            let missing = || RunError::Backend("the model returned fewer logits than were asked for".into());
            let logits = logits.next().ok_or_else(missing)?;
            let client = clients.get_mut(&row.seq).expect("each sequence has a client");
            let history = &schedule.running(row.seq).expect("a planned sequence runs").tokens;
            let outcome = client.wants_tokens().then(|| client.sample(scratch, logits, history));
            sampled.push((row.seq, outcome));
        }
        Ok(())
    }

    fn take(&mut self, id: SeqId, outcome: Option<Result<Sampled, SampleError>>, now: Duration) {
        let client = self.clients.get_mut(&id).expect("each sequence has a client");
        let reason = match outcome {
            None => Some(FinishReason::Length),
            Some(Err(error)) => Some(FinishReason::Error(error.to_string())),
            Some(Ok(sampled)) => {
                self.stats.n_generated += 1;
                self.schedule.append(id, sampled.token);
                let n_tok = self.schedule.running(id).map_or(0, |sequence| sequence.tokens.len());
                let is_full = n_tok > self.n_ctx;
                client.take(sampled, now).or(is_full.then_some(FinishReason::Length))
            }
        };
        if let Some(reason) = reason {
            self.end(id, reason);
        }
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
