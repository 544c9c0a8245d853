//! The common shapes of `tokenizer.json` on our own engine.
//!
//! Nearly all language models ship BPE, either over bytes (words by patterns, GPT-2 and after) or over
//! characters (`▁` for a space, Llama 2 and Gemma). Both run here, several times faster than the
//! library, and without its weakness: it stops cutting words, without a word, where its regular
//! expression engine reaches its limit of steps, for instance in a megabyte of spaces. A file of any
//! other shape gives `None` and runs on the library (`hf.rs`).

use super::added::Part;
use super::arena::TextMap;
use super::bpe::{Bpe, Fallback};
use super::byte_level;
use super::error::TokenError;
use super::merge::Scratch;
use super::pre::Splitter;
use super::spm::PatternBpe;
use super::symbols::{Symbols, Unit};
use aho_corasick::{AhoCorasick, MatchKind};
use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::HashMap;
use tokenizers::AddedToken;
use unicode_normalization_alignments::UnicodeNormalization;

/// What is read of the file.
#[derive(Deserialize)]
struct Json {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    model: Model,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    vocab: HashMap<String, u32>,
    #[serde(default)]
    merges: Vec<Pair>,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    byte_fallback: bool,
    dropout: Option<f64>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Pair {
    Two(String, String),
    Line(String),
}

/// What happens to text before it is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Normalizer {
    None,
    Nfc,
    /// Spaces become `▁`; a `▁` goes first.
    PrefixAndSpaces,
    Spaces,
}

/// A tokenizer of one of these shapes.
#[derive(Debug)]
pub(super) struct HfNative {
    /// Added tokens that stand in the text, and those that stand in the normalized text.
    added: [Cutter; 2],
    normalizer: Normalizer,
    bpe: PatternBpe,
}

impl HfNative {
    /// `None` for a file of another shape. `added`: the added tokens by id. `n_vocab`: of all tokens.
    ///
    /// # Errors
    /// A vocabulary beyond the limits.
    pub fn new<'a>(
        json: &[u8],
        added: impl Iterator<Item = (u32, &'a AddedToken)>,
        n_vocab: usize,
    ) -> Result<Option<HfNative>, TokenError> {
        let Ok(json) = serde_json::from_slice::<Json>(json) else { return Ok(None) };
        let empty = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
        let model = &json.model;
        let plain = empty(&model.continuing_subword_prefix) && empty(&model.end_of_word_suffix);
        if model.kind != "BPE" || model.dropout.is_some_and(|d| d > 0.0) || !plain {
            return Ok(None);
        }
        let Some(normalizer) = normalizer(&json.normalizer) else { return Ok(None) };
        let by_chars = matches!(normalizer, Normalizer::PrefixAndSpaces | Normalizer::Spaces);
        let added: Vec<_> = added.collect();
        if added.iter().any(|(_, t)| t.single_word || (by_chars && t.normalized)) {
            return Ok(None);
        }
        let bpe = if by_chars { char_bpe(&json, n_vocab)? } else { byte_bpe(&json, n_vocab)? };
        let Some(bpe) = bpe else { return Ok(None) };
        let of = |normalized: bool| added.iter().filter(move |(_, t)| t.normalized == normalized);
        let cutters = [Cutter::new(of(false), normalizer), Cutter::new(of(true), normalizer)];
        let [Some(raw), Some(normalized)] = cutters else { return Ok(None) };
        Ok(Some(HfNative { added: [raw, normalized], normalizer, bpe }))
    }

    /// Appends the ids of `text`.
    ///
    /// # Errors
    /// A backtracking split pattern that gives up on this text.
    pub fn encode(
        &self,
        text: &str,
        parse_special: bool,
        scratch: &mut Scratch,
        out: &mut Vec<u32>,
    ) -> Result<(), TokenError> {
        for part in self.added[0].cut(text, parse_special) {
            let text = match part {
                Part::Token(id) => {
                    out.push(id);
                    continue;
                }
                Part::Text(text) => self.normalizer.apply(text),
            };
            for part in self.added[1].cut(&text, parse_special) {
                match part {
                    Part::Token(id) => out.push(id),
                    Part::Text(text) => self.bpe.encode(text, scratch, out)?,
                }
            }
        }
        Ok(())
    }
}

