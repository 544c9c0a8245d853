//! Tiny tokenizers of every kind against the ids that their own libraries give.
//!
//! Files and ids are made by `xtask/golden/tokenizer_files.py` with Hugging Face `tokenizers`,
//! SentencePiece, tiktoken, mistral-common and llama.cpp.

#![allow(clippy::unwrap_used)] // tests

use mlxr_text::token::{Config, Encode, GgufVocab, Source, SpecialIds, Tokenizer};
use serde_json::{Value, json};
use std::path::PathBuf;

fn data(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/token").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn json_of(name: &str) -> Value {
    serde_json::from_slice(&data(name)).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

const PARSED: Encode = Encode { add_special: false, parse_special: true };
const FRAMED: Encode = Encode { add_special: true, parse_special: true };

/// Compares every column that `golden` has.
fn check(name: &str, tokenizer: &Tokenizer, golden: &Value) {
    check_texts(name, tokenizer, golden, |_| true);
}

/// As `check`, on the texts that `wanted` lets through.
fn check_texts(name: &str, tokenizer: &Tokenizer, golden: &Value, wanted: impl Fn(&str) -> bool) {
    let texts: Vec<String> = serde_json::from_slice(&data("texts.json")).unwrap();
    let mut n = 0;
    for (column, how) in [("plain", Encode::PLAIN), ("parsed", PARSED), ("framed", FRAMED)] {
        for (text, want) in texts.iter().zip(golden[column].as_array().into_iter().flatten()) {
            if !wanted(text) {
                continue;
            }
            assert_eq!(tokenizer.encode(text, how).unwrap(), ids(want), "{name} {column}: {text:?}");
            n += 1;
        }
    }
    for (plain, want) in
        golden["plain"].as_array().unwrap().iter().zip(golden["decoded"].as_array().into_iter().flatten())
    {
        assert_eq!(tokenizer.decode(&ids(plain), false), want.as_str().unwrap(), "{name} decodes {plain}");
        n += 1;
    }
    assert!(n + 10 >= texts.len(), "{name}: {n} comparisons");
}

fn hf(name: &str) -> Tokenizer {
    let tokenizer_json = data(&format!("{name}.json"));
    Tokenizer::from_source(Source::HuggingFace { tokenizer_json, config: Config::default() }).unwrap()
}

#[test]
fn hugging_face() {
    for name in ["bpe-gpt2", "bpe-llama3", "bpe-digits-nfc", "bpe-llama", "unigram"] {
        check(name, &hf(name), &json_of(&format!("{name}.ids.json")));
    }
    // The library's word-piece decoder cleans up, which ours does on request only.
    let mut golden = json_of("wordpiece.ids.json");
    let wordpiece = hf("wordpiece");
    golden.as_object_mut().unwrap().remove("decoded");
    check("wordpiece", &wordpiece, &golden);
    let ids = wordpiece.encode("They're all here , isn't it ?", Encode::PLAIN).unwrap();
    assert_eq!(wordpiece.decode_clean(&ids, false), "they're all here, isn't it?");
}

#[test]
fn flags_of_the_configuration_move_the_begin_token() {
    let with = |class: &str, add_bos: bool, add_eos: bool| {
        let config = json!({"tokenizer_class": class, "add_bos_token": add_bos, "add_eos_token": add_eos,
                            "bos_token": "<s>", "eos_token": {"content": "</s>"}});
        let config = Config { tokenizer_config: Some(config), ..Config::default() };
        let source = Source::HuggingFace { tokenizer_json: data("bpe-llama.json"), config };
        let tokenizer = Tokenizer::from_source(source).unwrap();
        let ids = tokenizer.encode("", FRAMED).unwrap();
        assert_eq!((tokenizer.add_bos(), tokenizer.add_eos()), (ids.contains(&1), ids.contains(&2)));
        ids
    };
    assert_eq!(with("LlamaTokenizer", true, false), [1]);
    assert_eq!(with("LlamaTokenizerFast", false, true), [2]);
    assert_eq!(with("PreTrainedTokenizerFast", false, false), [1, 2]);
}

#[test]
fn sentencepiece() {
    for name in ["spm-bpe", "spm-unigram", "spm-unigram-unk", "spm-bpe-unk"] {
        let model = data(&format!("{name}.model"));
        let tokenizer = Tokenizer::from_source(Source::SentencePiece { model, config: Config::default() }).unwrap();
        let mut golden = json_of(&format!("{name}.ids.json"));
        // SentencePiece prints an unknown piece as " ⁇ "; we print its name.
        if name.ends_with("unk") {
            golden.as_object_mut().unwrap().remove("decoded");
        }
        check(name, &tokenizer, &golden);
    }
}

#[test]
fn tiktoken_and_tekken() {
    let golden = json_of("tiktoken.ids.json");
    let pattern = golden["pattern"].as_str().unwrap().to_string();
    let special = golden["special"].as_object().unwrap();
    let special = special.iter().map(|(text, id)| (text.clone(), id.as_u64().unwrap() as u32)).collect();
    let ranks = data("tiny.tiktoken");
    let source = Source::Tiktoken { ranks, pattern, special, config: Config::default() };
    check("tiktoken", &Tokenizer::from_source(source).unwrap(), &golden);
    // A pattern by its name.
    let named = |pattern: &str| {
        let (ranks, config) = (data("tiny.tiktoken"), Config::default());
        let source = Source::Tiktoken { ranks, pattern: pattern.into(), special: Vec::new(), config };
        Tokenizer::from_source(source).unwrap().encode("It's 12345 漢字AB", Encode::PLAIN).unwrap()
    };
    let gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
    assert_eq!(named("gpt-2"), named(gpt2));
    let tekken = Tokenizer::from_source(Source::Tekken { json: data("tekken.json") }).unwrap();
    check("tekken", &tekken, &json_of("tekken.ids.json"));
    assert_eq!((tekken.bos(), tekken.eos(), tekken.eog_ids()), (Some(1), Some(2), &[2][..]));
}

/// The GGUF metadata that a converter would write for a BPE `tokenizer.json`.
fn gguf_of_bpe(json: &Value, pre: &str) -> GgufVocab {
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let added = json["added_tokens"].as_array().unwrap();
    let n = vocab.len().max(added.iter().map(|t| t["id"].as_u64().unwrap() as usize + 1).max().unwrap_or(0));
    let (mut tokens, mut types) = (vec![Vec::new(); n], vec![1; n]);
    for (text, id) in vocab {
        tokens[id.as_u64().unwrap() as usize] = text.clone().into_bytes();
    }
    for token in added {
        let id = token["id"].as_u64().unwrap() as usize;
        tokens[id] = token["content"].as_str().unwrap().as_bytes().to_vec();
        types[id] = if token["special"] == true { 3 } else { 4 };
    }
    let merges = json["model"]["merges"].as_array().into_iter().flatten();
    let side = |pair: &Value, i: usize| pair[i].as_str().unwrap().to_string();
    let merges = merges.map(|pair| format!("{} {}", side(pair, 0), side(pair, 1)).into_bytes()).collect();
    GgufVocab { model: "gpt2".into(), pre: Some(pre.into()), tokens, types, merges, ..GgufVocab::default() }
}

#[test]
fn gguf_and_vocab_json_give_what_tokenizer_json_gives() {
    // GGUF cannot say that `<tool>` swallows the space before it.
    let said = |text: &str| !text.contains(" <tool>");
    for (name, pre, bos) in [("bpe-llama3", "llama-bpe", Some(0)), ("bpe-gpt2", "gpt-2", None)] {
        let mut vocab = gguf_of_bpe(&json_of(&format!("{name}.json")), pre);
        vocab.ids.bos = bos;
        let tokenizer = Tokenizer::from_source(Source::Gguf(vocab)).unwrap();
        check_texts(name, &tokenizer, &json_of(&format!("{name}.ids.json")), said);
    }
    let json = json_of("bpe-gpt2.json");
    let vocab_json = serde_json::to_vec(&json["model"]["vocab"]).unwrap();
    let mut merges_txt = b"#version: 0.2\n".to_vec();
    for merge in gguf_of_bpe(&json, "gpt-2").merges {
        merges_txt.extend([merge.as_slice(), b"\n"].concat());
    }
    let added: serde_json::Map<String, Value> = json["added_tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|token| {
            let flags = json!({"content": token["content"], "special": token["special"], "lstrip": token["lstrip"]});
            (token["id"].to_string(), flags)
        })
        .collect();
    let config = Config { tokenizer_config: Some(json!({ "added_tokens_decoder": added })), ..Config::default() };
    let source = Source::Bpe { vocab_json, merges_txt, pre: "gpt-2".into(), config };
    let tokenizer = Tokenizer::from_source(source).unwrap();
    assert_eq!(tokenizer.eog_ids(), &[0]);
    check("vocab.json", &tokenizer, &json_of("bpe-gpt2.ids.json"));
}

