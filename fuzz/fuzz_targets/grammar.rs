//! A grammar in GBNF of any text becomes Lark, or gives an error; a small one is compiled and makes a mask.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use mlxr_grammar::{Grammars, Limits, Reply, Source, gbnf_to_lark};
use mlxr_text::token::{GgufVocab, SpecialIds, Source as Vocabulary, Tokenizer};

static GRAMMARS: LazyLock<Arc<Grammars>> = LazyLock::new(|| {
    let tokens: Vec<Vec<u8>> = (32..127u8).map(|byte| vec![byte]).chain([b"ab".to_vec(), b"</s>".to_vec()]).collect();
    let vocabulary = GgufVocab {
        model: "gpt2".into(),
        pre: Some("gpt-2".into()),
        types: (0..tokens.len()).map(|id| if id < 96 { 1 } else { 3 }).collect(),
        tokens,
        merges: vec!["a b".into()],
        ids: SpecialIds { eos: Some(96), ..SpecialIds::default() },
        ..GgufVocab::default()
    };
    let tokenizer = Arc::new(Tokenizer::from_source(Vocabulary::Gguf(vocabulary)).expect("a tokenizer"));
    Grammars::new(&tokenizer, 97, Limits::default()).expect("grammars")
});

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let sources = match text.split_at_checked(1) {
        Some(("s", rest)) => serde_json::from_str(rest).ok().map(Source::Schema),
        Some(("r", rest)) => Some(Source::Regex(rest.into())),
        Some(("l", rest)) => Some(Source::Lark(rest.into())),
        _ => gbnf_to_lark(text).ok().map(|_| Source::Gbnf(text.into())),
    };
    if let Some(source) = sources {
        let _ = GRAMMARS.compile(&Reply::of(source));
    }
});
