//! Tokenizers in another form give the ids that they gave.

use mlxr_text::token::{Config, Encode, GgufVocab, Source, Tokenizer, to_gguf, to_hf};

fn data(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/data/token/{name}", env!("CARGO_MANIFEST_DIR"))).expect(name)
}

fn texts() -> Vec<String> {
    serde_json::from_slice(&data("texts.json")).expect("texts")
}

fn hugging_face(name: &str) -> Source {
    Source::HuggingFace { tokenizer_json: data(name), config: Config::default() }
}

fn sentencepiece(name: &str) -> Source {
    Source::SentencePiece { model: data(name), config: Config::default() }
}

/// Both give the same ids to all texts.
fn same(a: &Tokenizer, b: &Tokenizer, name: &str) {
    let how = Encode { add_special: true, parse_special: true };
    // GGUF cannot say that `<tool>` swallows the spaces before it, nor that a `▁` in the text is none; a unigram file
    // of the library's finds tokens of bytes in the text.
    for text in texts().into_iter().filter(|text| !["<tool>", "▁", "<0x"].iter().any(|odd| text.contains(odd))) {
        let ids = |tokenizer: &Tokenizer| tokenizer.encode(&text, how).expect(name);
        assert_eq!(ids(a), ids(b), "{name}: {text:?}");
    }
}

fn check(name: &str, source: &Source, want_exact: bool) {
    let built = Tokenizer::from_source(copy(source)).expect(name);
    let out = to_gguf(source, &built, built.n_vocab() + 3).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(out.exact, want_exact, "{name}");
    assert_eq!(out.vocab.tokens.len(), built.n_vocab() + 3);
    let gguf = Tokenizer::from_source(Source::Gguf(out.vocab.clone())).expect(name);
    if want_exact {
        same(&gguf, &built, &format!("{name} as GGUF, {:?}", out.vocab.pre));
        back(name, &out.vocab, &gguf);
    }
}

/// From GGUF to `tokenizer.json`.
fn back(name: &str, vocab: &GgufVocab, gguf: &Tokenizer) {
    let files = to_hf(vocab).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(files.exact, "{name} as tokenizer.json");
    let config = Config { tokenizer_config: Some(files.config), ..Config::default() };
    let source = Source::HuggingFace { tokenizer_json: files.tokenizer.to_string().into_bytes(), config };
    same(&Tokenizer::from_source(source).expect(name), gguf, &format!("{name} as tokenizer.json"));
}

fn copy(source: &Source) -> Source {
    match source {
        Source::HuggingFace { tokenizer_json, .. } => {
            Source::HuggingFace { tokenizer_json: tokenizer_json.clone(), config: Config::default() }
        }
        Source::SentencePiece { model, .. } => {
            Source::SentencePiece { model: model.clone(), config: Config::default() }
        }
        Source::Tekken { json } => Source::Tekken { json: json.clone() },
        _ => panic!("another kind"),
    }
}

#[test]
fn every_kind_keeps_its_ids() {
    for name in ["bpe-gpt2.json", "bpe-llama3.json", "bpe-llama.json"] {
        check(name, &hugging_face(name), true);
    }
    check("spm-bpe.model", &sentencepiece("spm-bpe.model"), true);
    check("tekken.json", &Source::Tekken { json: data("tekken.json") }, true);
}

#[test]
fn spaces_before_punctuation_stay_as_the_files_say() {
    for cleans in [false, true] {
        let config = || Config {
            tokenizer_config: Some(serde_json::json!({"clean_up_tokenization_spaces": cleans})),
            ..Config::default()
        };
        let source = Source::HuggingFace { tokenizer_json: data("bpe-gpt2.json"), config: config() };
        let built =
            Tokenizer::from_source(Source::HuggingFace { tokenizer_json: data("bpe-gpt2.json"), config: config() });
        let built = built.expect("a tokenizer");
        let vocab = to_gguf(&source, &built, built.n_vocab()).expect("it can be said").vocab;
        let pre = vocab.pre.clone();
        let gguf = Tokenizer::from_source(Source::Gguf(vocab)).expect("a tokenizer");
        let ids = built.encode("well , no .", Encode::default()).expect("ids");
        let want = if cleans { "well, no." } else { "well , no ." };
        assert_eq!([built.decode_clean(&ids, true), gguf.decode_clean(&ids, true)], [want, want], "{pre:?}");
    }
}

#[test]
fn pieces_keep_their_ids() {
    check("wordpiece.json", &hugging_face("wordpiece.json"), true);
    check("spm-unigram-unk.model", &sentencepiece("spm-unigram-unk.model"), true);
    // Bytes stand for what is outside the vocabulary, which GGUF has for merges only.
    check("spm-unigram.model", &sentencepiece("spm-unigram.model"), false);
    // Its normalizer is a Unicode form, for which GGUF has no name.
    check("unigram.json", &hugging_face("unigram.json"), false);
}
