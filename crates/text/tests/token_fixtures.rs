//! The vocabularies of llama.cpp: every text of each `.inp` file gives exactly the ids of its `.out` line.

#![allow(clippy::unwrap_used)] // tests

mod token_common;

use mlxr_text::token::{Config, Encode, Source, Tokenizer};
use std::path::{Path, PathBuf};

/// The fixtures, or `None` with a loud word.
fn fixtures() -> Option<PathBuf> {
    let folder = std::env::var_os("MLXR_FIXTURES").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("SKIPPED: set MLXR_FIXTURES to the fixtures folder to run this test");
    }
    folder
}

/// Checks one vocabulary; returns how many texts it had.
fn check(gguf: &Path) -> usize {
    let vocab = token_common::gguf_vocab(&std::fs::read(gguf).unwrap());
    let tokenizer = Tokenizer::from_source(Source::Gguf(vocab)).unwrap();
    let side = |end: &str| std::fs::read_to_string(format!("{}{end}", gguf.display())).unwrap();
    let (texts, lines) = (side(".inp"), side(".out"));
    // The separator stands after each text, the last one included.
    let texts: Vec<&str> = texts.split_terminator("\n__ggml_vocab_test__\n").collect();
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(texts.len(), lines.len(), "{}", gguf.display());
    for (text, line) in texts.iter().zip(lines) {
        let want: Vec<u32> = line.split_whitespace().map(|id| id.parse().unwrap()).collect();
        let got = tokenizer.encode(text, Encode::PLAIN).unwrap();
        assert_eq!(got, want, "{}: {text:?}", gguf.display());
    }
    texts.len()
}

#[test]
fn every_vocabulary_gives_exactly_the_expected_ids() {
    let Some(folder) = fixtures() else { return };
    let mut n = 0;
    let mut files: Vec<_> = std::fs::read_dir(folder.join("vocab")).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "gguf")) {
        let texts = check(file);
        println!("{}: {texts} texts", file.display());
        n += texts;
    }
    assert!(n >= 8 * 40, "only {n} texts");
}

#[test]
fn stories_encodes_the_same_from_gguf_and_from_hugging_face() {
    let Some(folder) = fixtures() else { return };
    let folder = folder.join("stories260k");
    let gguf = token_common::gguf_vocab(&std::fs::read(folder.join("stories260K-f32.gguf")).unwrap());
    let gguf = Tokenizer::from_source(Source::Gguf(gguf)).unwrap();
    let config = std::fs::read(folder.join("hf/tokenizer_config.json")).unwrap();
    let config = Config { tokenizer_config: serde_json::from_slice(&config).unwrap(), ..Config::default() };
    let tokenizer_json = std::fs::read(folder.join("hf/tokenizer.json")).unwrap();
    let hf = Tokenizer::from_source(Source::HuggingFace { tokenizer_json, config }).unwrap();
    let story = std::fs::read_to_string(folder.join("greedy-200.txt")).unwrap();
    for text in [story.as_str(), "", " ", "  two  spaces ", "déjà vu 漢字 🦙\n\ttab", "<s>not special</s>"] {
        let how = Encode { add_special: true, parse_special: false };
        let ids = gguf.encode(text, how).unwrap();
        assert_eq!(ids, hf.encode(text, how).unwrap(), "{text:?}");
        assert_eq!(gguf.decode(&ids, true), text);
        assert_eq!(hf.decode(&ids, true), text);
    }
    assert_eq!((gguf.bos(), gguf.eos(), gguf.eog_ids()), (hf.bos(), hf.eos(), hf.eog_ids()));
    assert_eq!(gguf.n_vocab(), hf.n_vocab());
    for id in 0..gguf.n_vocab() as u32 {
        assert_eq!(gguf.token_bytes(id), hf.token_bytes(id), "{id}");
        assert_eq!(gguf.kind(id), hf.kind(id), "{id}");
    }
}
