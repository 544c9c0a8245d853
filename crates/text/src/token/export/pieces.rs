//! Vocabularies that are not merged: unigram's scored pieces and WordPiece, both ways.
//!
//! | | `tokenizer.json` | GGUF |
//! |---|---|---|
//! | unigram | pieces with scores in the model, a normalizer's map as base64 | `t5`: tokens, scores, the map as bytes |
//! | WordPiece | `word`, and `##ing` where a word goes on | `bert`: `▁word`, and `ing` |

use serde_json::{Map, Value, json};

use super::super::error::TokenError;
use super::super::source::GgufVocab;
use super::super::tiktoken;
use super::super::tokenizer::{Encode, Tokenizer};
use super::super::vocab::Kind;

/// What begins a word, and what goes on with one.
const WORD: &str = "▁";
const CONTINUES: &str = "##";
/// The score of a piece that no text is cut into.
const NEVER: f32 = -1e5;

/// All parts of a `normalizer` or `pre_tokenizer`, those in sequences too.
fn steps(part: Option<&Value>) -> Vec<&Value> {
    let Some(part) = part else { return Vec::new() };
    let inner = ["normalizers", "pretokenizers"].iter().find_map(|list| part.get(list)?.as_array());
    match inner {
        Some(list) => list.iter().flat_map(|part| steps(Some(part))).collect(),
        None => vec![part],
    }
}

