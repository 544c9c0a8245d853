//! Tokenizers: strings to ids and back, built from every kind of file that models ship.
//!
//! ```text
//! Source ─ gguf.rs ───────────┐            ┌ added.rs    control and user-defined tokens are cut out
//!        ─ hf.rs              │            ├ pre/        words by patterns
//!        ─ sentencepiece.rs   ├ Tokenizer ─┤ bpe.rs      merge.rs + symbols.rs: BPE of every kind
//!        ─ tiktoken.rs        │            ├ unigram.rs  charsmap.rs + trie.rs: SentencePiece unigram
//!        ─ tekken.rs, gpt2.rs ┘            └ wordpiece.rs, rwkv.rs, plamo2.rs, ids.rs
//!
//! ids ─ Detokenizer (whole characters only) ─ StopStrings (holds back what may be a stop) ─ text
//! ```
//!
//! Encoding a text cuts out added tokens, normalizes what is left, cuts it into words and merges each.
//! A `tokenizer.json` of an uncommon shape runs on Hugging Face's own library (`hf.rs`); the rest runs
//! on ours, whose cost is O(n log n) on every text.

mod added;
mod arena;
mod bpe;
mod build;
mod byte_level;
mod charsmap;
mod clean;
mod config;
mod error;
mod export;
mod gguf;
mod gpt2;
mod hf;
mod hf_decoder;
mod hf_native;
mod ids;
pub mod limits;
mod merge;
mod plamo2;
mod pre;
mod protobuf;
mod roles;
mod rwkv;
mod sentencepiece;
mod source;
mod spm;
mod stop;
mod stream;
mod symbols;
mod tekken;
mod tiktoken;
mod tokenizer;
mod trie;
mod unigram;
mod vocab;
mod wordpiece;

pub use error::TokenError;
pub use export::{HfFiles, ToGguf, to_gguf, to_hf};
pub use source::{Config, GgufVocab, Source};
pub use stop::{StopStrings, Stopped};
pub use stream::Detokenizer;
pub use tokenizer::{Encode, Tokenizer};
pub use vocab::{Kind, SpecialIds};

/// Names of the pre-tokenizers that `tokenizer.ggml.pre` and [`Source::Bpe`] may give.
pub fn pre_tokenizer_names() -> impl Iterator<Item = &'static str> {
    pre::names()
}
