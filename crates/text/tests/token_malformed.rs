//! Damaged and hostile tokenizer files give errors that say what is wrong and where.

#![allow(clippy::unwrap_used)] // tests

use mlxr_text::token::{Config, Encode, GgufVocab, Source, SpecialIds, Tokenizer, pre_tokenizer_names};
use serde_json::json;
use std::path::PathBuf;

/// Damages a vocabulary.
type Change = fn(&mut GgufVocab);
/// Makes a source of a file's bytes.
type Make = fn(Vec<u8>, Config) -> Source;
/// A name, the damage, and words that the error must have.
type Case = (&'static str, Change, &'static [&'static str]);

fn data(name: &str) -> Vec<u8> {
    std::fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/token").join(name)).unwrap()
}

fn check(name: &str, source: Source, words: &[&str]) {
    let error = Tokenizer::from_source(source).err().unwrap_or_else(|| panic!("{name}: accepted")).to_string();
    for word in words {
        assert!(error.contains(word), "{name}: `{error}` lacks `{word}`");
    }
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|t| t.as_bytes().to_vec()).collect()
}

#[test]
fn gguf() {
    let base = || GgufVocab {
        model: "gpt2".into(),
        pre: Some("gpt-2".into()),
        tokens: texts(&["a", "b", "ab"]),
        merges: texts(&["a b"]),
        ..GgufVocab::default()
    };
    let cases: &[Case] = &[
        ("unknown model", |v| v.model = "gpt9".into(), &["model", "gpt9", "llama", "gpt2"]),
        ("internal model", |v| v.model = "vocab.json ".into(), &["model"]),
        ("unknown pre", |v| v.pre = Some("llama9".into()), &["pre", "llama9", "llama-bpe", "tekken"]),
        ("no tokens", |v| v.tokens.clear(), &["tokens", "missing"]),
        ("no merges", |v| v.merges.clear(), &["merges", "missing"]),
        ("short scores", |v| v.scores = vec![0.0], &["scores", "1 entries for 3 tokens"]),
        ("short types", |v| v.types = vec![1, 1], &["token_type", "2 entries for 3 tokens"]),
        ("long token", |v| v.tokens[0] = vec![b'a'; 1 << 17], &["MAX_TOKEN_BYTES"]),
        ("no size", |v| (v.model, v.tokens) = ("none".into(), Vec::new()), &["vocab_size"]),
        ("huge size", |v| (v.model, v.vocab_size) = ("none".into(), Some(u32::MAX)), &["MAX_VOCAB_TOKENS"]),
        ("plamo2 without bytes", |v| v.model = "plamo2".into(), &["<0x00>"]),
        (
            "long merged token",
            |v| (v.model, v.tokens[0]) = ("llama".into(), vec![b'a'; 1 << 13]),
            &["MAX_MERGED_BYTES"],
        ),
        (
            "damaged charsmap",
            |v| (v.model, v.precompiled_charsmap) = ("t5".into(), vec![9, 0, 0, 0, 1]),
            &["precompiled_charsmap", "9 bytes promised"],
        ),
    ];
    for (name, change, words) in cases {
        let mut vocab = base();
        change(&mut vocab);
        check(name, Source::Gguf(vocab), words);
    }
}

/// Odd but harmless: such files load, encode and decode.
#[test]
fn odd_gguf_files_work() {
    let cases: &[(&str, Change)] = &[
        ("ids out of range", |v| v.ids = SpecialIds { bos: Some(99), eos: Some(u32::MAX), ..SpecialIds::default() }),
        ("tokens that are no UTF-8", |v| v.tokens.extend([vec![0xff, 0xfe], vec![0xe6]])),
        ("twice the same token", |v| v.tokens.push(b"a".to_vec())),
        ("empty tokens", |v| v.tokens.extend([Vec::new(), Vec::new()])),
        ("merges without a space", |v| v.merges.push(b"ab".to_vec())),
        ("merges of nothing", |v| v.merges.extend(texts(&["", " ", "  ", "a ", " b"]))),
        ("no types, no scores", |_| {}),
        ("odd types", |v| v.types = vec![-1, 7, i32::MAX, 3, 4]),
        ("scores that are no numbers", |v| v.scores = vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY]),
    ];
    for model in ["gpt2", "llama", "bert", "t5", "rwkv", "gemma4"] {
        for (name, change) in cases {
            let mut vocab = GgufVocab {
                model: model.into(),
                tokens: texts(&["a", "b", "ab"]),
                merges: texts(&["a b"]),
                ..GgufVocab::default()
            };
            change(&mut vocab);
            if vocab.types.len() < vocab.tokens.len() {
                vocab.types.resize(if vocab.types.is_empty() { 0 } else { vocab.tokens.len() }, 1);
            }
            if vocab.scores.len() < vocab.tokens.len() {
                vocab.scores.resize(if vocab.scores.is_empty() { 0 } else { vocab.tokens.len() }, 0.0);
            }
            let tokenizer =
                Tokenizer::from_source(Source::Gguf(vocab)).unwrap_or_else(|e| panic!("{model}, {name}: {e}"));
            for text in ["", "ab", "xyz \n漢 ab", "\0\u{10ffff}"] {
                let ids = tokenizer.encode(text, Encode::PROMPT).unwrap();
                assert!(ids.iter().all(|&id| (id as usize) < tokenizer.n_vocab()), "{model}, {name}: {ids:?}");
                tokenizer.decode(&ids, true);
            }
        }
    }
}

