//! GPT-2's pair of files, `vocab.json` and `merges.txt`: what a GGUF file holds, in other clothes.

use super::config;
use super::error::TokenError;
use super::limits;
use super::source::{Config, GgufVocab};
use super::tokenizer::Tokenizer;
use super::vocab::{Kind, SpecialIds, Vocab};
use serde_json::{Map, Value};

/// The name of the row in `gguf.rs` that builds from it: BPE without default roles.
pub(super) const MODEL: &str = "vocab.json";

/// Names that GPT-2-like vocabularies without a configuration use for both ends of a text.
const END_OF_TEXT: &str = "<|endoftext|>";

/// Builds the tokenizer.
///
/// # Errors
/// JSON that is no map of texts to ids, an unknown pre-tokenizer, a limit passed.
pub(super) fn tokenizer(
    vocab_json: &[u8],
    merges_txt: &[u8],
    pre: &str,
    config: &Config,
) -> Result<Tokenizer, TokenError> {
    for (file, bytes) in [("vocab.json", vocab_json), ("merges.txt", merges_txt)] {
        limits::check(file, bytes.len(), limits::MAX_FILE_BYTES, "MAX_FILE_BYTES")?;
    }
    let help = "expected a JSON object of texts and ids";
    let map: Map<String, Value> = serde_json::from_slice(vocab_json)
        .map_err(|e| TokenError::malformed("vocab.json", "file", e.to_string(), help))?;
    let mut tokens: Vec<(Vec<u8>, Kind)> = Vec::new();
    let mut place = |id: usize, text: &str, kind: Kind| -> Result<(), TokenError> {
        limits::check("id of a token", id, limits::MAX_VOCAB_TOKENS, "MAX_VOCAB_TOKENS")?;
        if tokens.len() <= id {
            tokens.resize(id + 1, (Vec::new(), Kind::Unused));
        }
        tokens[id] = (text.as_bytes().to_vec(), kind);
        Ok(())
    };
    for (text, id) in &map {
        let id = id.as_u64().and_then(|id| usize::try_from(id).ok());
        let id = id.ok_or_else(|| TokenError::malformed("vocab.json", text, "no id", help))?;
        place(id, text, if text == END_OF_TEXT { Kind::Control } else { Kind::Normal })?;
    }
    let marks = config::added_tokens(config)?;
    for token in &marks {
        let kind = if token.special { Kind::Control } else { Kind::UserDefined };
        place(token.id as usize, &token.text, kind)?;
    }
    // Roles are found by name, so on a vocabulary of names only.
    let mut names = Vocab::default();
    for (text, kind) in &tokens {
        names.push(text, b"", *kind)?;
    }
    let end = names.id(END_OF_TEXT.as_bytes());
    let mut special = SpecialIds { bos: end, eos: end, ..SpecialIds::default() };
    let eog = config::roles(config, &names, &mut special);
    let lines = merges_txt.split(|&b| b == b'\n').map(|l| l.strip_suffix(b"\r").unwrap_or(l));
    let merges = lines.filter(|l| !l.is_empty() && !l.starts_with(b"#version")).map(<[u8]>::to_vec).collect();
    let (tokens, kinds): (Vec<_>, Vec<_>) = tokens.into_iter().unzip();
    let vocab = GgufVocab {
        model: MODEL.to_string(),
        pre: Some(pre.to_string()),
        tokens,
        types: kinds.into_iter().map(|k| k as i32).collect(),
        merges,
        ids: special,
        eog,
        add_bos: Some(config::flag(config, "add_bos_token").unwrap_or(false)),
        add_eos: Some(config::flag(config, "add_eos_token").unwrap_or(false)),
        ..GgufVocab::default()
    };
    super::gguf::tokenizer(vocab, &marks)
}
