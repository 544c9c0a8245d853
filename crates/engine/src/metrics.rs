//! What the engine counts, for whoever watches it. One thread writes, any may read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::request::{FinishReason, Usage};

/// Bounds of vLLM's histogram of the time to the first token, in seconds.
const FIRST_TOKEN: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
];
/// Of the time between tokens.
const TOKEN: &[f64] =
    &[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0];
/// Of the times of a request.
const REQUEST: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
];
/// Of tokens of a request.
const TOKENS: &[f64] = &[
    1.0,
    2.0,
    5.0,
    10.0,
    20.0,
    50.0,
    100.0,
    200.0,
    500.0,
    1000.0,
    2000.0,
    5000.0,
    10_000.0,
    20_000.0,
    50_000.0,
    100_000.0,
    200_000.0,
    500_000.0,
    1_000_000.0,
];
/// Of tokens of a step.
const STEP: &[f64] = &[1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16_384.0];

/// How often values fell between bounds.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One more than bounds: what lies above the last.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Histogram {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, counts, sum: AtomicU64::new(0f64.to_bits()) }
    }

    pub(crate) fn observe(&self, value: f64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        let sum = f64::from_bits(self.sum.load(Ordering::Relaxed)) + value;
        self.sum.store(sum.to_bits(), Ordering::Relaxed);
    }

    pub(crate) fn observe_time(&self, time: Duration) {
        self.observe(time.as_secs_f64());
    }

    /// Upper bounds and how many values were at most so large, all values last, at infinity.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let mut sum = 0;
        bounds.zip(&self.counts).map(move |(bound, count)| {
            sum += count.load(Ordering::Relaxed);
            (bound, sum)
        })
    }

    /// The sum of all values.
    #[must_use]
    pub fn sum(&self) -> f64 {
        f64::from_bits(self.sum.load(Ordering::Relaxed))
    }
}

/// Ends that are counted: `stop`, `length`, `abort`, `error`.
pub const REASONS: [&str; 4] = ["stop", "length", "abort", "error"];
/// Positions of drafts that are counted each.
pub const MAX_POSITIONS: usize = 16;

/// Everything that is counted. Names are those of vLLM's metrics, without `vllm:`.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Metrics {
    pub time_to_first_token_seconds: Histogram,
    pub inter_token_latency_seconds: Histogram,
    pub request_time_per_output_token_seconds: Histogram,
    pub e2e_request_latency_seconds: Histogram,
    pub request_queue_time_seconds: Histogram,
    pub request_prefill_time_seconds: Histogram,
    pub request_decode_time_seconds: Histogram,
    pub request_inference_time_seconds: Histogram,
    pub request_prompt_tokens: Histogram,
    pub request_generation_tokens: Histogram,
    pub request_params_max_tokens: Histogram,
    pub iteration_tokens_total: Histogram,
    /// By [`REASONS`].
    pub request_success: [AtomicU64; 4],
    pub spec_decode_num_drafts: AtomicU64,
    pub spec_decode_num_draft_tokens: AtomicU64,
    pub spec_decode_num_accepted_tokens: AtomicU64,
    pub spec_decode_num_accepted_tokens_per_pos: [AtomicU64; MAX_POSITIONS],
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let zeros = || std::array::from_fn(|_| AtomicU64::new(0));
        Metrics {
            time_to_first_token_seconds: Histogram::new(FIRST_TOKEN),
            inter_token_latency_seconds: Histogram::new(TOKEN),
            request_time_per_output_token_seconds: Histogram::new(TOKEN),
            e2e_request_latency_seconds: Histogram::new(REQUEST),
            request_queue_time_seconds: Histogram::new(REQUEST),
            request_prefill_time_seconds: Histogram::new(REQUEST),
            request_decode_time_seconds: Histogram::new(REQUEST),
            request_inference_time_seconds: Histogram::new(REQUEST),
            request_prompt_tokens: Histogram::new(TOKENS),
            request_generation_tokens: Histogram::new(TOKENS),
            request_params_max_tokens: Histogram::new(TOKENS),
            iteration_tokens_total: Histogram::new(STEP),
            request_success: zeros(),
            spec_decode_num_drafts: AtomicU64::new(0),
            spec_decode_num_draft_tokens: AtomicU64::new(0),
            spec_decode_num_accepted_tokens: AtomicU64::new(0),
            spec_decode_num_accepted_tokens_per_pos: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    pub(crate) fn drafted(&self, n_draft: usize, n_accepted: usize) {
        let add = |counter: &AtomicU64, n: usize| counter.fetch_add(n as u64, Ordering::Relaxed);
        add(&self.spec_decode_num_drafts, 1);
        add(&self.spec_decode_num_draft_tokens, n_draft);
        add(&self.spec_decode_num_accepted_tokens, n_accepted);
        self.spec_decode_num_accepted_tokens_per_pos.iter().take(n_accepted).for_each(|position| {
            add(position, 1);
        });
    }

    pub(crate) fn finished(&self, reason: &FinishReason, usage: &Usage, max_tokens: usize) {
        let at = match reason {
            FinishReason::Stop(_) | FinishReason::Complete => 0,
            FinishReason::Length => 1,
            FinishReason::Cancelled => 2,
            FinishReason::Error(_) => 3,
        };
        self.request_success[at].fetch_add(1, Ordering::Relaxed);
        self.request_prompt_tokens.observe(usage.n_prompt as f64);
        self.request_generation_tokens.observe(usage.n_generated as f64);
        self.request_params_max_tokens.observe(max_tokens as f64);
        self.request_queue_time_seconds.observe_time(usage.queue);
        self.request_prefill_time_seconds.observe_time(usage.prefill);
        self.request_decode_time_seconds.observe_time(usage.decode);
        self.request_inference_time_seconds.observe_time(usage.prefill + usage.decode);
        self.e2e_request_latency_seconds.observe_time(usage.queue + usage.prefill + usage.decode);
        if usage.n_generated > 1 {
            let each = usage.decode.as_secs_f64() / (usage.n_generated - 1) as f64;
            self.request_time_per_output_token_seconds.observe(each);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_up_to_each_bound() {
        let histogram = Histogram::new(&[1.0, 2.0]);
        [0.5, 1.0, 1.5, 7.0].iter().for_each(|value| histogram.observe(*value));
        let all: Vec<(f64, u64)> = histogram.cumulative().collect();
        assert_eq!((all, histogram.sum()), (vec![(1.0, 2), (2.0, 3), (f64::INFINITY, 4)], 10.0));
    }
}
