//! `tokenizer.ggml.*` from a folder's files.

use serde_json::Value;

use super::super::byte_level;
use super::super::config;
use super::super::error::TokenError;
use super::super::hf_native;
use super::super::pre::{self, Rule};
use super::super::sentencepiece;
use super::super::source::{GgufVocab, Source};
use super::super::tokenizer::Tokenizer;
use super::super::vocab::Kind;
use super::{agree, merges, pieces};

/// A tokenizer for a GGUF file.
#[derive(Debug)]
pub struct ToGguf {
    /// The keys.
    pub vocab: GgufVocab,
    /// Whether a difficult text gets the same ids as before.
    pub exact: bool,
}

/// Score of a token that no merge makes.
const NO_SCORE: f32 = -1000.0;

/// The tokenizer that `source` is and `built` runs, as a GGUF file of `n_vocab` rows of logits has it.
///
/// # Errors
/// If GGUF has no model for its kind, or no pre-tokenizer that cuts text as it does.
pub fn to_gguf(source: &Source, built: &Tokenizer, n_vocab: usize) -> Result<ToGguf, TokenError> {
    let mut vocab = base(built, n_vocab);
    let parse = |json: &[u8]| -> Result<Value, TokenError> {
        serde_json::from_slice(json)
            .map_err(|e| TokenError::malformed("tokenizer.json", "file", e.to_string(), "fetch it again"))
    };
    match source {
        Source::Gguf(own) => return Ok(ToGguf { vocab: own.clone(), exact: true }),
        Source::HuggingFace { tokenizer_json, config } => {
            let json = parse(tokenizer_json)?;
            let kind = json.pointer("/model/type").and_then(Value::as_str).unwrap_or_default();
            match kind {
                "BPE" if is_byte_level(&json) => {
                    let cleans = config::flag(config, "clean_up_tokenization_spaces");
                    return byte_level_merges((&json, cleans), built, vocab);
                }
                "BPE" => by_merges(&json, &pairs(&json), &mut vocab),
                "Unigram" => pieces::unigram_to_gguf(&json, &mut vocab)?,
                "WordPiece" => pieces::wordpiece_to_gguf(&json, built, &mut vocab)?,
                other => return Err(unsupported("model.type", other, "BPE, Unigram, WordPiece")),
            }
        }
        Source::SentencePiece { model, config } => {
            let found = sentencepiece::pieces(model, config)?;
            let score = |i: usize| found.scores.get(i).copied().unwrap_or(NO_SCORE);
            vocab.scores = (0..vocab.tokens.len()).map(score).collect();
            vocab.add_space_prefix = Some(found.add_space_prefix);
            if found.merges {
                "llama".clone_into(&mut vocab.model);
            } else {
                "t5".clone_into(&mut vocab.model);
                vocab.precompiled_charsmap = found.charsmap;
                vocab.remove_extra_whitespaces = Some(found.remove_extra_whitespaces);
            }
        }
        Source::Tiktoken { pattern, .. } => {
            ranked_merges(built, &mut vocab);
            let patterns = std::slice::from_ref(pattern);
            return with_pre(vocab, built, Manner { patterns, whole_words: true, cleans: None });
        }
        Source::Tekken { json } => {
            ranked_merges(built, &mut vocab);
            let json = parse(json)?;
            let pattern = json.pointer("/config/pattern").and_then(Value::as_str).unwrap_or_default().to_owned();
            return with_pre(vocab, built, Manner { patterns: &[pattern], whole_words: true, cleans: None });
        }
        Source::Bpe { merges_txt, .. } => {
            let lines = merges_txt.split(|&b| b == b'\n').map(<[u8]>::trim_ascii_end);
            vocab.merges = lines.filter(|l| !l.is_empty() && !l.starts_with(b"#version")).map(<[u8]>::to_vec).collect();
            byte_level_names(built, &mut vocab);
            return with_pre(vocab, built, Manner { patterns: &[], whole_words: false, cleans: None });
        }
    }
    let again = Tokenizer::from_source(Source::Gguf(vocab.clone()))?;
    Ok(ToGguf { exact: agree(built, &again)?, vocab })
}

fn unsupported(field: &'static str, found: &str, known: &str) -> TokenError {
    TokenError::Unsupported { file: "tokenizer", field, found: found.to_owned(), known: known.to_owned() }
}

/// Names, kinds and roles, which all kinds of tokenizers share.
fn base(built: &Tokenizer, n_vocab: usize) -> GgufVocab {
    let n = n_vocab.max(built.n_vocab());
    let unused = |id: &usize| built.token_name(*id as u32).is_none_or(<[u8]>::is_empty);
    let name = |id: usize| match built.token_name(id as u32) {
        Some(name) if !name.is_empty() => name.to_vec(),
        _ => format!("[PAD{id}]").into_bytes(),
    };
    let kind = |id: usize| if unused(&id) { Kind::Unused } else { built.kind(id as u32).unwrap_or(Kind::Unused) };
    GgufVocab {
        tokens: (0..n).map(name).collect(),
        types: (0..n).map(|id| kind(id) as i32).collect(),
        ids: *built.special_ids(),
        eog: built.eog_ids().to_vec(),
        add_bos: Some(built.add_bos()),
        add_eos: Some(built.add_eos()),
        ..GgufVocab::default()
    }
}

/// Merges over bytes.
fn byte_level_merges(
    (json, cleans): (&Value, Option<bool>),
    built: &Tokenizer,
    mut vocab: GgufVocab,
) -> Result<ToGguf, TokenError> {
    byte_level_names(built, &mut vocab);
    vocab.merges = pairs(json).iter().map(|(l, r)| format!("{l} {r}").into_bytes()).collect();
    let patterns = hf_native::patterns(json.get("pre_tokenizer").unwrap_or(&Value::Null));
    let patterns = patterns.unwrap_or_default();
    with_pre(vocab, built, Manner { patterns: &patterns, whole_words: whole_words(json), cleans })
}

