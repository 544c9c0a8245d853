//! What the engine's thread and its handles share.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::engine::lock;
use crate::metrics::Metrics;
use crate::request::{Stats, SubmitError};
use crate::share::ClientId;

/// Weight of a new measure of the pace at which requests begin.
const WEIGHT: f64 = 0.1;
/// Seconds that a client is told to wait, at most and at first.
const MAX_RETRY_S: f64 = 60.0;
const FIRST_RETRY_S: f64 = 1.0;

/// See the module.
#[derive(Debug)]
pub(crate) struct Shared {
    stats: Mutex<Stats>,
    dead: Mutex<Option<String>>,
    pub metrics: Metrics,
    /// Requests submitted of which no step has computed anything yet.
    n_queued: AtomicUsize,
    /// Requests of each client, waiting or running.
    of_client: Mutex<HashMap<ClientId, usize>>,
    next_id: AtomicU64,
    /// When the step that is being computed began, in nanoseconds and one more; 0 while there is none.
    step_since: AtomicU64,
    /// When a request began last, and the mean seconds from one to the next.
    pace: Mutex<(Option<Duration>, f64)>,
}

impl Shared {
    pub fn new() -> Shared {
        Shared {
            stats: Mutex::default(),
            dead: Mutex::default(),
            metrics: Metrics::new(),
            n_queued: AtomicUsize::new(0),
            of_client: Mutex::default(),
            next_id: AtomicU64::new(0),
            step_since: AtomicU64::new(0),
            pace: Mutex::new((None, FIRST_RETRY_S)),
        }
    }

    pub fn stats(&self) -> Stats {
        *lock(&self.stats)
    }

    pub fn set_stats(&self, stats: Stats) {
        *lock(&self.stats) = stats;
    }

    pub fn dead(&self) -> Option<String> {
        lock(&self.dead).clone()
    }

    pub fn die(&self, message: String) {
        *lock(&self.dead) = Some(message);
    }

    /// The first of `n` ids.
    pub fn next_ids(&self, n: usize) -> u64 {
        self.next_id.fetch_add(n as u64, Ordering::Relaxed)
    }

    /// Counts `n` requests that are to wait, unless there are more than the limits of the queue and of a client.
    pub fn queue(&self, client: ClientId, n: usize, (queue, of_client): (usize, usize)) -> Result<(), SubmitError> {
        let mut counts = lock(&self.of_client);
        let count = counts.get(&client).copied().unwrap_or(0);
        if count + n > of_client {
            return Err(SubmitError::ClientFull { limit: of_client, retry_s: self.retry_s(count) });
        }
        let take = |queued: usize| (queued + n <= queue).then_some(queued + n);
        if let Err(queued) = self.n_queued.fetch_update(Ordering::AcqRel, Ordering::Acquire, take) {
            return Err(SubmitError::QueueFull { limit: queue, retry_s: self.retry_s(queued) });
        }
        counts.insert(client, count + n);
        Ok(())
    }

    /// Seconds until `n` requests have begun, at the pace of late.
    fn retry_s(&self, n: usize) -> u64 {
        (lock(&self.pace).1 * n as f64).clamp(1.0, MAX_RETRY_S).ceil() as u64
    }

    /// Notes that a request waits no more, since it has begun.
    pub fn started(&self, now: Duration) {
        self.n_queued.fetch_sub(1, Ordering::AcqRel);
        let mut pace = lock(&self.pace);
        if let Some(last) = pace.0.replace(now) {
            pace.1 += WEIGHT * (now.saturating_sub(last).as_secs_f64() - pace.1);
        }
    }

    /// Notes that a request ended.
    pub fn left(&self, client: ClientId, has_started: bool) {
        if !has_started {
            self.n_queued.fetch_sub(1, Ordering::AcqRel);
        }
        let mut counts = lock(&self.of_client);
        if let Some(count) = counts.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&client);
            }
        }
    }

    /// Notes that a step begins.
    pub fn works(&self, now: Duration) {
        self.step_since.store(now.as_nanos() as u64 + 1, Ordering::Release);
    }

    /// Notes that there is nothing to compute.
    pub fn rests(&self) {
        self.step_since.store(0, Ordering::Release);
    }

    pub fn busy_for(&self, now: Duration) -> Duration {
        match self.step_since.load(Ordering::Acquire) {
            0 => Duration::ZERO,
            since => now.saturating_sub(Duration::from_nanos(since - 1)),
        }
    }
}
