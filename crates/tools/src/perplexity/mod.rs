//! Perplexity over a text, and the distance of a model from a base, as llama.cpp's `llama-perplexity` measures them:
//!
//! ```text
//! the text's tokens, cut into windows of n_ctx; each begins anew with the begin token in place of its first
//! | begin, n_ctx/2 - 1 tokens of context | n_ctx/2 tokens: each but the last predicts the next, and that is scored |
//! ```
//!
//! | module        | what                                      |
//! |---------------|-------------------------------------------|
//! | `logits_file` | the base's probabilities in a file         |
//! | `score`       | what the logits of one token say           |
//! | `statistics`  | means with their errors, percentiles       |

pub mod logits_file;
mod score;
mod statistics;

use std::io::{Read, Write};

use mlxr_engine::runner::PAGE_TOKENS;
use mlxr_engine::{Batch, PageId, Row, Runner, SeqId, TokenId, Want};
use serde::Serialize;

use crate::ToolError;
use logits_file::Header;
use score::Distance;
use statistics::covariance;
pub use statistics::{Estimate, Percentile};

/// Most tokens computed in one step.
const STEP_TOKENS: usize = 256;
/// Most logits computed in one step, but for a few rows.
const STEP_LOGITS: usize = 1 << 26;

/// Tokens that a window of `n_ctx` scores.
#[must_use]
pub fn n_scored(n_ctx: usize) -> usize {
    (n_ctx - n_ctx / 2).saturating_sub(1)
}

/// How to measure.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The begin token that replaces each window's first, if the model wants one.
    pub bos: Option<TokenId>,
    /// Threads that score; the runner has its own.
    pub n_thread: usize,
    /// Most windows; the rest of the text is left out.
    pub max_chunks: usize,
}

/// Perplexity over a text.
#[derive(Debug, Clone, Serialize)]
pub struct Perplexity {
    /// Tokens of a window.
    pub n_ctx: usize,
    /// Windows.
    pub n_chunk: usize,
    /// Tokens scored.
    pub n_token: usize,
    /// e to the mean surprise of a token.
    pub ppl: Estimate,
}

/// Distance of a model from a base.
#[derive(Debug, Clone, Serialize)]
pub struct Divergence {
    /// The model's perplexity.
    #[serde(flatten)]
    pub perplexity: Perplexity,
    /// The base's perplexity.
    pub ppl_base: Estimate,
    /// Correlation of the logarithms of both perplexities.
    pub ln_ppl_correlation: f64,
    /// ln(ppl / ppl_base).
    pub ln_ppl_ratio: Estimate,
    /// ppl / ppl_base.
    pub ppl_ratio: Estimate,
    /// ppl - ppl_base.
    pub ppl_difference: Estimate,
    /// Mean Kullback-Leibler divergence, in nats.
    pub kld: Estimate,
    /// Its percentiles.
    pub kld_percentiles: Vec<Percentile>,
    /// Mean of the differences in probability of the token that comes.
    pub delta_p: Estimate,
    /// Root of their mean square.
    pub delta_p_rms: Estimate,
    /// Their percentiles.
    pub delta_p_percentiles: Vec<Percentile>,
    /// Part of the tokens where both find the same token the likeliest.
    pub same_top: Estimate,
}

/// How far a measurement is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Windows done.
    pub n_done: usize,
    /// Windows.
    pub n_chunk: usize,
    /// Perplexity so far.
    pub ppl: f64,
}

