//! The limits of this module. Each appears by name in the error that reports it.

/// Longest text that one call encodes, in bytes. Encoding may need a hundred bytes of memory per byte.
pub const MAX_TEXT_BYTES: usize = 16 << 20;
/// Most tokens of a vocabulary. The largest known has 262,144 and some padding.
pub const MAX_VOCAB_TOKENS: usize = 4 << 20;
/// Longest text of one token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 64 << 10;
/// Longest token that merging can make where the merges follow from the vocabulary (SentencePiece,
/// tiktoken): every split of every token is looked up when loading. The longest known has 512.
pub const MAX_MERGED_BYTES: usize = 4 << 10;
/// Sum of all token lengths, in bytes.
pub const MAX_VOCAB_BYTES: usize = 256 << 20;
/// Most merges of a vocabulary.
pub const MAX_MERGES: usize = 8 << 20;
/// Largest tokenizer file, in bytes.
pub const MAX_FILE_BYTES: usize = 256 << 20;
/// Longest split pattern, in bytes.
pub const MAX_PATTERN_BYTES: usize = 64 << 10;
/// Size of a compiled split pattern, in bytes.
pub const MAX_COMPILED_BYTES: usize = 16 << 20;

use super::error::TokenError;

/// `Err` when `found` exceeds `limit`.
pub(super) fn check(what: &'static str, found: usize, limit: usize, name: &'static str) -> Result<(), TokenError> {
    if found > limit {
        return Err(TokenError::Limit { what, found, limit, name });
    }
    Ok(())
}
