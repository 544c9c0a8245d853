//! Tokens a second, as llama.cpp's `llama-bench` measures and names them.
//!
//! | test   | what a sample times                                                                              |
//! |--------|--------------------------------------------------------------------------------------------------|
//! | prompt | `n_prompt` tokens after `n_depth` stored ones                                                      |
//! | decode | `n_gen` steps of one token each, for `n_seq` sequences at once, after `n_depth` stored tokens each  |
//!
//! One run before the samples is not counted, and all experts are prepared before it, as llama-bench does. Tokens are
//! random; nothing is sampled from the logits, of which the largest of each row is asked for, as greedy decoding does.

use std::time::{Duration, Instant};

use mlxr_engine::runner::PAGE_TOKENS;
use mlxr_engine::sampler::Rng;
use mlxr_engine::{Batch, PageId, Row, Runner, SeqId, TokenId, Want};
use serde::Serialize;

use crate::ToolError;

/// What to time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Test {
    /// Tokens of the prompt, or 0.
    pub n_prompt: usize,
    /// Tokens decoded by each sequence, or 0.
    pub n_gen: usize,
    /// Tokens that each sequence has stored before.
    pub n_depth: usize,
    /// Sequences at once.
    pub n_seq: usize,
}

/// Times of one test.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Samples {
    /// Mean nanoseconds.
    pub avg_ns: u64,
    /// Standard deviation of the nanoseconds.
    pub stddev_ns: u64,
    /// Mean tokens a second, of all sequences together.
    pub avg_ts: f64,
    /// Standard deviation of the tokens a second.
    pub stddev_ts: f64,
    /// Nanoseconds of each repetition.
    pub samples_ns: Vec<u64>,
    /// Tokens a second of each repetition.
    pub samples_ts: Vec<f64>,
}

/// Most tokens that a step computes.
pub const STEP_TOKENS: usize = 512;

impl Test {
    /// The tests of all combinations: each prompt length, then each decode length with each number of sequences, for each
    /// depth. Lengths of 0 are left out.
    #[must_use]
    pub fn combine(n_prompts: &[usize], n_gens: &[usize], n_depths: &[usize], n_seqs: &[usize]) -> Vec<Test> {
        let mut tests = Vec::new();
        for &n_depth in n_depths {
            let prompts = n_prompts.iter().filter(|n| **n > 0);
            tests.extend(prompts.map(|&n_prompt| Test { n_prompt, n_gen: 0, n_depth, n_seq: 1 }));
            for &n_gen in n_gens.iter().filter(|n| **n > 0) {
                tests.extend(n_seqs.iter().map(|&n_seq| Test { n_prompt: 0, n_gen, n_depth, n_seq }));
            }
        }
        tests
    }

    /// Tokens that each sequence has in the end.
    #[must_use]
    pub fn n_token(&self) -> usize {
        self.n_depth + self.n_prompt + self.n_gen
    }

    /// Pages that the test needs.
    #[must_use]
    pub fn n_page(&self) -> usize {
        self.n_seq * self.n_token().div_ceil(PAGE_TOKENS)
    }

    /// llama-bench's name of the test: `pp512`, `tg128 @ d4096`, with the sequences where there are several.
    #[must_use]
    pub fn name(&self) -> String {
        let test = if self.n_prompt > 0 { format!("pp{}", self.n_prompt) } else { format!("tg{}", self.n_gen) };
        let depth = if self.n_depth > 0 { format!(" @ d{}", self.n_depth) } else { String::new() };
        let seqs = if self.n_seq > 1 { format!(" x{}", self.n_seq) } else { String::new() };
        format!("{test}{seqs}{depth}")
    }
}

/// Times a test: one run that does not count, then `n_repeat` that do.
///
/// # Errors
/// If the model holds fewer tokens or sequences, or fails.
pub fn run(runner: &mut dyn Runner, test: &Test, n_repeat: usize) -> Result<Samples, ToolError> {
    let info = runner.info();
    let limit = info.n_ctx.min(info.n_page / test.n_seq.max(1) * PAGE_TOKENS);
    if test.n_token() > limit {
        return Err(ToolError::TooLong { found: test.n_token() * test.n_seq, limit: limit * test.n_seq });
    }
    if test.n_seq > info.n_slot.min(STEP_TOKENS) {
        return Err(ToolError::TooWide { found: test.n_seq, limit: info.n_slot.min(STEP_TOKENS) });
    }
    let mut bench = Bench {
        runner,
        n_vocab: info.n_vocab,
        n_page_each: test.n_token().div_ceil(PAGE_TOKENS),
        batch: Batch::default(),
        rng: Rng::new(1),
    };
    bench.runner.prepare()?;
    bench.sample(test)?;
    let samples = (0..n_repeat.max(1)).map(|_| bench.sample(test)).collect::<Result<Vec<Duration>, _>>()?;
    Ok(Samples::new((test.n_prompt + test.n_gen) * test.n_seq, &samples))
}