/// Perplexity over `tokens` in windows of `n_ctx`; the logits go to `save`, if given, in llama.cpp's format.
///
/// # Errors
/// If there are fewer tokens than two windows have, one is not in the vocabulary, the model holds fewer than a window,
/// it fails, or `save` does.
pub fn perplexity(
    runner: &mut dyn Runner,
    (tokens, n_ctx): (&[TokenId], usize),
    options: &Options,
    mut save: Option<&mut dyn Write>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Perplexity, ToolError> {
    if n_scored(n_ctx) == 0 {
        return Err(ToolError::Window { found: n_ctx });
    }
    if tokens.len() < 2 * n_ctx {
        return Err(ToolError::ShortText { found: tokens.len(), expected: 2 * n_ctx, n_ctx });
    }
    let n_chunk = (tokens.len() / n_ctx).min(options.max_chunks).max(1);
    let header = Header { n_ctx, n_vocab: runner.info().n_vocab, tokens: tokens[..n_chunk * n_ctx].to_vec() };
    if let Some(save) = save.as_deref_mut() {
        header.write(save)?;
    }
    let mut surprises = Vec::with_capacity(n_chunk * n_scored(n_ctx));
    let mut saved = Vec::new();
    for (i, window) in header.tokens.chunks_exact(n_ctx).enumerate() {
        compute(runner, window, options, &mut |logits, targets| {
            let row_bytes = if save.is_some() { header.row_bytes() } else { 0 };
            saved.resize(targets.len() * row_bytes, 0);
            let rows = split(&mut saved, row_bytes, targets.len());
            surprises.extend(score::parallel(options.n_thread, rows, |i, row| {
                let logits = &logits[i * header.n_vocab..(i + 1) * header.n_vocab];
                let sum = score::log_sum(logits);
                if !row.is_empty() {
                    logits_file::compress(logits, &sum, row);
                }
                score::surprise(logits, &sum, targets[i] as usize)
            }));
            save.as_deref_mut().map_or(Ok(()), |save| Ok(save.write_all(&saved)?))
        })?;
        progress(Progress { n_done: i + 1, n_chunk, ppl: Estimate::mean(&surprises).value.exp() });
    }
    if let Some(save) = save {
        save.flush()?;
    }
    Ok(Perplexity { n_ctx, n_chunk, n_token: surprises.len(), ppl: Estimate::mean(&surprises).exp() })
}

/// `n` pieces of `bytes` bytes, which may be none.
fn split(mut all: &mut [u8], bytes: usize, n: usize) -> Vec<&mut [u8]> {
    let mut pieces = Vec::with_capacity(n);
    for _ in 0..n {
        let (piece, rest) = all.split_at_mut(bytes);
        pieces.push(piece);
        all = rest;
    }
    pieces
}

/// Distance from a base whose logits `base` holds, a file of `base_bytes` bytes in llama.cpp's format, over the text
/// that it was made from.
///
/// # Errors
/// If the file is damaged or of another vocabulary, the model holds fewer tokens than a window, or it fails.
pub fn divergence(
    runner: &mut dyn Runner,
    (base, base_bytes): (&mut dyn Read, u64),
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Divergence, ToolError> {
    let header = Header::read(base, base_bytes)?;
    let n_vocab = runner.info().n_vocab;
    if header.n_vocab != n_vocab {
        let text = format!("it has {} logits a token and the model {n_vocab}: take one model's file", header.n_vocab);
        return Err(ToolError::LogitsFile(text));
    }
    if n_scored(header.n_ctx) == 0 {
        return Err(ToolError::Window { found: header.n_ctx });
    }
    let n_chunk = header.n_chunk().min(options.max_chunks).max(1);
    let mut distances: Vec<Distance> = Vec::with_capacity(n_chunk * n_scored(header.n_ctx));
    let mut rows = Vec::new();
    for (i, window) in header.tokens.chunks_exact(header.n_ctx).take(n_chunk).enumerate() {
        compute(runner, window, options, &mut |logits, targets| {
            rows.resize(targets.len() * header.row_bytes(), 0);
            base.read_exact(&mut rows).map_err(ToolError::Read)?;
            let rows: Vec<&[u8]> = rows.chunks_exact(header.row_bytes()).collect();
            distances.extend(score::parallel(options.n_thread, rows, |i, row| {
                let logits = &logits[i * n_vocab..(i + 1) * n_vocab];
                score::distance(logits, logits_file::Row::new(row), targets[i] as usize)
            }));
            Ok(())
        })?;
        let sum: f64 = distances.iter().map(|distance| distance.surprise).sum();
        progress(Progress { n_done: i + 1, n_chunk, ppl: (sum / distances.len() as f64).exp() });
    }
    Ok(summary((header.n_ctx, n_chunk), &distances))
}

fn summary((n_ctx, n_chunk): (usize, usize), distances: &[Distance]) -> Divergence {
    let column = |value: fn(&Distance) -> f64| -> Vec<f64> { distances.iter().map(value).collect() };
    let (surprises, base) = (column(|d| d.surprise), column(|d| d.base_surprise));
    let (divergences, delta_p) = (column(|d| d.divergence), column(|d| d.delta_p));
    let (ln_ppl, ln_base, shared) = (Estimate::mean(&surprises), Estimate::mean(&base), covariance(&surprises, &base));
    let (ppl, ppl_base) = (ln_ppl.exp(), ln_base.exp());
    let ln_ppl_ratio = ln_ppl.less(ln_base, shared);
    let square = Estimate::mean(&delta_p.iter().map(|p| p * p).collect::<Vec<f64>>());
    let rms = square.value.sqrt();
    let error_product = ln_ppl.error * ln_base.error;
    Divergence {
        perplexity: Perplexity { n_ctx, n_chunk, n_token: distances.len(), ppl },
        ppl_base,
        ln_ppl_correlation: if error_product > 0.0 { shared / error_product } else { 1.0 },
        ln_ppl_ratio,
        ppl_ratio: ln_ppl_ratio.exp(),
        ppl_difference: ppl.less(ppl_base, ppl.value * ppl_base.value * shared),
        kld: Estimate::mean(&divergences),
        kld_percentiles: statistics::percentiles(&divergences),
        delta_p: Estimate::mean(&delta_p),
        delta_p_rms: square.map(rms, if rms > 0.0 { 0.5 / rms } else { 0.0 }),
        delta_p_percentiles: statistics::percentiles(&delta_p),
        same_top: Estimate::mean(&column(|d| f64::from(u8::from(d.same_top)))),
    }
}

/// What scores some rows: their logits, and for each the token that comes.
type Score<'a> = &'a mut dyn FnMut(&[f32], &[TokenId]) -> Result<(), ToolError>;

/// Computes a window and passes the logits of its second half to `score`, in order.
fn compute(runner: &mut dyn Runner, window: &[TokenId], options: &Options, score: Score<'_>) -> Result<(), ToolError> {
    let info = runner.info();
    let limit = info.n_ctx.min(info.n_page * PAGE_TOKENS);
    if window.len() > limit {
        return Err(ToolError::TooLong { found: window.len(), limit });
    }
    let mut tokens = window.to_vec();
    tokens[0] = options.bos.unwrap_or(tokens[0]);
    if let Some(&token) = tokens.iter().chain(window).find(|token| **token as usize >= info.n_vocab) {
        return Err(ToolError::Token { token, n_vocab: info.n_vocab });
    }
    let first = window.len() / 2;
    let step = STEP_TOKENS.min((STEP_LOGITS / info.n_vocab).max(PAGE_TOKENS));
    let mut batch = Batch::default();
    let mut start = 0;
    while start + 1 < window.len() {
        let (end, want) = if start < first { (first, Want::Nothing) } else { (window.len() - 1, Want::All) };
        let end = end.min(start + step);
        batch.clear();
        batch.tokens.extend_from_slice(&tokens[start..end]);
        let n_page = end.div_ceil(PAGE_TOKENS);
        batch.pages.extend((0..n_page as u32).map(PageId));
        let (tokens, pages) = ((0, end - start), (0, n_page));
        batch.rows.push(Row { seq: SeqId(0), start, tokens, pages, slot: 0, parents: None, want });
        runner.submit(&batch)?;
        let outputs = runner.wait()?;
        if want == Want::All {
            score(outputs.data, &window[start + 1..=end])?;
        }
        start = end;
    }
    Ok(())
}