impl Normalizer {
    fn apply<'t>(self, text: &'t str) -> Cow<'t, str> {
        match self {
            Normalizer::Nfc if !text.is_ascii() => text.nfc().map(|(c, _)| c).collect::<String>().into(),
            Normalizer::PrefixAndSpaces => format!("▁{text}").into(),
            // `PatternBpe` writes spaces as `▁` itself.
            Normalizer::None | Normalizer::Nfc | Normalizer::Spaces => text.into(),
        }
    }
}

fn normalizer(json: &Value) -> Option<Normalizer> {
    let kind = |v: &Value| v.get("type").and_then(Value::as_str).unwrap_or_default().to_string();
    let spaces = |v: &Value| {
        kind(v) == "Replace"
            && v.pointer("/pattern/String") == Some(&" ".into())
            && v.get("content") == Some(&"▁".into())
    };
    if json.is_null() {
        return Some(Normalizer::None);
    }
    if spaces(json) {
        return Some(Normalizer::Spaces);
    }
    match (kind(json).as_str(), json.get("normalizers").and_then(Value::as_array).map(Vec::as_slice)) {
        ("NFC", _) => Some(Normalizer::Nfc),
        ("Sequence", Some([])) => Some(Normalizer::None),
        ("Sequence", Some([one])) => normalizer(one),
        ("Sequence", Some([prefix, replace])) => {
            let prefixes = kind(prefix) == "Prepend" && prefix.get("prepend") == Some(&"▁".into());
            (prefixes && spaces(replace)).then_some(Normalizer::PrefixAndSpaces)
        }
        _ => None,
    }
}

/// Words by patterns, tokens over bytes.
fn byte_bpe(json: &Json, n_vocab: usize) -> Result<Option<PatternBpe>, TokenError> {
    let Some(patterns) = patterns(&json.pre_tokenizer) else { return Ok(None) };
    let Ok(splitter) = Splitter::of_patterns(&patterns) else { return Ok(None) };
    if json.model.byte_fallback || json.model.unk_token.is_some() {
        return Ok(None);
    }
    let Some((symbols, merges)) = merges(json, n_vocab, byte_level::decode)? else { return Ok(None) };
    let bytes = (0..=255_u8).map(|b| symbols.get(&[b]).filter(|&id| (id as usize) < n_vocab)).collect();
    let fallback = Fallback { bytes, unknown: None };
    let bpe = Bpe::new(symbols, merges, (Unit::Byte, n_vocab), fallback, json.model.ignore_merges);
    Ok(Some(PatternBpe::new(bpe, splitter)))
}

/// The whole text is one word, tokens over characters, bytes for what is outside the vocabulary.
fn char_bpe(json: &Json, n_vocab: usize) -> Result<Option<PatternBpe>, TokenError> {
    let model = &json.model;
    // Without all byte tokens the library's choice between bytes and the unknown token is per character.
    let byte = |b: u8| model.vocab.get(&format!("<0x{b:02X}>")).copied();
    let bytes: Vec<Option<u32>> = (0..=255).map(byte).collect();
    let whole = model.byte_fallback && bytes.iter().all(Option::is_some) && !model.ignore_merges;
    if !json.pre_tokenizer.is_null() || !whole {
        return Ok(None);
    }
    let Some((symbols, merges)) = merges(json, n_vocab, |text| Some(text.as_bytes().to_vec()))? else {
        return Ok(None);
    };
    let bpe = Bpe::new(symbols, merges, (Unit::Char, n_vocab), Fallback { bytes, unknown: None }, false);
    Ok(Some(PatternBpe {
        escape_spaces: true,
        sticky: bpe.sticky_chars(),
        ..PatternBpe::new(bpe, Splitter::default())
    }))
}

