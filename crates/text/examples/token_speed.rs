//! Speed of encoding, ours beside Hugging Face's `tokenizers` on the same vocabulary.
//!
//! `cargo run --release -p mlxr-text --example token_speed -- GGUF TEXT_FILE [SECONDS]`
//!
//! Where the vocabulary is byte-level BPE (`gpt2`) with a split pattern that is known here, the same one
//! is given to `tokenizers` as a `tokenizer.json`; any other is measured alone. All encode the same
//! text, in one piece and line by line, on one thread. Prints MB/s, best of the rounds, and checks that
//! the ids are equal.

#[path = "../tests/token_common/mod.rs"]
mod token_common;

use mlxr_text::token::{Config, Encode, GgufVocab, Source, Tokenizer};
use serde_json::{Map, Value, json};
use std::error::Error;
use std::time::{Duration, Instant};

/// Split patterns of the names that this example knows.
const PATTERNS: &[(&str, &str)] = &[
    ("gpt-2", r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"),
    (
        "llama-bpe",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    (
        "qwen2",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
];

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (Some(file), Some(text)) = (args.first(), args.get(1)) else {
        return Err("usage: token_speed GGUF TEXT_FILE [SECONDS]".into());
    };
    let seconds: f64 = args.get(2).map_or(Ok(2.0), |s| s.parse())?;
    let vocab = token_common::gguf_vocab(&std::fs::read(file)?);
    let json = hugging_face(&vocab)?;
    let mut ours = vec![("ours, GGUF", Tokenizer::from_source(Source::Gguf(vocab))?)];
    let mut library = None;
    if let Some(tokenizer_json) = json {
        library = Some(tokenizers::Tokenizer::from_bytes(&tokenizer_json).map_err(|e| e.to_string())?);
        let source = Source::HuggingFace { tokenizer_json, config: Config::default() };
        ours.push(("ours, tokenizer.json", Tokenizer::from_source(source)?));
    }
    let text = std::fs::read_to_string(text)?;
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    for (name, parts) in [("whole text", vec![text.as_str()]), ("line by line", lines)] {
        println!("{name}: {} parts, {} bytes", parts.len(), text.len());
        let want = library.as_ref().map(|library| {
            rate("tokenizers crate", &parts, seconds, |part| {
                library.encode_fast(part, false).map(|e| e.get_ids().to_vec()).unwrap_or_default()
            })
        });
        for (name, ours) in &ours {
            let got = rate(name, &parts, seconds, |part| ours.encode(part, Encode::PLAIN).unwrap_or_default());
            if want.as_ref().is_some_and(|want| got != *want) {
                return Err(format!("{name}: other ids").into());
            }
        }
    }
    Ok(())
}

/// Encodes all parts until the time is up; prints the best round and returns the ids.
fn rate(name: &str, parts: &[&str], seconds: f64, encode: impl Fn(&str) -> Vec<u32>) -> Vec<u32> {
    let bytes: usize = parts.iter().map(|p| p.len()).sum();
    let begin = Instant::now();
    let mut best = Duration::MAX;
    let mut ids = Vec::new();
    while ids.is_empty() || begin.elapsed().as_secs_f64() < seconds {
        let round = Instant::now();
        ids = parts.iter().flat_map(|part| encode(part)).collect();
        best = best.min(round.elapsed());
    }
    println!("  {name:22} {:8.2} MB/s  ({} ids)", bytes as f64 / 1e6 / best.as_secs_f64(), ids.len());
    ids
}

/// The same vocabulary as a `tokenizer.json`, if its split pattern is known here.
fn hugging_face(vocab: &GgufVocab) -> Result<Option<Vec<u8>>, Box<dyn Error>> {
    let pre = vocab.pre.as_deref().unwrap_or_default();
    let Some((_, pattern)) = PATTERNS.iter().find(|row| row.0 == pre && vocab.model == "gpt2") else { return Ok(None) };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let entries = vocab.tokens.iter().enumerate().map(|(id, token)| (text(token), Value::from(id)));
    let added = vocab.types.iter().enumerate().filter(|(_, kind)| **kind == 3 || **kind == 4).map(|(id, kind)| {
        json!({"id": id, "content": text(&vocab.tokens[id]), "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": *kind == 3})
    });
    let merges: Vec<String> = vocab.merges.iter().map(|m| text(m)).collect();
    Ok(Some(serde_json::to_vec(&json!({
        "version": "1.0",
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": entries.collect::<Map<_, _>>(), "merges": merges,
                  "ignore_merges": pre == "llama-bpe"},
    }))?))
}
