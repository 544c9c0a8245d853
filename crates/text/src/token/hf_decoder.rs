//! The `decoder` of a `tokenizer.json`, applied to single tokens.
//!
//! The library decodes whole sequences to text. Streams, log probabilities and grammars need the bytes
//! of each token, so the decoders that language models use are done here, token by token; only what
//! touches the first token of a text (a space taken away) is left to the caller.

use super::build;
use super::byte_level;
use super::error::TokenError;
use super::tokenizer::Decoding;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

const FILE: &str = "tokenizer.json";

/// What is read of the file here; the library reads the rest.
#[derive(Deserialize)]
struct Head {
    decoder: Option<Value>,
    model: ModelHead,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ModelHead {
    unk_token: Option<String>,
    unk_id: Option<usize>,
    vocab: Texts,
}

/// The texts of a unigram model's vocabulary, which is a list (`unk_id` is an index into it). Any other
/// vocabulary is a map and passed over.
#[derive(Default)]
struct Texts(Option<Vec<String>>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Texts, D::Error> {
        deserializer.deserialize_any(TextsVisitor)
    }
}

struct TextsVisitor;

impl<'de> Visitor<'de> for TextsVisitor {
    type Value = Texts;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a vocabulary: a map or a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Texts, A::Error> {
        let mut texts = Vec::new();
        while let Some((text, _)) = list.next_element::<(String, f64)>()? {
            texts.push(text);
        }
        Ok(Texts(Some(texts)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Texts(None))
    }
}

/// One step for one token.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    ByteLevel,
    ByteFallback,
    Replace(String, String),
    /// Tokens that continue a word begin with this; others get a space before them.
    WordPiece(String),
    /// Tokens that end a word end with this, which becomes a space.
    WordEnd(String),
}

/// How tokens become bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Decoder {
    steps: Vec<Step>,
    pub decoding: Decoding,
    /// The model's unknown token.
    pub unknown: Option<String>,
}

impl Decoder {
    /// Reads the file.
    ///
    /// # Errors
    /// JSON that is not a tokenizer's, or a decoder of an unknown kind.
    pub fn new(json: &[u8]) -> Result<Decoder, TokenError> {
        let head: Head = serde_json::from_slice(json)
            .map_err(|e| TokenError::malformed(FILE, "file", e.to_string(), "expected a Hugging Face tokenizer"))?;
        let by_index = head.model.unk_id.and_then(|i| head.model.vocab.0.as_ref()?.get(i).cloned());
        let mut decoder = Decoder { unknown: head.model.unk_token.or(by_index), ..Decoder::default() };
        match &head.decoder {
            Some(Value::Null) | None => {
                // Without a decoder the library joins tokens with spaces.
                decoder.steps.push(Step::WordPiece("\0".to_string()));
                decoder.decoding.strip_first_space = true;
            }
            Some(value) => decoder.add(value, 0)?,
        }
        Ok(decoder)
    }