#[test]
fn gguf_word_pieces_give_what_tokenizer_json_gives() {
    let json = json_of("wordpiece.json");
    let mut vocab = gguf_of_bpe(&json, "");
    vocab.model = "bert".into();
    for (text, kind) in vocab.tokens.iter_mut().zip(&vocab.types) {
        match text.strip_prefix(b"##") {
            Some(rest) => *text = rest.to_vec(),
            None if *kind == 1 => *text = [b"\xe2\x96\x81", text.as_slice()].concat(),
            None => {}
        }
    }
    vocab.ids = SpecialIds { bos: Some(2), sep: Some(3), unk: Some(1), pad: Some(0), ..SpecialIds::default() };
    let mut golden = json_of("wordpiece.ids.json");
    golden.as_object_mut().unwrap().remove("decoded");
    check("bert", &Tokenizer::from_source(Source::Gguf(vocab)).unwrap(), &golden);
}

/// Kinds that exist in GGUF only; llama.cpp is their library here.
#[test]
fn gguf_kinds_give_what_llama_cpp_gives() {
    for name in ["gguf-t5", "gguf-rwkv", "gguf-plamo2"] {
        let json = json_of(&format!("{name}.json"));
        let list = |key: &str| json[key].as_array().cloned().unwrap_or_default();
        let id = |key: &str| json[key].as_u64().map(|id| id as u32);
        let vocab = GgufVocab {
            model: json["model"].as_str().unwrap().into(),
            tokens: list("tokens").iter().map(|t| t.as_str().unwrap().as_bytes().to_vec()).collect(),
            scores: list("scores").iter().map(|s| s.as_f64().unwrap() as f32).collect(),
            types: list("types").iter().map(|t| t.as_i64().unwrap() as i32).collect(),
            precompiled_charsmap: list("precompiled_charsmap").iter().map(|b| b.as_u64().unwrap() as u8).collect(),
            ids: SpecialIds { unk: id("unk"), eos: id("eos"), pad: id("pad"), ..SpecialIds::default() },
            add_space_prefix: json["add_space_prefix"].as_bool(),
            remove_extra_whitespaces: json["remove_extra_whitespaces"].as_bool(),
            ..GgufVocab::default()
        };
        let tokenizer = Tokenizer::from_source(Source::Gguf(vocab)).unwrap();
        check(name, &tokenizer, &json_of(&format!("{name}.ids.json")));
    }
}
