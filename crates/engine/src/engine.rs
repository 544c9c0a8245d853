//! The handle to a running engine, and how it starts and ends.
//!
//! One thread owns the model and reads a closed `Event`. A model that fails or panics takes its requests with it, never
//! the process: every sink hears `Finished`, and later requests are refused as [`SubmitError::Dead`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::disk::{Disk, Maker};
use crate::metrics::Metrics;
use crate::request::{Request, Sink, Stats, SubmitError};
use crate::runner::PAGE_TOKENS;
use crate::sampler::Sampler;
pub(crate) use crate::shared::Shared;
use crate::step::Steps;
use crate::{Runner, RunnerInfo, SeqId, Translate};

/// Most tokens of [`Request::logprobs`] and [`Request::prompt_logprobs`].
pub const MAX_TOP_LOGPROBS: usize = 128;
/// Most sinks of a request.
pub const MAX_CHOICES: usize = 64;
/// Most bytes of [`Request::salt`].
pub const MAX_SALT_BYTES: usize = 1024;
/// Most of [`Request::stop_tokens`].
pub const MAX_STOP_TOKENS: usize = 256;

/// Limits of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Most tokens that a step computes, of all sequences.
    pub step_tokens: usize,
    /// The time between two tokens of a sequence, 95th percentile, where the machine allows it: prompts are computed beside
    /// it in chunks that keep to this, as measured.
    pub token_time: Duration,
    /// How long a step may take while no sequence generates.
    pub step_time: Duration,
    /// Most tokens that are drafted for a sequence in a step; 0 for no speculation.
    pub max_draft: usize,
    /// Whether a model drafts a second token where it is not sure, a lookup a second continuation, and guesses are made where
    /// nothing else is drafted, so that a row is a tree. What a token sees lies in another
    /// order then, and sums are rounded otherwise: where two tokens are nearly as likely, the text may be another one.
    pub draft_trees: bool,
    /// Most requests of one client, waiting or running.
    pub max_client: usize,
    /// Most sequences at once; the model's slots may allow fewer.
    pub max_running: usize,
    /// Most sequences of one client at once.
    pub max_running_client: usize,
    /// Most requests that wait.
    pub max_queue: usize,
    /// Most tokens of a sequence; the model and its arena may allow fewer.
    pub max_context: usize,
    /// Seeds of requests that name none are drawn from this.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            step_tokens: 512,
            token_time: Duration::from_millis(80),
            step_time: Duration::from_millis(500),
            max_draft: 16,
            draft_trees: false,
            max_client: usize::MAX,
            max_running: 32,
            max_running_client: usize::MAX,
            max_queue: 256,
            max_context: usize::MAX,
            seed: 0,
        }
    }
}

/// Why an engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// A limit is out of range.
    #[error("engine limit `{field}` is {found}, expected {expected}")]
    Limit {
        /// Which.
        field: &'static str,
        /// Found.
        found: usize,
        /// Expected.
        expected: String,
    },
    /// The draft model does not fit the model.
    #[error("the draft model has {found}, expected {expected}: load another one, or none")]
    Draft {
        /// Found.
        found: String,
        /// Expected.
        expected: String,
    },
    /// The system gave no thread.
    #[error("the engine's thread did not start: {0}")]
    Thread(std::io::Error),
}

/// What the engine's thread is told.
pub(crate) enum Event {
    Submit(SeqId, Box<(Request, Client)>, Sender<Event>),
    Cancel(SeqId),
    /// A page that was read for a sequence; `None`: it is not there.
    Page(SeqId, Option<Vec<u8>>),
    Shutdown,
}

/// All that an engine runs on.
pub struct Parts {
    /// The model.
    pub runner: Box<dyn Runner>,
    /// A small model that drafts for it.
    pub draft: Option<Draft>,
    /// Where pages are kept beyond the arena, and what tells them apart from those of other models.
    pub disk: Option<(Disk, Maker)>,
    /// Dropped when the models are freed: what accounts for their memory.
    pub held: Option<Box<dyn Send>>,
}

