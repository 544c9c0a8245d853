//! Ids of many texts, for comparing with other tokenizers (`xtask/golden/tokenizer_files.py compare`).
//!
//! `token_ids KIND FILE < texts.json > ids.json`: `texts.json` is a list of strings; KIND is `gguf`, `hf`,
//! `spm`, `tekken`, or `tiktoken:PATTERN`. Prints, per text, its ids as plain text and as a prompt, and
//! what the plain ids decode to.

#[path = "../tests/token_common/mod.rs"]
mod token_common;

use mlxr_text::token::{Config, Encode, Source, Tokenizer};
use std::error::Error;
use std::io::Read;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [kind, file] = args.as_slice() else { return Err("usage: token_ids KIND FILE < texts.json".into()) };
    let bytes = std::fs::read(file)?;
    let config = Config::default();
    let source = match kind.split_once(':').map_or((kind.as_str(), ""), |(kind, rest)| (kind, rest)) {
        ("gguf", _) => Source::Gguf(token_common::gguf_vocab(&bytes)),
        ("hf", _) => Source::HuggingFace { tokenizer_json: bytes, config },
        ("spm", _) => Source::SentencePiece { model: bytes, config },
        ("tekken", _) => Source::Tekken { json: bytes },
        ("tiktoken", pattern) => {
            Source::Tiktoken { ranks: bytes, pattern: pattern.to_string(), special: Vec::new(), config }
        }
        (other, _) => return Err(format!("unknown kind {other}").into()),
    };
    let tokenizer = Tokenizer::from_source(source)?;
    let mut texts = String::new();
    std::io::stdin().read_to_string(&mut texts)?;
    let texts: Vec<String> = serde_json::from_str(&texts)?;
    let mut rows = Vec::new();
    for text in &texts {
        let plain = tokenizer.encode(text, Encode::PLAIN)?;
        let prompt = tokenizer.encode(text, Encode::PROMPT)?;
        rows.push(serde_json::json!({
            "plain": plain,
            "prompt": prompt,
            "decoded": tokenizer.decode(&plain, false),
        }));
    }
    println!("{}", serde_json::json!({ "rows": rows, "eog": tokenizer.eog_ids() }));
    Ok(())
}