/// The symbols and merges of the file; `None` where a merge is not of the usual form.
fn merges(
    json: &Json,
    n_vocab: usize,
    decode: impl Fn(&str) -> Option<Vec<u8>>,
) -> Result<Option<(Symbols, super::merge::MergeTable)>, TokenError> {
    let mut symbols = Symbols::new(n_vocab);
    let mut seen = TextMap::default();
    for (text, &id) in &json.model.vocab {
        if let Some(bytes) = decode(text) {
            if seen.insert(&bytes, id) != id {
                return Ok(None);
            }
            symbols.token(&bytes, id);
        }
    }
    let mut pairs = Vec::with_capacity(json.model.merges.len());
    for pair in &json.model.merges {
        let sides = match pair {
            Pair::Two(left, right) => Some((left.as_str(), right.as_str())),
            Pair::Line(line) => line.split_once(' '),
        };
        let decoded = sides.and_then(|(l, r)| Some((decode(l)?, decode(r)?)));
        let Some(decoded) = decoded.filter(|(l, r)| !l.is_empty() && !r.is_empty()) else { return Ok(None) };
        pairs.push(decoded);
    }
    let table = symbols.merges_of_list(pairs.into_iter())?;
    Ok(Some((symbols, table)))
}

/// GPT-2's words, which `ByteLevel` has built in.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The patterns of a pre-tokenizer that ends in `ByteLevel`, each of which cuts what is left of the text.
pub(super) fn patterns(json: &Value) -> Option<Vec<String>> {
    let steps = match json.get("pretokenizers").and_then(Value::as_array) {
        Some(steps) => steps.as_slice(),
        None => std::slice::from_ref(json),
    };
    let (last, steps) = steps.split_last()?;
    let mut patterns = Vec::new();
    for step in steps {
        let is = |name: &str, value: Value| step.get(name) == Some(&value);
        let isolated = is("behavior", "Isolated".into()) && is("invert", false.into());
        match step.get("type")?.as_str()? {
            "Digits" if is("individual_digits", true.into()) => patterns.push(r"\p{N}".to_string()),
            "Digits" => patterns.push(r"\p{N}+".to_string()),
            "Split" if isolated => patterns.push(step.pointer("/pattern/Regex")?.as_str()?.to_string()),
            _ => return None,
        }
    }
    let flag = |name: &str| last.get(name).and_then(Value::as_bool);
    if last.get("type")?.as_str()? != "ByteLevel" || flag("add_prefix_space")? {
        return None;
    }
    if flag("use_regex").unwrap_or(true) {
        patterns.push(GPT2.to_string());
    }
    Some(patterns)
}

/// Cuts added tokens out of a text, the leftmost and longest first, as the library does.
#[derive(Debug)]
struct Cutter {
    finder: Option<AhoCorasick>,
    tokens: Vec<(u32, AddedToken)>,
}

impl Cutter {
    /// `None` where the automaton cannot hold them.
    fn new<'a>(tokens: impl Iterator<Item = &'a (u32, &'a AddedToken)>, normalizer: Normalizer) -> Option<Cutter> {
        let tokens: Vec<(u32, AddedToken)> = tokens.map(|(id, token)| (*id, (*token).clone())).collect();
        if tokens.is_empty() {
            return Some(Cutter { finder: None, tokens });
        }
        let text =
            |t: &AddedToken| if t.normalized { normalizer.apply(&t.content).into_owned() } else { t.content.clone() };
        let texts = tokens.iter().map(|(_, t)| text(t));
        let finder = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts).ok()?;
        Some(Cutter { finder: Some(finder), tokens })
    }

    fn cut<'t>(&self, text: &'t str, parse_special: bool) -> Vec<Part<'t>> {
        let mut parts = Vec::new();
        let mut rest = 0;
        for found in self.finder.iter().flat_map(|f| f.find_iter(text)) {
            let (id, token) = &self.tokens[found.pattern().as_usize()];
            // The white space that the token before swallowed may hold this one.
            if found.start() < rest || (token.special && !parse_special) {
                continue;
            }
            let (mut start, mut end) = (found.start(), found.end());
            if token.lstrip {
                start = text[..start].trim_end().len().max(rest);
            }
            if token.rstrip {
                end = text.len() - text[end..].trim_start().len();
            }
            if rest < start {
                parts.push(Part::Text(&text[rest..start]));
            }
            parts.push(Part::Token(*id));
            rest = end;
        }
        if rest < text.len() {
            parts.push(Part::Text(&text[rest..]));
        }
        parts
    }
}