/// A small model that drafts for another. Neither has a recurrent state.
pub struct Draft {
    /// The model; of the same vocabulary it has at least as many pages as the other.
    pub runner: Box<dyn Runner>,
    /// What it reads.
    pub reads: Reads,
}

/// What a draft model reads.
pub enum Reads {
    /// The large model's tokens.
    Tokens,
    /// Tokens of its own, of another vocabulary.
    Translated(Box<dyn Translate>),
    /// The large model's tokens, each with the hidden state before it: a layer for further tokens. The state is that after the
    /// last layer, normed, or those that come to these layers, one after another, where any are named.
    Hidden(Vec<usize>),
    /// The large model's last hidden state, of which so many heads each say a further token.
    Heads(usize),
}

impl std::fmt::Debug for Reads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Reads::Tokens => "Tokens",
            Reads::Translated(_) => "Translated",
            Reads::Hidden(_) => "Hidden",
            Reads::Heads(_) => "Heads",
        })
    }
}

impl From<Box<dyn Runner>> for Draft {
    fn from(runner: Box<dyn Runner>) -> Draft {
        Draft { runner, reads: Reads::Tokens }
    }
}

impl std::fmt::Debug for Draft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Draft").field("runner", &self.runner.info()).field("reads", &self.reads).finish()
    }
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts")
            .field("runner", &self.runner.info())
            .field("draft", &self.draft)
            .field("disk", &self.disk)
            .finish()
    }
}

impl From<Box<dyn Runner>> for Parts {
    fn from(runner: Box<dyn Runner>) -> Parts {
        Parts { runner, draft: None, disk: None, held: None }
    }
}

/// A running engine. Clones are handles to the same one; it ends when the last handle and ticket are gone.
#[derive(Clone)]
pub struct Engine {
    events: Sender<Event>,
    shared: Arc<Shared>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
    info: RunnerInfo,
    config: Config,
    n_ctx: usize,
    clock: Clock,
}

/// The time since some moment.
pub(crate) type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

impl Engine {
    /// Starts a thread that runs the model.
    ///
    /// # Errors
    /// If a limit is out of range or the system gives no thread.
    pub fn spawn(parts: impl Into<Parts>, config: Config) -> Result<Engine, SpawnError> {
        let start = Instant::now();
        Engine::spawn_with_clock(parts, config, Arc::new(move || start.elapsed()))
    }

    /// As [`Engine::spawn`], with a clock of the caller's.
    ///
    /// # Errors
    /// If a limit is out of range or the system gives no thread.
    pub fn spawn_with_clock(
        parts: impl Into<Parts>,
        mut config: Config,
        clock: Arc<dyn Fn() -> Duration + Send + Sync>,
    ) -> Result<Engine, SpawnError> {
        let mut parts = parts.into();
        let info = parts.runner.info();
        config.max_running = config.max_running.min(info.n_slot).min(info.n_page);
        check(&config, &info)?;
        if let Some(draft) = &parts.draft {
            check_draft(draft, parts.runner.as_mut(), &info)?;
        }
        let n_ctx = config.max_context.min(info.n_ctx).min(info.n_page.saturating_mul(PAGE_TOKENS));
        let (events, inbox) = mpsc::channel();
        let shared = Arc::new(Shared::new());
        let mut steps = Steps::new(parts, &config, n_ctx, shared.clone(), clock.clone());
        shared.set_stats(steps.stats());
        let body = {
            let shared = shared.clone();
            move || {
                let end = catch_unwind(AssertUnwindSafe(|| steps.run(&inbox)));
                let message = match end {
                    Ok(Ok(())) => "it was shut down".to_owned(),
                    Ok(Err(error)) => error.to_string(),
                    Err(panic) => format!("it panicked: {}", panic_text(panic.as_ref())),
                };
                shared.die(message.clone());
                // Dropping the inbox drops requests that are still in it, and their clients hear of it.
                drop(catch_unwind(AssertUnwindSafe(move || steps.fail(&message))));
            }
        };
        let thread = std::thread::Builder::new().name("engine".into()).spawn(body).map_err(SpawnError::Thread)?;
        let thread = Arc::new(Mutex::new(Some(thread)));
        Ok(Engine { events, shared, thread, info, config, n_ctx, clock })
    }

