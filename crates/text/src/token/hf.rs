//! `tokenizer.json` on Hugging Face's own library, unless its shape is one of `hf_native.rs`.
//!
//! Its pieces are called one by one instead of through `Tokenizer::encode`: that leaves out offsets
//! and word numbers, which nobody here reads, and lets special tokens in the text stay text without a
//! second copy of the model. Decoding is ours (`hf_decoder.rs`), because a stream needs the bytes of
//! single tokens.

use super::added::Added;
use super::build::{Frame, Parts};
use super::config;
use super::error::TokenError;
use super::hf_decoder::Decoder;
use super::hf_native::HfNative;
use super::limits;
use super::roles;
use super::source::Config;
use super::tokenizer::{Engine, Tokenizer};
use super::vocab::{self, Kind, SpecialIds, Vocab};
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokenizers::tokenizer::pre_tokenizer::PreTokenizedString;
use tokenizers::{AddedVocabulary, Encoding, Model, OffsetReferential, OffsetType, PostProcessor, PreTokenizer, Token};

const FILE: &str = "tokenizer.json";

/// The engine.
pub(super) struct Hf {
    inner: tokenizers::Tokenizer,
    /// As `inner`'s, but special tokens in a text stay text.
    plain: AddedVocabulary,
}

impl std::fmt::Debug for Hf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hf").finish_non_exhaustive()
    }
}

impl Hf {
    /// Appends the ids of `text`.
    ///
    /// # Errors
    /// What the library reports, for instance a character outside a vocabulary without unknown token.
    pub fn encode(&self, text: &str, parse_special: bool, out: &mut Vec<u32>) -> Result<(), TokenError> {
        let added = if parse_special { self.inner.get_added_vocabulary() } else { &self.plain };
        guard(|| {
            let mut pieces: PreTokenizedString = added.extract_and_normalize(self.inner.get_normalizer(), text);
            if let Some(pre) = self.inner.get_pre_tokenizer() {
                pre.pre_tokenize(&mut pieces)?;
            }
            pieces.tokenize(|piece| self.inner.get_model().tokenize(piece.get()))?;
            for (_, _, tokens) in pieces.get_splits(OffsetReferential::Normalized, OffsetType::None) {
                out.extend(tokens.iter().flatten().map(|t| t.id));
            }
            Ok(())
        })
        .map_err(TokenError::Library)
    }
}

/// Builds the tokenizer.
///
/// # Errors
/// A file that the library refuses, a decoder of an unknown kind, a limit passed.
pub(super) fn tokenizer(json: &[u8], config: &Config) -> Result<Tokenizer, TokenError> {
    limits::check(FILE, json.len(), limits::MAX_FILE_BYTES, "MAX_FILE_BYTES")?;
    let refused = |found: String| TokenError::malformed(FILE, "file", found, "the file is damaged or too new");
    // First, because it finds broken JSON, on which the library panics in places.
    let decoder = Decoder::new(json)?;
    let inner = guard(|| tokenizers::Tokenizer::from_bytes(json)).map_err(refused)?;
    let mut vocab = vocabulary(&inner, &decoder)?;
    let mut special =
        SpecialIds { unk: decoder.unknown.as_ref().and_then(|t| vocab.id(t.as_bytes())), ..SpecialIds::default() };
    let mut frame = guard(|| frame(&inner)).map_err(refused)?;
    special.bos = frame.before.first().copied();
    let named_ends = config::roles(config, &vocab, &mut special);
    frame = reframe(frame, config, &special);
    let ends = roles::assign(&mut vocab, &mut special, &named_ends, roles::Named::Marked);
    let mut plain = inner.get_added_vocabulary().clone();
    plain.set_encode_special_tokens(true);
    let mut decoding = decoder.decoding;
    decoding.clean_spaces |= config::flag(config, "clean_up_tokenization_spaces").unwrap_or(false);
    let engine =
        match HfNative::new(json, inner.get_added_tokens_decoder().iter().map(|(id, t)| (*id, t)), vocab.len())? {
            Some(native) => Engine::HfNative(Box::new(native)),
            None => Engine::Hf(Box::new(Hf { inner, plain })),
        };
    let added = Added::new(&Vocab::default(), |_, _| Some((false, false)))?;
    Ok(Tokenizer::new(Parts { vocab, added, engine, special, ends, frame, decoding }))
}

/// The library is not ours, and the file is not trusted: a panic in it becomes an error.
fn guard<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("the tokenizers library panicked on it".to_string()),
    }
}

