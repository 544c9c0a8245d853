//! Any bytes as a tokenizer of any kind: an error, or a tokenizer that encodes and decodes without a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mlxr_text::token::{Config, Encode, GgufVocab, Source, Tokenizer};

fuzz_target!(init: {
    // Panics inside Hugging Face's library are caught and become errors. libFuzzer's own hook would end
    // the process at once; without it a panic that nobody catches still does.
    std::panic::set_hook(Box::new(|_| {}));
}, |data: &[u8]| {
    let Some((&kind, bytes)) = data.split_first() else { return };
    if let Ok(tokenizer) = Tokenizer::from_source(source(kind, bytes)) {
        // The last bytes of the file as a text, and ids from them: the file may shape both.
        let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(256)..]);
        for how in [Encode::PLAIN, Encode::PROMPT] {
            if let Ok(ids) = tokenizer.encode(&text, how) {
                tokenizer.decode_clean(&ids, false);
            }
        }
        let ids: Vec<u32> = bytes.iter().take(64).map(|&b| u32::from(b)).collect();
        tokenizer.decode(&ids, true);
    }
});

/// The first byte picks the kind, the rest is the file or its fields, separated by zeros.
fn source(kind: u8, bytes: &[u8]) -> Source {
    let config = Config::default();
    let fields = || bytes.split(|&b| b == 0).map(<[u8]>::to_vec);
    let models = ["llama", "gpt2", "bert", "t5", "rwkv", "plamo2", "gemma4", "test"];
    match kind % 16 {
        0..=2 => Source::SentencePiece { model: bytes.to_vec(), config },
        3..=4 => Source::HuggingFace { tokenizer_json: bytes.to_vec(), config },
        5 => Source::Tekken { json: bytes.to_vec() },
        6 => {
            let mut fields = fields();
            let pattern = String::from_utf8_lossy(&fields.next().unwrap_or_default()).into_owned();
            let ranks = fields.next().unwrap_or_default();
            Source::Tiktoken { ranks, pattern, special: Vec::new(), config }
        }
        7 => {
            let mut fields = fields();
            let vocab_json = fields.next().unwrap_or_default();
            Source::Bpe { vocab_json, merges_txt: fields.next().unwrap_or_default(), pre: "gpt-2".into(), config }
        }
        kind => {
            let model = models[usize::from(kind - 8) % models.len()].to_string();
            let mut tokens: Vec<Vec<u8>> = fields().collect();
            let merges = tokens.split_off(tokens.len() / 2);
            let precompiled_charsmap = merges.last().cloned().unwrap_or_default();
            let types = tokens.iter().map(|t| i32::from(t.first().copied().unwrap_or(1)) % 8).collect();
            let scores = tokens.iter().map(|t| -(t.len() as f32)).collect();
            let vocab_size = Some(u32::try_from(bytes.len()).unwrap_or(0));
            Source::Gguf(GgufVocab {
                model,
                tokens,
                types,
                scores,
                merges,
                precompiled_charsmap,
                vocab_size,
                ..GgufVocab::default()
            })
        }
    }
}