    /// What the engine knows of its model.
    #[must_use]
    pub fn info(&self) -> &RunnerInfo {
        &self.info
    }

    /// Most tokens of a sequence.
    #[must_use]
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// What the engine did by its last step.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// How long the step that is being computed has taken so far; zero while there is nothing to compute.
    #[must_use]
    pub fn busy_for(&self) -> Duration {
        self.shared.busy_for((self.clock)())
    }

    /// Why the engine has stopped, or `None` while it runs.
    #[must_use]
    pub fn dead(&self) -> Option<String> {
        self.shared.dead()
    }

    /// Continues a sequence; `sink` hears of it. Dropping the ticket cancels the sequence.
    ///
    /// # Errors
    /// If the request breaks a limit, the queue is full or the engine has stopped. Then `sink` hears nothing.
    pub fn submit(&self, request: Request, sink: Sink) -> Result<Ticket, SubmitError> {
        let mut tickets = self.submit_all(request, vec![sink])?;
        Ok(tickets.pop().expect("a ticket for each sink"))
    }

    /// Continues a sequence in several ways, one for each sink, which share the computed prompt. Where the request has a
    /// seed, each adds its index to it. A ticket for each sink is returned, in their order.
    ///
    /// # Errors
    /// As [`Engine::submit`]; also if there are no sinks, or more than [`MAX_CHOICES`].
    pub fn submit_all(&self, request: Request, sinks: Vec<Sink>) -> Result<Vec<Ticket>, SubmitError> {
        self.check_request(&request)?;
        let n = sinks.len();
        if !(1..=MAX_CHOICES).contains(&n) {
            return Err(SubmitError::Limit { field: "n", found: n, limit: MAX_CHOICES });
        }
        if let Some(reason) = self.dead() {
            return Err(SubmitError::Dead(reason));
        }
        self.shared.queue(request.client, n, (self.config.max_queue, self.config.max_client))?;
        let first = self.shared.next_ids(n);
        let now = (self.clock)();
        let mut clients = sinks.into_iter().enumerate().map(|(i, sink)| {
            let id = SeqId(first + i as u64);
            let mut params = request.params.clone();
            params.seed = params.seed.map(|seed| seed.wrapping_add(i as u64));
            let sampler = Sampler::new(params, self.config.seed.wrapping_add(id.0.wrapping_mul(SEED_STEP)));
            (id, Client::new(&request, sampler, (sink, now), self.info.n_vocab))
        });
        let (id, mut client) = clients.next().expect("at least one");
        client.forks.extend(clients);
        let ticket = |i| Ticket { id: SeqId(first + i as u64), events: self.events.clone() };
        match self.events.send(Event::Submit(id, Box::new((request, client)), self.events.clone())) {
            Ok(()) => Ok((0..n).map(ticket).collect()),
            Err(mpsc::SendError(event)) => {
                if let Event::Submit(_, submitted, _) = event {
                    submitted.1.forget();
                }
                Err(SubmitError::Dead(self.dead().unwrap_or_else(|| "its thread has ended".into())))
            }
        }
    }

