//! Logits after every token of a prompt.
//!
//! ```text
//! i32 n, i32 v | n ids, i32 | n * v logits, f32, row i = after token i          all little-endian
//! ```

use std::io::Write;

use mlxr_engine::runner::PAGE_TOKENS;
use mlxr_engine::{Batch, PageId, Row, Runner, SeqId, TokenId, Want};

use crate::ToolError;

/// Tokens computed in one step.
const CHUNK: usize = 256;

/// Computes `tokens` and writes their logits to `out`.
///
/// # Errors
/// If there are no tokens, one is not in the vocabulary, the model holds fewer, it fails, or `out` does.
pub fn write(runner: &mut dyn Runner, tokens: &[TokenId], out: &mut dyn Write) -> Result<(), ToolError> {
    let info = runner.info();
    let limit = info.n_ctx.min(info.n_page * PAGE_TOKENS);
    if tokens.is_empty() {
        return Err(ToolError::Empty);
    }
    if tokens.len() > limit {
        return Err(ToolError::TooLong { found: tokens.len(), limit });
    }
    if let Some(&token) = tokens.iter().find(|token| **token as usize >= info.n_vocab) {
        return Err(ToolError::Token { token, n_vocab: info.n_vocab });
    }
    out.write_all(&(tokens.len() as i32).to_le_bytes())?;
    out.write_all(&(info.n_vocab as i32).to_le_bytes())?;
    for token in tokens {
        out.write_all(&(*token as i32).to_le_bytes())?;
    }
    let mut batch = Batch::default();
    let mut bytes = Vec::new();
    for (i, chunk) in tokens.chunks(CHUNK).enumerate() {
        let start = i * CHUNK;
        batch.clear();
        batch.tokens.extend_from_slice(chunk);
        let n_page = (start + chunk.len()).div_ceil(PAGE_TOKENS);
        batch.pages.extend((0..n_page as u32).map(PageId));
        batch.rows.push(Row {
            seq: SeqId(0),
            start,
            tokens: (0, chunk.len()),
            pages: (0, n_page),
            slot: 0,
            parents: None,
            want: Want::All,
        });
        runner.submit(&batch)?;
        let outputs = runner.wait()?;
        bytes.clear();
        bytes.extend(outputs.data.iter().flat_map(|x| x.to_le_bytes()));
        out.write_all(&bytes)?;
    }
    out.flush()?;
    Ok(())
}
