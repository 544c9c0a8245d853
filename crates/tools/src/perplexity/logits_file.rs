//! The file of logits that llama.cpp's `llama-perplexity` writes by `--save-all-logits` and compares with by
//! `--kl-divergence`: a base model's probabilities, 2 bytes each.
//!
//! ```text
//! "_logits_" | u32 n_ctx | i32 n_vocab | i32 n_chunk | n_ctx * n_chunk ids, i32
//! then for each scored token of each window a row:
//!   f32 scale | f32 least | n_vocab values, u16 | a value of padding if n_vocab is odd      all little-endian
//! log probability of token t = scale * value[t] + least; what lies 16 below the greatest logit or lower is value 0
//! ```
//!
//! Source: `tools/perplexity/perplexity.cpp` of llama.cpp.

use std::io::{Read, Write};

use mlxr_engine::TokenId;

use super::score::LogSum;
use crate::ToolError;

const MAGIC: &[u8; 8] = b"_logits_";
/// Logits this far below the greatest are all stored as the least.
const REACH: f32 = 16.0;
const MAX_CTX: usize = 1 << 24;
const MAX_VOCAB: usize = 1 << 24;
const MAX_TOKENS: usize = 1 << 30;

/// What stands before the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Tokens of a window.
    pub n_ctx: usize,
    /// Logits of a row.
    pub n_vocab: usize,
    /// The tokens of all windows, one window after another: a multiple of `n_ctx`.
    pub tokens: Vec<TokenId>,
}

impl Header {
    /// Windows.
    #[must_use]
    pub fn n_chunk(&self) -> usize {
        self.tokens.len() / self.n_ctx
    }

    /// Bytes of a row.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        row_bytes(self.n_vocab)
    }

    /// Writes the header.
    ///
    /// # Errors
    /// If `out` does.
    pub fn write(&self, out: &mut dyn Write) -> Result<(), ToolError> {
        out.write_all(MAGIC)?;
        for count in [self.n_ctx, self.n_vocab, self.n_chunk()] {
            out.write_all(&(count as u32).to_le_bytes())?;
        }
        let ids: Vec<u8> = self.tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        Ok(out.write_all(&ids)?)
    }

    /// Reads the header of a file of `file_bytes` bytes, which must be as many as it announces.
    ///
    /// # Errors
    /// If the file is something else, is damaged, or ends early.
    pub fn read(input: &mut dyn Read, file_bytes: u64) -> Result<Header, ToolError> {
        let bad = ToolError::LogitsFile;
        let mut magic = [0; 8];
        input.read_exact(&mut magic).map_err(ToolError::Read)?;
        if magic != *MAGIC {
            return Err(bad("it does not begin with `_logits_`: give a file of --save-all-logits".into()));
        }
        let mut count = |name: &str, limit: usize| -> Result<usize, ToolError> {
            let mut bytes = [0; 4];
            input.read_exact(&mut bytes).map_err(ToolError::Read)?;
            let found = i32::from_le_bytes(bytes);
            let value = usize::try_from(found).ok().filter(|n| (1..=limit).contains(n));
            value.ok_or_else(|| bad(format!("{name} is {found}, expected 1 to {limit}")))
        };
        let (n_ctx, n_vocab) = (count("n_ctx", MAX_CTX)?, count("n_vocab", MAX_VOCAB)?);
        let n_chunk = count("the number of windows", MAX_TOKENS / n_ctx)?;
        let n_row = (n_chunk * super::n_scored(n_ctx)) as u64;
        let want = 20 + (n_ctx * n_chunk) as u64 * 4 + n_row * row_bytes(n_vocab) as u64;
        if file_bytes != want {
            let text = format!("it has {file_bytes} bytes, expected {want}: it was cut short, write it again");
            return Err(bad(text));
        }
        let mut ids = vec![0; n_ctx * n_chunk * 4];
        input.read_exact(&mut ids).map_err(ToolError::Read)?;
        let tokens = ids.chunks_exact(4).map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]])).collect();
        Ok(Header { n_ctx, n_vocab, tokens })
    }
}