fn vocabulary(inner: &tokenizers::Tokenizer, decoder: &Decoder) -> Result<Vocab, TokenError> {
    let entries = inner.get_vocab(true);
    vocab::check_total(entries.keys().map(String::len))?;
    let largest = entries.values().copied().max().unwrap_or(0) as usize;
    limits::check("largest id of the vocabulary", largest, limits::MAX_VOCAB_TOKENS, "MAX_VOCAB_TOKENS")?;
    let mut names = vec![None; if entries.is_empty() { 0 } else { largest + 1 }];
    for (name, id) in &entries {
        names[*id as usize] = Some(name.as_str());
    }
    let added = inner.get_added_tokens_decoder();
    let mut vocab = Vocab::default();
    for (id, name) in names.into_iter().enumerate() {
        let name = name.unwrap_or_default();
        let added = added.get(&(id as u32));
        let unknown = decoder.unknown.as_deref() == Some(name);
        let kind = match added {
            _ if name.is_empty() => Kind::Unused,
            _ if unknown => Kind::Unknown,
            Some(token) if token.special => Kind::Control,
            Some(_) => Kind::UserDefined,
            None if decoder.byte(name).is_some() => Kind::Byte,
            None => Kind::Normal,
        };
        vocab.push(name.as_bytes(), &decoder.bytes(name, added.is_some()), kind)?;
    }
    Ok(vocab)
}

/// `transformers` classes that put begin and end tokens where `tokenizer_config.json` says so, whatever
/// the post-processor of `tokenizer.json` does.
const BY_FLAGS: &[&str] = &[
    "LlamaTokenizer",
    "LlamaTokenizerFast",
    "CodeLlamaTokenizer",
    "CodeLlamaTokenizerFast",
    "GemmaTokenizer",
    "GemmaTokenizerFast",
    "CohereTokenizer",
    "CohereTokenizerFast",
];

fn reframe(frame: Frame, config: &Config, special: &SpecialIds) -> Frame {
    let class = config.tokenizer_config.as_ref().and_then(|c| c.get("tokenizer_class")?.as_str());
    if !class.is_some_and(|class| BY_FLAGS.contains(&class)) {
        return frame;
    }
    let side = |flag: &str, id: Option<u32>, found: Vec<u32>| match config::flag(config, flag) {
        Some(add) => id.filter(|_| add).into_iter().collect(),
        None => found,
    };
    Frame {
        before: side("add_bos_token", special.bos, frame.before),
        after: side("add_eos_token", special.eos, frame.after),
    }
}

/// What the post-processor puts around a text, found by giving it one token that no vocabulary has.
fn frame(inner: &tokenizers::Tokenizer) -> tokenizers::Result<Frame> {
    let Some(post) = inner.get_post_processor() else { return Ok(Frame::default()) };
    let marker = u32::MAX;
    let text = Encoding::from_tokens(vec![Token::new(marker, "x".to_string(), (0, 1))], 0);
    let whole = post.process(text, None, true)?;
    let ids = whole.get_ids();
    let at = ids.iter().position(|&id| id == marker).unwrap_or(ids.len());
    Ok(Frame { before: ids[..at].to_vec(), after: ids.iter().skip(at + 1).copied().collect() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // tests
mod tests {
    use super::super::merge::Scratch;
    use super::*;

    /// Our engine gives what the library gives, for the shapes that it takes; and it does take them.
    #[test]
    fn common_shapes_run_on_our_engine_and_agree_with_the_library() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/token");
        let texts = std::fs::read(format!("{folder}/texts.json")).unwrap();
        let texts: Vec<String> = serde_json::from_slice(&texts).unwrap();
        let shapes = [
            ("bpe-gpt2", true),
            ("bpe-llama3", true),
            ("bpe-llama", true),
            ("bpe-digits-nfc", true),
            ("unigram", false),
            ("wordpiece", false),
        ];
        for (name, ours) in shapes {
            let json = std::fs::read(format!("{folder}/{name}.json")).unwrap();
            let inner = tokenizers::Tokenizer::from_bytes(&json).unwrap();
            let added = inner.get_added_tokens_decoder();
            let n_vocab = inner.get_vocab_size(true);
            let native = HfNative::new(&json, added.iter().map(|(id, t)| (*id, t)), n_vocab).unwrap();
            assert_eq!(native.is_some(), ours, "{name}");
            let Some(native) = native else { continue };
            let mut plain = inner.get_added_vocabulary().clone();
            plain.set_encode_special_tokens(true);
            let library = Hf { inner, plain };
            let joined = texts.join("<|endoftext|> <tool>  </s>");
            for text in texts.iter().chain([&joined]) {
                for parse_special in [false, true] {
                    let (mut got, mut want) = (Vec::new(), Vec::new());
                    native.encode(text, parse_special, &mut Scratch::default(), &mut got).unwrap();
                    library.encode(text, parse_special, &mut want).unwrap();
                    assert_eq!(got, want, "{name}, parse_special {parse_special}: {text:?}");
                }
            }
        }
    }
}
