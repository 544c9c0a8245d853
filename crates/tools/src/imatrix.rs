//! Makes an importance matrix of a text, as llama-imatrix does: chunks of the text, each a sequence of its own, run
//! through a model whose backend records what its matrices are multiplied with.

use mlxr_compute::recorder::Recording;
use mlxr_engine::runner::PAGE_TOKENS;
use mlxr_engine::{Batch, PageId, Row, Runner, SeqId, TokenId, Want};
use mlxr_weights::imatrix::{Imatrix, Sums};

use crate::ToolError;

/// Tokens computed in one step.
const STEP_TOKENS: usize = 512;
/// The output matrix.
const OUTPUT: &str = "output.weight";

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Text<'a> {
    /// The text.
    pub tokens: &'a [TokenId],
    /// Replaces the first token of each chunk, where the model wants it.
    pub begin: Option<TokenId>,
    /// Tokens of a chunk; what is left at the end is not used.
    pub n_chunk: usize,
    /// Most chunks.
    pub limit: usize,
    /// Whether to record the output matrix, too, which takes the logits of every token.
    pub output: bool,
}

/// Runs the text through `runner` and gives what `recording` holds then. `progress` hears of chunks done and of all.
///
/// # Errors
/// If the text is shorter than a chunk, a chunk longer than the model's context, a token not in the vocabulary, the
/// model fails, or a matrix has seen a number that is not finite.
pub fn collect(
    runner: &mut dyn Runner,
    recording: &Recording,
    text: Text<'_>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Imatrix, ToolError> {
    let info = runner.info();
    let limit = info.n_ctx.min(info.n_page * PAGE_TOKENS);
    if text.n_chunk == 0 || text.n_chunk > limit {
        return Err(ToolError::TooLong { found: text.n_chunk, limit });
    }
    if text.tokens.len() < text.n_chunk {
        let (found, expected) = (text.tokens.len(), text.n_chunk);
        return Err(ToolError::ShortText { found, expected, n_ctx: text.n_chunk });
    }
    if let Some(&token) = text.tokens.iter().find(|token| **token as usize >= info.n_vocab) {
        return Err(ToolError::Token { token, n_vocab: info.n_vocab });
    }
    let n = (text.tokens.len() / text.n_chunk).min(text.limit);
    let want = if text.output { Want::All } else { Want::Hidden };
    let mut batch = Batch::default();
    for (i, chunk) in text.tokens.chunks_exact(text.n_chunk).take(n).enumerate() {
        let mut chunk = chunk.to_vec();
        if let Some(begin) = text.begin {
            chunk[0] = begin;
        }
        for (j, tokens) in chunk.chunks(STEP_TOKENS).enumerate() {
            let start = j * STEP_TOKENS;
            let n_page = (start + tokens.len()).div_ceil(PAGE_TOKENS);
            batch.clear();
            batch.tokens.extend_from_slice(tokens);
            batch.pages.extend((0..n_page as u32).map(PageId));
            let (seq, pages) = (SeqId(i as u64), (0, n_page));
            batch.rows.push(Row { seq, start, tokens: (0, tokens.len()), pages, slot: 0, parents: None, want });
            runner.submit(&batch)?;
            runner.wait()?;
        }
        progress(i + 1, n);
    }
    imatrix(recording, text, n)
}

/// What was recorded of layers and, if asked for, of the output matrix.
fn imatrix(recording: &Recording, text: Text<'_>, n_chunk: usize) -> Result<Imatrix, ToolError> {
    let mut imatrix = Imatrix { chunk_count: n_chunk as u32, chunk_size: text.n_chunk as u32, ..Imatrix::default() };
    for (name, sums) in recording.squares() {
        let wanted = name.starts_with("blk.") || (text.output && name == OUTPUT);
        if !wanted {
            continue;
        }
        if sums.squares.iter().any(|sum| !sum.is_finite()) {
            return Err(ToolError::NotFinite { tensor: name });
        }
        let squares = sums.squares.iter().map(|sum| *sum as f32).collect();
        imatrix.entries.insert(name, Sums { squares, counts: sums.counts });
    }
    Ok(imatrix)
}