#[test]
fn every_pre_tokenizer_name_builds() {
    for name in pre_tokenizer_names() {
        let vocab = GgufVocab {
            model: "gpt2".into(),
            pre: Some(name.into()),
            tokens: texts(&["a", "b", "ab", "▁"]),
            merges: texts(&["a b"]),
            ..GgufVocab::default()
        };
        let tokenizer = Tokenizer::from_source(Source::Gguf(vocab)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let ids = tokenizer.encode("ab", Encode::PLAIN).unwrap();
        assert_eq!(ids, [2], "{name}");
    }
}

#[test]
fn hugging_face() {
    let hf = |json: &[u8]| Source::HuggingFace { tokenizer_json: json.to_vec(), config: Config::default() };
    check("no JSON", hf(b"{"), &["tokenizer.json"]);
    check("empty", hf(b""), &["tokenizer.json"]);
    check("other JSON", hf(b"[1, 2]"), &["tokenizer.json"]);
    check("no model", hf(b"{\"version\": \"1.0\"}"), &["tokenizer.json"]);
    let good: serde_json::Value = serde_json::from_slice(&data("bpe-llama3.json")).unwrap();
    let changed = |pointer: &str, value: serde_json::Value| {
        let mut json = good.clone();
        *json.pointer_mut(pointer).unwrap() = value;
        hf(&serde_json::to_vec(&json).unwrap())
    };
    check("unknown model", changed("/model/type", json!("Magic")), &["tokenizer.json"]);
    check(
        "decoder",
        changed("/decoder", json!({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": true})),
        &["decoder", "CTC"],
    );
    check("merges", changed("/model/merges", json!([["zz", "qq"]])), &["tokenizer.json"]);
    check(
        "huge id",
        changed("/model", json!({"type": "BPE", "vocab": {"a": 4_000_000_000_u32}, "merges": []})),
        &["MAX_VOCAB_TOKENS"],
    );
    check(
        "split pattern",
        changed("/pre_tokenizer/pretokenizers/0/pattern", json!({"Regex": "(("})),
        &["tokenizer.json"],
    );
}

#[test]
fn sentencepiece_cut_anywhere_is_an_error_or_smaller() {
    let model = data("spm-unigram.model");
    let load = |model: Vec<u8>| Tokenizer::from_source(Source::SentencePiece { model, config: Config::default() });
    let whole = load(model.clone()).unwrap().n_vocab();
    let mut n_errors = 0;
    for len in (0..model.len()).step_by(7) {
        match load(model[..len].to_vec()) {
            Ok(tokenizer) => assert!(tokenizer.n_vocab() <= whole),
            Err(error) => {
                n_errors += 1;
                assert!(error.to_string().contains("tokenizer.model"), "{error}");
            }
        }
    }
    assert!(n_errors > 100, "{n_errors}");
    let spm = |model: &[u8]| Source::SentencePiece { model: model.to_vec(), config: Config::default() };
    check("empty", spm(b""), &["pieces", "none"]);
    check("group", spm(&[0x0b]), &["byte 0"]);
    check("text", spm(&[0x0a, 3, 0x0a, 1, 0xff]), &["piece 0", "UTF-8"]);
    check("model type", spm(&[0x0a, 3, 0x0a, 1, b'a', 0x12, 2, 0x18, 4]), &["model_type", "4"]);
}

#[test]
fn tiktoken_tekken_and_vocab_json() {
    let tiktoken = |ranks: &[u8], pattern: &str| Source::Tiktoken {
        ranks: ranks.to_vec(),
        pattern: pattern.into(),
        special: Vec::new(),
        config: Config::default(),
    };
    check("line", tiktoken(b"IQ== 0\nIQ==\n", "."), &["line 2"]);
    check("base64", tiktoken(b"I~== 0\n", "."), &["line 1"]);
    check("rank", tiktoken(b"IQ== -1\n", "."), &["line 1"]);
    check("huge rank", tiktoken(b"IQ== 4294967295\n", "."), &["MAX_VOCAB_TOKENS"]);
    check("pattern", tiktoken(b"IQ== 0\n", "(("), &["pattern"]);
    check("long pattern", tiktoken(b"IQ== 0\n", &"a".repeat(1 << 17)), &["MAX_PATTERN_BYTES"]);
    check("big pattern", tiktoken(b"IQ== 0\n", r"((\p{L}{100}){100}){100}"), &["pattern"]);
    let tekken = |json: serde_json::Value| Source::Tekken { json: serde_json::to_vec(&json).unwrap() };
    let config = json!({"pattern": ".", "default_vocab_size": 12, "default_num_special_tokens": 10});
    check("tekken config", tekken(json!({"vocab": []})), &["tekken.json", "config"]);
    check(
        "tekken base64",
        tekken(json!({"config": config, "vocab": [{"rank": 0, "token_bytes": "?"}]})),
        &["vocab[0]"],
    );
    let config = json!({"pattern": ".", "default_vocab_size": 2, "default_num_special_tokens": 10});
    check("tekken sizes", tekken(json!({"config": config, "vocab": []})), &["10 special tokens"]);
    let bpe = |vocab: &str, pre: &str| Source::Bpe {
        vocab_json: vocab.into(),
        merges_txt: b"a b".to_vec(),
        pre: pre.into(),
        config: Config::default(),
    };
    check("vocab.json", bpe("[]", "gpt-2"), &["vocab.json"]);
    check("vocab.json id", bpe(r#"{"a": -1}"#, "gpt-2"), &["vocab.json", "a"]);
    check("vocab.json huge id", bpe(r#"{"a": 99999999999}"#, "gpt-2"), &["MAX_VOCAB_TOKENS"]);
    check("vocab.json pre", bpe(r#"{"a": 0}"#, "gpt-9"), &["gpt-9"]);
    let config = Config {
        tokenizer_config: Some(json!({"added_tokens_decoder": {"x": {"content": "y"}}})),
        ..Config::default()
    };
    let source = Source::Bpe { vocab_json: b"{}".to_vec(), merges_txt: Vec::new(), pre: "gpt-2".into(), config };
    check("added token", source, &["added_tokens_decoder", "x"]);
}

/// Every kind of file with bytes changed, cut out and put in: no panic, and what loads can be used.
#[test]
fn mutated_files_never_panic() {
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let mut state = seed;
    let mut next = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    let config = Config::default;
    let kinds: &[(&str, Make)] = &[
        ("spm-bpe.model", |model, config| Source::SentencePiece { model, config }),
        ("spm-unigram.model", |model, config| Source::SentencePiece { model, config }),
        ("wordpiece.json", |tokenizer_json, config| Source::HuggingFace { tokenizer_json, config }),
        ("unigram.json", |tokenizer_json, config| Source::HuggingFace { tokenizer_json, config }),
        ("bpe-gpt2.json", |tokenizer_json, config| Source::HuggingFace { tokenizer_json, config }),
        ("tekken.json", |json, _| Source::Tekken { json }),
        ("tiny.tiktoken", |ranks, config| Source::Tiktoken {
            ranks,
            pattern: r"\S+|\s+(?!\S)|\s".into(),
            special: Vec::new(),
            config,
        }),
    ];
    let mut n_loaded = 0;
    for (name, source) in kinds {
        let good = data(name);
        for _ in 0..60 {
            let mut bytes = good.clone();
            for _ in 0..=next(3) {
                let at = next(bytes.len());
                match next(3) {
                    0 => bytes[at] ^= 1 << next(8),
                    1 => drop(bytes.drain(at..(at + next(9)).min(bytes.len()))),
                    _ => bytes.insert(at, next(256) as u8),
                }
            }
            let Ok(tokenizer) = Tokenizer::from_source(source(bytes, config())) else { continue };
            n_loaded += 1;
            let ids = tokenizer.encode("It's été 漢字 <tool> 12", Encode::PROMPT).unwrap_or_default();
            tokenizer.decode(&ids, false);
        }
    }
    assert!(n_loaded > 10, "only {n_loaded} mutations loaded, seed {seed}");
}