struct Bench<'a> {
    runner: &'a mut dyn Runner,
    n_vocab: usize,
    /// Pages of each sequence.
    n_page_each: usize,
    batch: Batch,
    rng: Rng,
}

impl Bench<'_> {
    fn sample(&mut self, test: &Test) -> Result<Duration, ToolError> {
        for seq in 0..test.n_seq {
            self.fill(seq, 0, test.n_depth)?;
        }
        let start = Instant::now();
        self.fill(0, test.n_depth, test.n_prompt)?;
        for i in 0..test.n_gen {
            self.batch.clear();
            (0..test.n_seq).for_each(|seq| self.push(seq, test.n_depth + i, 1, Want::Last));
            self.step()?;
        }
        Ok(start.elapsed())
    }

    /// Computes `n` tokens of a sequence from `start`; the logits after the last are wanted, as for a prompt.
    fn fill(&mut self, seq: usize, start: usize, n: usize) -> Result<(), ToolError> {
        let end = start + n;
        for first in (start..end).step_by(STEP_TOKENS) {
            let n = STEP_TOKENS.min(end - first);
            self.batch.clear();
            self.push(seq, first, n, if first + n == end { Want::Last } else { Want::Nothing });
            self.step()?;
        }
        Ok(())
    }

    fn push(&mut self, seq: usize, start: usize, n: usize, want: Want) {
        let batch = &mut self.batch;
        let (first_token, first_page) = (batch.tokens.len(), batch.pages.len());
        let (rng, n_vocab) = (&mut self.rng, self.n_vocab as u64);
        batch.tokens.extend((0..n).map(|_| (rng.next_u64() % n_vocab) as TokenId));
        let own = (seq * self.n_page_each) as u32;
        batch.pages.extend((0..(start + n).div_ceil(PAGE_TOKENS) as u32).map(|page| PageId(own + page)));
        batch.rows.push(Row {
            seq: SeqId(seq as u64),
            start,
            tokens: (first_token, batch.tokens.len()),
            pages: (first_page, batch.pages.len()),
            slot: seq,
            parents: None,
            want,
        });
    }

    fn step(&mut self) -> Result<(), ToolError> {
        self.batch.n_best = Some(1);
        self.runner.submit(&self.batch)?;
        self.runner.wait()?;
        Ok(())
    }
}

impl Samples {
    pub(crate) fn new(n_token: usize, samples: &[Duration]) -> Samples {
        let samples_ns: Vec<u64> = samples.iter().map(|time| time.as_nanos() as u64).collect();
        let samples_ts: Vec<f64> = samples.iter().map(|time| n_token as f64 / time.as_secs_f64()).collect();
        let ns: Vec<f64> = samples_ns.iter().map(|ns| *ns as f64).collect();
        let ((avg_ns, stddev_ns), (avg_ts, stddev_ts)) = (mean(&ns), mean(&samples_ts));
        Samples { avg_ns: avg_ns as u64, stddev_ns: stddev_ns as u64, avg_ts, stddev_ts, samples_ns, samples_ts }
    }
}

/// Mean and sample standard deviation, which is 0 for fewer than two.
fn mean(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let square: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
    (mean, if values.len() > 1 { (square / (n - 1.0)).sqrt() } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_combined_as_llama_bench_does() {
        let names = |p: &[usize], n: &[usize], d: &[usize], b: &[usize]| -> Vec<String> {
            Test::combine(p, n, d, b).iter().map(Test::name).collect()
        };
        assert_eq!(names(&[512], &[128], &[0], &[1]), ["pp512", "tg128"]);
        assert_eq!(names(&[0], &[16], &[0, 64], &[1, 4]), ["tg16", "tg16 x4", "tg16 @ d64", "tg16 x4 @ d64"]);
    }

    #[test]
    fn samples_have_their_mean_and_deviation() {
        let samples = Samples::new(100, &[1, 2].map(Duration::from_secs));
        assert_eq!((samples.avg_ns, samples.samples_ts.clone()), (1_500_000_000, vec![100.0, 50.0]));
        assert_eq!(samples.avg_ts, 75.0);
        assert!((samples.stddev_ts - 1250f64.sqrt()).abs() < 1e-9);
    }
}