fn kind(step: &Value) -> &str {
    step.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// The keys of a unigram model.
///
/// # Errors
/// If its map of characters is no base64.
pub(super) fn unigram_to_gguf(json: &Value, vocab: &mut GgufVocab) -> Result<(), TokenError> {
    "t5".clone_into(&mut vocab.model);
    let list = json.pointer("/model/vocab").and_then(Value::as_array);
    let score = |pair: &Value| pair.get(1).and_then(Value::as_f64).unwrap_or(0.0) as f32;
    vocab.scores = list.into_iter().flatten().map(score).collect();
    vocab.scores.resize(vocab.tokens.len(), 0.0);
    let (normalizers, cuts) = (steps(json.get("normalizer")), steps(json.get("pre_tokenizer")));
    if let Some(map) = normalizers.iter().find_map(|step| step.get("precompiled_charsmap")?.as_str()) {
        vocab.precompiled_charsmap = tiktoken::base64(map.as_bytes()).ok_or_else(|| {
            let found = format!("{} characters", map.len());
            TokenError::malformed("tokenizer.json", "normalizer.precompiled_charsmap", found, "expected base64")
        })?;
    }
    let runs =
        |step: &&Value| step.pointer("/pattern/Regex").and_then(Value::as_str).is_some_and(|p| p.contains("{2,}"));
    let merged = normalizers.iter().any(runs) || cuts.iter().any(|step| kind(step) == "WhitespaceSplit");
    vocab.remove_extra_whitespaces = Some(merged);
    let prefix = |step: &&Value| {
        let never =
            step.get("prepend_scheme") == Some(&"never".into()) || step.get("add_prefix_space") == Some(&false.into());
        kind(step) == "Metaspace" && !never || kind(step) == "Prepend"
    };
    vocab.add_space_prefix = Some(cuts.iter().chain(&normalizers).any(prefix));
    Ok(())
}

/// The keys of a WordPiece model.
///
/// # Errors
/// If the tokenizer does not encode.
pub(super) fn wordpiece_to_gguf(json: &Value, built: &Tokenizer, vocab: &mut GgufVocab) -> Result<(), TokenError> {
    "bert".clone_into(&mut vocab.model);
    let prefix = json.pointer("/model/continuing_subword_prefix").and_then(Value::as_str).unwrap_or(CONTINUES);
    for (id, name) in vocab.tokens.iter_mut().enumerate() {
        if built.kind(id as u32) == Some(Kind::Normal) {
            *name = match name.strip_prefix(prefix.as_bytes()) {
                Some(rest) => rest.to_vec(),
                None => [WORD.as_bytes(), name].concat(),
            };
        }
    }
    let normalizers = steps(json.get("normalizer"));
    let flag = |name: &str| normalizers.iter().find_map(|step| step.get(name)?.as_bool());
    vocab.lowercase =
        Some(flag("lowercase").unwrap_or_else(|| normalizers.iter().any(|step| kind(step) == "Lowercase")));
    vocab.strip_accents = flag("strip_accents").or(vocab.lowercase);
    let ids = &mut vocab.ids;
    ids.cls = ids.cls.or(ids.bos).or(built.token_id("[CLS]"));
    ids.bos = ids.bos.or(ids.cls);
    ids.sep = ids.sep.or(built.token_id("[SEP]"));
    ids.mask = ids.mask.or(built.token_id("[MASK]"));
    let around = built.encode("", Encode { add_special: true, parse_special: false })?;
    vocab.add_sep = Some(around.last().is_some_and(|id| Some(*id) == ids.sep));
    Ok(())
}

/// Names in the order of ids.
fn names(built: &Tokenizer) -> Vec<(String, Kind)> {
    let name = |id: u32| String::from_utf8_lossy(built.token_name(id).unwrap_or_default()).into_owned();
    (0..built.n_vocab() as u32).map(|id| (name(id), built.kind(id).unwrap_or(Kind::Unused))).collect()
}

/// Normalizer, pre-tokenizer, decoder and model of a unigram vocabulary.
pub(super) fn unigram_to_hf(vocab: &GgufVocab, built: &Tokenizer) -> [Value; 4] {
    let mut normalizers = Vec::new();
    if !vocab.precompiled_charsmap.is_empty() {
        normalizers.push(json!({"type": "Precompiled", "precompiled_charsmap": base64(&vocab.precompiled_charsmap)}));
    }
    if vocab.remove_extra_whitespaces.unwrap_or(false) {
        for (pattern, content) in [("^ +| +$", ""), (" {2,}", " ")] {
            normalizers.push(json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": content}));
        }
    }
    let scheme = if vocab.add_space_prefix.unwrap_or(true) { "always" } else { "never" };
    let spaces = json!({"type": "Metaspace", "replacement": WORD, "prepend_scheme": scheme, "split": false});
    // The library cuts text into all pieces, those of bytes and of control too: they must not pay.
    let score = |id: usize, kind: Kind| match kind {
        Kind::Normal | Kind::UserDefined => vocab.scores.get(id).copied().unwrap_or(0.0),
        _ => NEVER,
    };
    let pieces = names(built).into_iter().enumerate().map(|(id, (name, kind))| json!([name, score(id, kind)]));
    let model = json!({"type": "Unigram", "unk_id": built.special_ids().unk, "byte_fallback": false,
                       "vocab": pieces.collect::<Vec<_>>()});
    [json!({"type": "Sequence", "normalizers": normalizers}), spaces.clone(), spaces, model]
}

/// Normalizer, pre-tokenizer, decoder and model of a WordPiece vocabulary.
pub(super) fn wordpiece_to_hf(vocab: &GgufVocab, built: &Tokenizer) -> [Value; 4] {
    let name = |(name, kind): (String, Kind)| match (kind, name.strip_prefix(WORD)) {
        (Kind::Normal, Some(word)) => word.to_owned(),
        (Kind::Normal, None) => format!("{CONTINUES}{name}"),
        _ => name,
    };
    let map: Map<String, Value> =
        names(built).into_iter().enumerate().map(|(id, entry)| (name(entry), id.into())).collect();
    let unk = built.special_ids().unk.and_then(|id| built.token_name(id));
    let unk = String::from_utf8_lossy(unk.unwrap_or(b"[UNK]")).into_owned();
    let model = json!({"type": "WordPiece", "unk_token": unk, "continuing_subword_prefix": CONTINUES,
                       "max_input_chars_per_word": 100, "vocab": map});
    let normalizer = json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                            "strip_accents": vocab.strip_accents, "lowercase": vocab.lowercase.unwrap_or(true)});
    let decoder = json!({"type": "WordPiece", "prefix": CONTINUES, "cleanup": true});
    [normalizer, json!({"type": "BertPreTokenizer"}), decoder, model]
}

/// Bytes as base64. Source: RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * i) & 63) as usize];
            out.push(if i <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_back() {
        for (bytes, expect) in
            [(&b"f"[..], "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"\xff\xfe\xfd\xfc", "//79/A==")]
        {
            assert_eq!(base64(bytes), expect);
            assert_eq!(tiktoken::base64(expect.as_bytes()).as_deref(), Some(bytes));
        }
    }
}