    /// Ends the engine: its sequences are cancelled, and the model is freed when this returns.
    pub fn shutdown(&self) {
        // An engine that has ended already hears nothing, which is as good.
        let _ = self.events.send(Event::Shutdown);
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            // The body catches panics, so that joining cannot fail.
            let _ = thread.join();
        }
    }

    fn check_request(&self, request: &Request) -> Result<(), SubmitError> {
        request.params.check()?;
        let limits = [
            ("logprobs", request.logprobs.unwrap_or(0), MAX_TOP_LOGPROBS),
            ("prompt_logprobs", request.prompt_logprobs.unwrap_or(0), MAX_TOP_LOGPROBS),
            ("stop_tokens", request.stop_tokens.len(), MAX_STOP_TOKENS),
            ("salt", request.salt.len(), MAX_SALT_BYTES),
        ];
        if let Some((field, found, limit)) = limits.into_iter().find(|(_, found, limit)| found > limit) {
            return Err(SubmitError::Limit { field, found, limit });
        }
        if request.tokens.is_empty() {
            return Err(SubmitError::Empty);
        }
        if request.tokens.len() > self.n_ctx {
            return Err(SubmitError::TooLong { found: request.tokens.len(), limit: self.n_ctx });
        }
        let n_vocab = self.info.n_vocab;
        let prompt = request.tokens.iter().map(|token| ("tokens", *token));
        let bias = request.params.logit_bias.iter().map(|(token, _)| ("logit_bias", *token));
        match prompt.chain(bias).find(|(_, token)| *token as usize >= n_vocab) {
            Some((field, token)) => Err(SubmitError::Token { field, token, n_vocab }),
            None => Ok(()),
        }
    }
}

/// An odd number far from others, so that seeds of neighbouring requests share no bits.
const SEED_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A submitted request. Dropping it cancels the sequence, if that has not ended.
#[derive(Debug)]
pub struct Ticket {
    id: SeqId,
    events: Sender<Event>,
}

impl Ticket {
    /// Ends the sequence; its sink hears `Finished` soon.
    pub fn cancel(&self) {
        // An engine that has ended has finished the sequence already.
        let _ = self.events.send(Event::Cancel(self.id));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Event::Submit(id, ..) => write!(f, "Submit({id:?})"),
            Event::Page(id, page) => write!(f, "Page({id:?}, {})", page.is_some()),
            Event::Cancel(id) => write!(f, "Cancel({id:?})"),
            Event::Shutdown => write!(f, "Shutdown"),
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("info", &self.info).field("config", &self.config).finish_non_exhaustive()
    }
}

fn check(config: &Config, info: &RunnerInfo) -> Result<(), SpawnError> {
    let rows = [
        ("max_running", config.max_running, 1),
        ("step_tokens", config.step_tokens, config.max_running),
        ("max_running_client", config.max_running_client, 1),
        ("max_queue", config.max_queue, 1),
        ("max_client", config.max_client, 1),
        ("max_context", config.max_context, 1),
        ("n_ctx", info.n_ctx, 1),
        ("n_page", info.n_page, 1),
    ];
    match rows.into_iter().find(|(_, found, low)| found < low) {
        Some((field, found, low)) => Err(SpawnError::Limit { field, found, expected: format!("at least {low}") }),
        None => Ok(()),
    }
}

/// A draft model of the same vocabulary computes on the model's page numbers, and the model gives what it reads.
fn check_draft(draft: &Draft, large: &mut dyn Runner, model: &RunnerInfo) -> Result<(), SpawnError> {
    let error = |found: String, expected: String| Err(SpawnError::Draft { found, expected });
    let Draft { runner, reads } = draft;
    let draft = runner.info();
    let reads_last = match reads {
        Reads::Hidden(layers) => layers.is_empty(),
        Reads::Heads(_) => true,
        Reads::Tokens | Reads::Translated(_) => false,
    };
    if reads_last && draft.d_model != model.d_model {
        return error(format!("hidden states of {}", draft.d_model), format!("the model's {}", model.d_model));
    }
    if let Reads::Hidden(layers) = reads
        && !large.reveal(layers)
    {
        return error(format!("hidden states that come to the layers {layers:?}"), "a model that gives them".into());
    }
    if matches!(reads, Reads::Tokens | Reads::Hidden(_)) && draft.n_page < model.n_page {
        return error(format!("{} pages", draft.n_page), format!("at least the model's {}", model.n_page));
    }
    if draft.recurrent || model.recurrent {
        return error("a recurrent state, or one beside it".into(), "two models without".into());
    }
    Ok(())
}

/// Locks; what these locks hold is whole at all times, so that a panic elsewhere does not matter.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("for an unknown reason")
}
