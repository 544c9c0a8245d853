//! Time to make a mask over a vocabulary of 151 936 tokens. `cargo run --release -p mlxr-grammar --example mask_bench`
//!
//! The vocabulary is 256 bytes, marks of JSON, and words of two to nine random letters, half of them after a space. Each text is
//! gone through byte by byte, which makes a mask at each place; a model that says longer tokens makes fewer.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use mlxr_engine::TokenId;
use mlxr_engine::constraint::Grammar;
use mlxr_engine::sampler::{Mask, Rng};
use mlxr_grammar::{Grammars, Limits, Reply, Source};
use mlxr_text::token::{GgufVocab, Source as Vocabulary, SpecialIds, Tokenizer};

const N_VOCAB: usize = 151_936;
const END: TokenId = 256;

const SCHEMA: &str = r#"{"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"},
    "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}}, "about": {"type": "string", "maxLength": 200}},
    "required": ["name", "age", "tags", "about"]}"#;
const ANSWER: &str =
    r#"{"name": "Ann Other", "age": 41, "tags": ["red", "blue"], "about": "She sails the sea and mends the nets."}"#;
const REGEX: &str = r"[A-Z][a-z]+( [A-Z][a-z]+)*, \d{4}-\d{2}-\d{2}";

fn tokenizer() -> Result<Tokenizer, Box<dyn Error>> {
    let printable = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let mut next = 256;
    let mut letter = |b: u32| {
        let code = if printable(b) { b } else { next };
        next += u32::from(!printable(b));
        char::from_u32(code).unwrap_or('?').to_string()
    };
    let mut tokens: Vec<String> = (0..256).map(&mut letter).collect();
    tokens.extend(["<|im_end|>".into(), "ab".into()]);
    tokens.extend(
        ["\",", "\":", "\"}", "\"]", "],", "{\"", "[\"", "\":\"", "\",\"", "Ġ\"", "Ġ{", "Ġ["].map(str::to_owned),
    );
    let mut rng = Rng::new(1);
    while tokens.len() < N_VOCAB {
        let n = 2 + rng.next_u64() % 8;
        let word: String = (0..n).map(|_| char::from(b'a' + (rng.next_u64() % 26) as u8)).collect();
        // The number keeps words apart that chance made equal.
        let word = if n < 5 { format!("{word}{}", tokens.len() % 1000) } else { word };
        tokens.push(if rng.next_u64().is_multiple_of(2) { format!("Ġ{word}") } else { word });
    }
    let types = (0..N_VOCAB).map(|id| if id == END as usize { 3 } else { 1 }).collect();
    Ok(Tokenizer::from_source(Vocabulary::Gguf(GgufVocab {
        model: "gpt2".into(),
        pre: Some("gpt-2".into()),
        types,
        tokens: tokens.into_iter().map(String::into_bytes).collect(),
        merges: vec!["a b".into()],
        ids: SpecialIds { bos: Some(END), eos: Some(END), ..SpecialIds::default() },
        add_bos: Some(false),
        ..GgufVocab::default()
    }))?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let tokenizer = Arc::new(tokenizer()?);
    let start = Instant::now();
    let grammars = Grammars::new(&tokenizer, N_VOCAB, Limits::default())?;
    println!("vocabulary: {:.0} ms, once a model", start.elapsed().as_secs_f64() * 1e3);
    let rows = [
        ("JSON schema", Source::Schema(serde_json::from_str(SCHEMA)?), ANSWER),
        ("any JSON object", Source::Json, ANSWER),
        ("regular expression", Source::Regex(REGEX.into()), "Ann Other, 2026-11-27"),
    ];
    for (name, source, text) in rows {
        let start = Instant::now();
        let compiled = grammars.compile(&Reply::of(source))?;
        let compile_ms = start.elapsed().as_secs_f64() * 1e3;
        let mut micros = Vec::new();
        for _ in 0..20 {
            let (mut constraint, mut mask) = (compiled.begin(), Mask::nothing(N_VOCAB));
            for byte in text.bytes() {
                let start = Instant::now();
                constraint.allowed(&mut mask)?;
                micros.push(start.elapsed().as_secs_f64() * 1e6);
                // The first tokens are the bytes.
                constraint.push(TokenId::from(byte))?;
            }
        }
        let mean = micros.iter().sum::<f64>() / micros.len() as f64;
        micros.sort_by(f64::total_cmp);
        let at = |part: f64| micros[(part * (micros.len() - 1) as f64) as usize];
        println!(
            "{name:20} compiled in {compile_ms:.1} ms; a mask: mean {mean:.0} us, median {:.0}, 95 of 100 {:.0}, longest {:.0}",
            at(0.5),
            at(0.95),
            at(1.0)
        );
    }
    Ok(())
}