/// Merges and names of a vocabulary of ranks.
fn ranked_merges(built: &Tokenizer, vocab: &mut GgufVocab) {
    let ranked: Vec<(u32, &[u8])> = (0..built.n_vocab() as u32)
        .filter(|id| built.kind(*id) == Some(Kind::Normal))
        .filter_map(|id| built.token_bytes(id).map(|bytes| (id, bytes)))
        .collect();
    let pair = |(l, r): (&[u8], &[u8])| format!("{} {}", byte_level::encode(l), byte_level::encode(r)).into_bytes();
    vocab.merges = merges::of_ranks(&ranked).into_iter().map(pair).collect();
    byte_level_names(built, vocab);
}

/// Text tokens in GPT-2's byte characters.
fn byte_level_names(built: &Tokenizer, vocab: &mut GgufVocab) {
    "gpt2".clone_into(&mut vocab.model);
    for (id, name) in vocab.tokens.iter_mut().enumerate() {
        if built.kind(id as u32) == Some(Kind::Normal)
            && let Some(bytes) = built.token_bytes(id as u32).filter(|bytes| !bytes.is_empty())
        {
            *name = byte_level::encode(bytes).into_bytes();
        }
    }
}

/// What a pre-tokenizer is found by.
struct Manner<'a> {
    /// How it cuts words.
    patterns: &'a [String],
    /// A word that is a token is that token.
    whole_words: bool,
    /// Whether decoding takes spaces before punctuation away, where the files say.
    cleans: Option<bool>,
}

/// The pre-tokenizer under which the ids are the same: GGUF names it, so it is found by what it does.
fn with_pre(mut vocab: GgufVocab, built: &Tokenizer, manner: Manner<'_>) -> Result<ToGguf, TokenError> {
    // White space before the end is cut alike with and without the last alternative.
    let stem = |pattern: &str| pattern.strip_suffix(r"|\s+").unwrap_or(pattern).to_owned();
    let own: Vec<String> = manner.patterns.iter().map(|p| stem(p)).collect();
    let equal = |row: &pre::Pre| {
        let rule = |rule: &Rule| match rule {
            Rule::Split(pattern) => stem(pattern),
            Rule::ThreesFromEnd(_) => String::new(),
        };
        row.rules.iter().map(rule).eq(own.iter().cloned())
    };
    let mut rows: Vec<&pre::Pre> = pre::rows().collect();
    // First those of the same patterns, then those that look words up as this tokenizer does, then those that decode so.
    let cleans = |row: &pre::Pre| manner.cleans.is_none_or(|cleans| row.clean_spaces == cleans);
    let own_words = |row: &pre::Pre| row.whole_words == manner.whole_words;
    rows.sort_by_key(|row| (!equal(row), !own_words(row), !cleans(row), row.names.contains(&"default")));
    for row in rows {
        vocab.pre = Some(row.names[0].to_owned());
        let Ok(again) = Tokenizer::from_source(Source::Gguf(vocab.clone())) else { continue };
        if agree(built, &again)? {
            return Ok(ToGguf { vocab, exact: true });
        }
    }
    let known = pre::names().collect::<Vec<_>>().join(", ");
    Err(unsupported("pre_tokenizer", "a way of cutting words that GGUF has no name for", &known))
}

fn is_byte_level(json: &Value) -> bool {
    let of = |part: &Value, list: &str| -> bool {
        let own = part.get("type").and_then(Value::as_str) == Some("ByteLevel");
        let parts = part.get(list).and_then(Value::as_array);
        own || parts.is_some_and(|p| p.iter().any(|p| p.get("type").and_then(Value::as_str) == Some("ByteLevel")))
    };
    json.get("pre_tokenizer").is_some_and(|p| of(p, "pretokenizers"))
        || json.get("decoder").is_some_and(|d| of(d, "decoders"))
}

fn whole_words(json: &Value) -> bool {
    json.pointer("/model/ignore_merges").and_then(Value::as_bool).unwrap_or(false)
}

fn pairs(json: &Value) -> Vec<(&str, &str)> {
    let list = json.pointer("/model/merges").and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(|merge| match merge {
            Value::String(line) => line.split_once(' '),
            Value::Array(two) => Some((two.first()?.as_str()?, two.get(1)?.as_str()?)),
            _ => None,
        })
        .collect()
}

/// SentencePiece's manner in a `tokenizer.json`: a piece's score is the rank of the first merge that makes it.
fn by_merges(json: &Value, pairs: &[(&str, &str)], vocab: &mut GgufVocab) {
    let mut first = std::collections::HashMap::new();
    for (rank, (left, right)) in pairs.iter().enumerate() {
        first.entry(format!("{left}{right}").into_bytes()).or_insert(rank);
    }
    "llama".clone_into(&mut vocab.model);
    vocab.scores = vocab.tokens.iter().map(|t| first.get(t).map_or(NO_SCORE, |rank| -(*rank as f32))).collect();
    if let Some(least) = first.values().max() {
        let least = -(*least as f32) - 1.0;
        vocab.scores.iter_mut().filter(|s| **s == NO_SCORE).for_each(|s| *s = s.min(least));
    }
    let prepends = |part: Option<&Value>| -> bool {
        let text = part.map(Value::to_string).unwrap_or_default();
        text.contains("\"Prepend\"") || text.contains("\"prepend_scheme\":\"first\"") || text.contains("\"always\"")
    };
    vocab.add_space_prefix = Some(prepends(json.get("normalizer")) || prepends(json.get("pre_tokenizer")));
}
