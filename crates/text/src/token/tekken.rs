//! Mistral's `tekken.json`: ranks like tiktoken's, after a block of special tokens.
//!
//! ```text
//! config          pattern, default_vocab_size, default_num_special_tokens
//! vocab*          rank, token_bytes (base64); id = default_num_special_tokens + rank
//! special_tokens* rank, token_str, is_control; id = rank. Older files have none: the list is below
//! ```
//! Source: `mistral_common/tokens/tokenizers/tekken.py`.

use super::added::Added;
use super::build::{Frame, Parts};
use super::config::AddedToken;
use super::error::TokenError;
use super::limits;
use super::pre::Splitter;
use super::roles;
use super::tiktoken;
use super::tokenizer::{Decoding, Tokenizer};
use super::vocab::{SpecialIds, Vocab};
use serde::Deserialize;

const FILE: &str = "tekken.json";

#[derive(Deserialize)]
struct Tekken {
    config: Settings,
    vocab: Vec<Ranked>,
    special_tokens: Option<Vec<Special>>,
}

#[derive(Deserialize)]
struct Settings {
    pattern: String,
    default_vocab_size: usize,
    default_num_special_tokens: usize,
}

#[derive(Deserialize)]
struct Ranked {
    rank: usize,
    token_bytes: String,
}

#[derive(Deserialize)]
struct Special {
    rank: usize,
    token_str: String,
    #[serde(default = "yes")]
    is_control: bool,
}

fn yes() -> bool {
    true
}

/// The special tokens of files that do not list them.
const OLD_SPECIAL: &[&str] = &[
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
];

/// Builds the tokenizer.
///
/// # Errors
/// JSON of another shape, a pattern that does not compile, a limit passed.
pub(super) fn tokenizer(json: &[u8]) -> Result<Tokenizer, TokenError> {
    limits::check(FILE, json.len(), limits::MAX_FILE_BYTES, "MAX_FILE_BYTES")?;
    let file: Tekken = serde_json::from_slice(json)
        .map_err(|e| TokenError::malformed(FILE, "file", e.to_string(), "expected Mistral's tokenizer"))?;
    let n_special = file.config.default_num_special_tokens;
    let n_vocab = file.config.default_vocab_size;
    limits::check("tokens of the vocabulary", n_vocab, limits::MAX_VOCAB_TOKENS, "MAX_VOCAB_TOKENS")?;
    if n_special > n_vocab {
        let found = format!("{n_special} special tokens in a vocabulary of {n_vocab}");
        return Err(TokenError::malformed(FILE, "config", found, "expected fewer special tokens than tokens"));
    }
    let mut tokens = Vec::new();
    for (i, token) in file.vocab.iter().enumerate() {
        // Files carry more tokens than their models use.
        if token.rank >= n_vocab - n_special {
            continue;
        }
        let bytes = tiktoken::base64(token.token_bytes.as_bytes()).ok_or_else(|| {
            let found = token.token_bytes.chars().take(60).collect::<String>();
            TokenError::malformed(FILE, format!("vocab[{i}].token_bytes"), found, "expected base64")
        })?;
        tokens.push(((n_special + token.rank) as u32, bytes));
    }
    let mut vocab = tiktoken::vocabulary(tokens, &special_tokens(&file.special_tokens, n_special))?;
    let id = |vocab: &Vocab, name: &str| vocab.id(name.as_bytes());
    let mut special = SpecialIds {
        bos: id(&vocab, "<s>"),
        eos: id(&vocab, "</s>"),
        unk: id(&vocab, "<unk>"),
        pad: id(&vocab, "<pad>"),
        ..SpecialIds::default()
    };
    let ends = roles::assign(&mut vocab, &mut special, &[], roles::Named::Marked);
    let frame = Frame { before: special.bos.into_iter().collect(), after: Vec::new() };
    let added = Added::new(&vocab, |_, _| Some((false, false)))?;
    let engine = tiktoken::rank_bpe(&vocab, Splitter::of_patterns(&[&file.config.pattern])?)?;
    Ok(Tokenizer::new(Parts { vocab, added, engine, special, ends, frame, decoding: Decoding::default() }))
}

/// All `n_special` of them; those that the file does not name are fillers.
fn special_tokens(listed: &Option<Vec<Special>>, n_special: usize) -> Vec<AddedToken> {
    let mut tokens: Vec<AddedToken> = (0..n_special)
        .map(|i| AddedToken {
            id: i as u32,
            text: format!("<SPECIAL_{i}>"),
            special: true,
            lstrip: false,
            rstrip: false,
        })
        .collect();
    match listed {
        Some(listed) => {
            for token in listed {
                if let Some(slot) = tokens.get_mut(token.rank) {
                    slot.text.clone_from(&token.token_str);
                    slot.special = token.is_control;
                }
            }
        }
        None => {
            for (slot, name) in tokens.iter_mut().zip(OLD_SPECIAL) {
                slot.text = (*name).to_string();
            }
        }
    }
    tokens
}