    fn add(&mut self, value: &Value, depth: usize) -> Result<(), TokenError> {
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        let flag = |key: &str| value.get(key).and_then(Value::as_bool);
        match text("type").unwrap_or_default() {
            "Sequence" if depth < 4 => {
                for inner in value.get("decoders").and_then(Value::as_array).into_iter().flatten() {
                    self.add(inner, depth + 1)?;
                }
            }
            "ByteLevel" => self.steps.push(Step::ByteLevel),
            "ByteFallback" => self.steps.push(Step::ByteFallback),
            "Fuse" => {}
            "Strip" if text("content") == Some(" ") => {
                self.decoding.strip_first_space |= value.get("start").and_then(Value::as_u64) > Some(0);
            }
            "Metaspace" => {
                let sign = text("replacement").unwrap_or("▁");
                self.steps.push(Step::Replace(sign.to_string(), " ".to_string()));
                let never = text("prepend_scheme") == Some("never") || flag("add_prefix_space") == Some(false);
                self.decoding.strip_first_space |= !never;
            }
            "Replace" if value.pointer("/pattern/String").is_some_and(Value::is_string) => {
                let pattern = value.pointer("/pattern/String").and_then(Value::as_str).unwrap_or_default();
                let content = text("content").unwrap_or_default();
                self.steps.push(Step::Replace(pattern.to_string(), content.to_string()));
            }
            "WordPiece" => {
                self.steps.push(Step::WordPiece(text("prefix").unwrap_or("##").to_string()));
                self.decoding.strip_first_space = true;
                self.decoding.clean_spaces |= flag("cleanup") == Some(true);
            }
            "BPEDecoder" => self.steps.push(Step::WordEnd(text("suffix").unwrap_or("</w>").to_string())),
            other => {
                return Err(TokenError::Unsupported {
                    file: FILE,
                    field: "decoder",
                    found: other.to_string(),
                    known: "ByteLevel, ByteFallback, Fuse, Strip of a space, Metaspace, Replace of a string, \
                            WordPiece, BPEDecoder, and a Sequence of them"
                        .to_string(),
                });
            }
        }
        Ok(())
    }

    /// The byte that a token named `<0xNN>` stands for, where the file has byte fallback.
    pub fn byte(&self, name: &str) -> Option<u8> {
        build::byte_of(name.as_bytes()).filter(|_| self.steps.contains(&Step::ByteFallback))
    }

    /// What a token adds to a text. `added`: it is an added token.
    pub fn bytes(&self, name: &str, added: bool) -> Vec<u8> {
        if let Some(byte) = self.byte(name) {
            return vec![byte];
        }
        let mut text = name.to_string();
        for step in &self.steps {
            match step {
                Step::ByteLevel if added => {}
                Step::ByteLevel => match byte_level::decode(&text) {
                    Some(bytes) => return bytes,
                    None => continue,
                },
                Step::ByteFallback => {}
                Step::Replace(pattern, content) if !pattern.is_empty() => text = text.replace(pattern, content),
                Step::Replace(..) => {}
                Step::WordPiece(prefix) => {
                    text = match text.strip_prefix(prefix) {
                        Some(rest) => rest.to_string(),
                        None => format!(" {text}"),
                    };
                }
                Step::WordEnd(suffix) => {
                    if let Some(start) = text.strip_suffix(suffix) {
                        text = format!("{start} ");
                    }
                }
            }
        }
        text.into_bytes()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // tests
mod tests {
    use super::*;

    fn check(decoder: &str, names: &[&str], want: &[&str]) {
        let json = format!(r#"{{"model": {{"vocab": {{"a": 1}}, "unk_token": "<unk>"}}, "decoder": {decoder}}}"#);
        let decoder = Decoder::new(json.as_bytes()).unwrap();
        let got: Vec<_> = names.iter().map(|n| String::from_utf8(decoder.bytes(n, false)).unwrap()).collect();
        assert_eq!(got, want, "{json}");
        assert_eq!(decoder.unknown.as_deref(), Some("<unk>"));
    }

    #[test]
    fn tokens_become_bytes() {
        check(r#"{"type": "ByteLevel"}"#, &["Ġa", "Ċ", "日"], &[" a", "\n", "日"]);
        check(
            r#"{"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}"#,
            &["▁a▁", "<0x41>", "<0x4>"],
            &[" a ", "A", "<0x4>"],
        );
        check(r###"{"type": "WordPiece", "prefix": "##", "cleanup": true}"###, &["a", "##b"], &[" a", "b"]);
        check(r#"{"type": "BPEDecoder", "suffix": "</w>"}"#, &["a", "b</w>"], &["a", "b "]);
        check("null", &["a"], &[" a"]);
        assert!(Decoder::new(br#"{"model": {}, "decoder": {"type": "CTC"}}"#).is_err());
    }
}