fn row_bytes(n_vocab: usize) -> usize {
    (n_vocab.next_multiple_of(2) + 4) * 2
}

/// Writes a row's logits into `row`, of [`Header::row_bytes`].
pub(super) fn compress(logits: &[f32], sum: &LogSum, row: &mut [u8]) {
    let least = logits.iter().copied().fold(f32::INFINITY, f32::min).max(sum.max - REACH);
    let scale = (sum.max - least) / 65535.0;
    row.fill(0);
    row[..4].copy_from_slice(&scale.to_le_bytes());
    row[4..8].copy_from_slice(&(least - sum.max - sum.log_sum as f32).to_le_bytes());
    if scale > 0.0 {
        let inverse = 1.0 / scale;
        for (logit, bytes) in logits.iter().zip(row[8..].chunks_exact_mut(2)) {
            let value = if *logit > least { (inverse * (logit - least)).round_ties_even() as u16 } else { 0 };
            bytes.copy_from_slice(&value.to_le_bytes());
        }
    }
}

/// A row of the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    scale: f32,
    least: f32,
    values: &'a [u8],
}

impl<'a> Row<'a> {
    /// `bytes`: of [`Header::row_bytes`].
    pub fn new(bytes: &'a [u8]) -> Row<'a> {
        let number = |i: usize| f32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        Row { scale: number(0), least: number(4), values: &bytes[8..] }
    }

    /// Log probability of a token.
    pub fn log_prob(&self, token: usize) -> f32 {
        self.scale * self.value(token) + self.least
    }

    fn value(&self, token: usize) -> f32 {
        f32::from(u16::from_le_bytes([self.values[2 * token], self.values[2 * token + 1]]))
    }
}

/// Compresses and decompresses: what a base file says of `logits`.
#[cfg(test)]
fn round_trip(logits: &[f32]) -> Vec<f32> {
    let mut row = vec![1; row_bytes(logits.len())];
    compress(logits, &super::score::log_sum(logits), &mut row);
    let row = Row::new(&row);
    (0..logits.len()).map(|token| row.log_prob(token)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::score;
    use super::*;

    #[test]
    fn rows_hold_log_probabilities() {
        let rows: [&[f32]; 4] =
            [&[0.0, 1.0, 2.0], &[3.0, 3.0], &[-40.0, 0.0, -7.5, -15.9, -16.1], &[1e4, 1e4 - 1.0, 0.0, -1e4]];
        for logits in rows {
            let sum = score::log_sum(logits);
            for (logit, got) in logits.iter().zip(round_trip(logits)) {
                let want = f64::from(logit.max(sum.max - REACH) - sum.max) - sum.log_sum;
                assert!((f64::from(got) - want).abs() < 2e-4, "{logits:?}: {got} for {want}");
            }
        }
    }

    #[test]
    fn headers_are_read_back_and_bad_ones_refused() {
        let header = Header { n_ctx: 4, n_vocab: 3, tokens: vec![0, 1, 2, 0, 2, 2, 1, 1] };
        let mut bytes = Vec::new();
        header.write(&mut bytes).expect("memory takes it");
        let n_byte = (bytes.len() + 2 * header.row_bytes()) as u64;
        assert_eq!(Header::read(&mut bytes.as_slice(), n_byte).expect("it is whole"), header);
        let check = |bytes: &[u8], n_byte: u64, want: &str| {
            let error = Header::read(&mut &*bytes, n_byte).expect_err(want).to_string();
            assert!(error.contains(want), "{error}");
        };
        check(&bytes, n_byte - 1, "expected 84");
        check(b"_logitz_aaaabbbbcccc", 20, "does not begin with");
        check(b"_logits_", 8, "fill whole buffer");
        check(b"_logits_\0\0\0\0bbbbcccc", 20, "n_ctx is 0");
        check(b"_logits_\x04\0\0\0\xff\xff\xff\xffcccc", 20, "n_vocab is -1");
        check(b"_logits_\x04\0\0\0\x04\0\0\0\xff\xff\xff\x7f", 20, "number of windows is 2147483647");
    }
}
