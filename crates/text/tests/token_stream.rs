//! Round trips, streams and the cost of long texts.

#![allow(clippy::unwrap_used)] // tests

use mlxr_text::token::{Config, Detokenizer, Encode, GgufVocab, Source, SpecialIds, Tokenizer, limits};
use std::path::PathBuf;
use std::sync::Arc;

fn data(name: &str) -> Vec<u8> {
    std::fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/token").join(name)).unwrap()
}

/// Tokenizers that can write every text.
fn lossless() -> Vec<(&'static str, Arc<Tokenizer>)> {
    let hf = |name| Source::HuggingFace { tokenizer_json: data(name), config: Config::default() };
    let spm = |name| Source::SentencePiece { model: data(name), config: Config::default() };
    let tiktoken = Source::Tiktoken {
        ranks: data("tiny.tiktoken"),
        pattern: r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s".into(),
        special: Vec::new(),
        config: Config::default(),
    };
    let sources = [
        ("bpe-gpt2.json", hf("bpe-gpt2.json")),
        ("bpe-llama3.json", hf("bpe-llama3.json")),
        ("bpe-llama.json", hf("bpe-llama.json")),
        ("spm-bpe.model", spm("spm-bpe.model")),
        ("tiny.tiktoken", tiktoken),
        ("tekken.json", Source::Tekken { json: data("tekken.json") }),
    ];
    sources.into_iter().map(|(name, source)| (name, Arc::new(Tokenizer::from_source(source).unwrap()))).collect()
}

/// A random text over all of Unicode, its common parts preferred.
fn random_text(next: &mut impl FnMut(u32) -> u32) -> String {
    let len = next(60);
    let mut text = String::new();
    while text.chars().count() < len as usize {
        let code = match next(6) {
            0 => next(0x80),
            1 => 0x20 + next(0x5f),
            2 => next(0x600),
            3 => 0x3000 + next(0x7000),
            4 => 0x1f000 + next(0x1000),
            _ => next(0x110000),
        };
        text.extend(char::from_u32(code));
    }
    text
}

fn generator(seed: u64) -> impl FnMut(u32) -> u32 {
    let mut state = seed;
    move |n| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 33) % u64::from(n)) as u32
    }
}

#[test]
fn random_unicode_comes_back_whole_and_in_streams() {
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let mut next = generator(seed);
    for (name, tokenizer) in lossless() {
        for _ in 0..300 {
            let text = random_text(&mut next);
            // `<tool>` of the GPT-2 file swallows the space before it; everything else is kept.
            let ids = tokenizer.encode(&text, Encode::PLAIN).unwrap();
            assert_eq!(tokenizer.decode(&ids, false), text, "{name}, seed {seed}: {ids:?}");
            let mut stream = Detokenizer::new(Arc::clone(&tokenizer), false);
            let mut joined = String::new();
            for &id in &ids {
                joined += stream.push(id);
            }
            assert_eq!(stream.flush(), "", "{name}, seed {seed}: {text:?} left an incomplete character");
            assert_eq!(joined, text, "{name}, seed {seed}");
        }
    }
}

#[test]
fn random_ids_stream_to_what_decode_gives() {
    let seed = 0x5eed_0007;
    println!("seed {seed:#x}");
    let mut next = generator(seed);
    for (name, tokenizer) in lossless() {
        for _ in 0..300 {
            let n_vocab = tokenizer.n_vocab() as u32;
            let ids: Vec<u32> = (0..next(40)).map(|_| next(n_vocab + 3)).collect();
            for skip_special in [false, true] {
                let mut stream = Detokenizer::new(Arc::clone(&tokenizer), skip_special);
                let mut joined = String::new();
                for &id in &ids {
                    joined += stream.push(id);
                }
                joined += stream.flush();
                assert_eq!(joined, tokenizer.decode(&ids, skip_special), "{name}: {ids:?}");
            }
        }
    }
}

/// A vocabulary of one token per byte, as GPT-2 files have it.
fn bytes_only() -> Arc<Tokenizer> {
    let hidden: Vec<u8> = (0..=255).filter(|b| !matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)).collect();
    let name = |b: u8| match hidden.iter().position(|&h| h == b) {
        Some(i) => char::from_u32(0x100 + i as u32).unwrap(),
        None => char::from(b),
    };
    let tokens = (0..=255).map(|b| name(b).to_string().into_bytes()).collect();
    let merges = vec![b"a b".to_vec()];
    let vocab = GgufVocab { model: "gpt2".into(), pre: Some("gpt-2".into()), tokens, merges, ..GgufVocab::default() };
    Arc::new(Tokenizer::from_source(Source::Gguf(vocab)).unwrap())
}

#[test]
fn a_stream_never_prints_half_a_character() {
    let tokenizer = bytes_only();
    let check = |bytes: &[u8], want: &[&str], rest: &str| {
        let mut stream = Detokenizer::new(Arc::clone(&tokenizer), false);
        let got: Vec<String> = bytes.iter().map(|&b| stream.push(u32::from(b)).to_string()).collect();
        assert_eq!(got, want, "{bytes:02x?}");
        assert_eq!(stream.flush(), rest, "{bytes:02x?}");
    };
    check("é".as_bytes(), &["", "é"], "");
    check("🦙".as_bytes(), &["", "", "", "🦙"], "");
    check(&[0xf0, 0x9f], &["", ""], "\u{fffd}");
    check(&[0xff, b'a'], &["\u{fffd}", "a"], "");
    check(&[0xe6, b'a'], &["", "\u{fffd}a"], "");
    check(&[0xe6, 0x97, 0xe6, 0x97, 0xa5], &["", "", "\u{fffd}", "", "日"], "");
    check(&[0xed, 0xa0, 0x80], &["", "\u{fffd}\u{fffd}", "\u{fffd}"], "");
}

#[test]
fn the_first_space_is_taken_away_at_the_beginning_only() {
    let model = data("spm-bpe.model");
    let tokenizer = Tokenizer::from_source(Source::SentencePiece { model, config: Config::default() }).unwrap();
    let tokenizer = Arc::new(tokenizer);
    let ids = tokenizer.encode("the the", Encode { add_special: true, parse_special: false }).unwrap();
    assert_eq!(ids.first().copied(), tokenizer.bos());
    let mut start = Detokenizer::new(Arc::clone(&tokenizer), true);
    let mut middle = Detokenizer::continuing(Arc::clone(&tokenizer), true);
    let print = |stream: &mut Detokenizer| ids.iter().map(|&id| stream.push(id).to_string()).collect::<String>();
    assert_eq!(print(&mut start), "the the");
    assert_eq!(print(&mut middle), " the the");
}

/// Work on long texts grows like n log n: the factor from one length to four times it stays near four.
#[test]
fn long_texts_cost_n_log_n() {
    let spm = |name| Source::SentencePiece { model: data(name), config: Config::default() };
    let merges: Vec<Vec<u8>> =
        ["a a", "aa aa", "aaaa aaaa", "Ġ Ġ", "ĠĠ ĠĠ", "ĠĠĠĠ ĠĠĠĠ"].map(|m| m.as_bytes().to_vec()).into();
    let tokens =
        ["a", "Ġ", "aa", "aaaa", "aaaaaaaa", "ĠĠ", "ĠĠĠĠ", "ĠĠĠĠĠĠĠĠ", "Ċ"].map(|t| t.as_bytes().to_vec()).into();
    let pre = Some("llama-bpe".into());
    let bpe = Source::Gguf(GgufVocab { model: "gpt2".into(), pre, tokens, merges, ..GgufVocab::default() });
    for (name, source) in [("spm-bpe", spm("spm-bpe.model")), ("bpe", bpe)] {
        let tokenizer = Tokenizer::from_source(source).unwrap();
        for unit in ["a", " ", "日", "the ", "aA1"] {
            let work = |n: usize| tokenizer.merge_work(&unit.repeat(n / unit.len())).unwrap().max(1);
            let (short, long) = (work(1 << 18), work(1 << 20));
            assert!(long <= short * 5, "{name} {unit:?}: {short} then {long}");
            assert!(long <= (1 << 20) * 40, "{name} {unit:?}: {long}");
        }
    }
}

#[test]
fn a_text_over_the_limit_is_refused_by_name() {
    let tokenizer = bytes_only();
    let text = "a".repeat(limits::MAX_TEXT_BYTES + 1);
    let error = tokenizer.encode(&text, Encode::PLAIN).unwrap_err().to_string();
    assert!(error.contains("MAX_TEXT_BYTES"), "{error}");
}

#[test]
fn a_model_without_texts_runs_on_ids() {
    for model in ["test", "none", "no_vocab", ""] {
        let vocab = GgufVocab {
            model: model.into(),
            vocab_size: Some(128),
            ids: SpecialIds { eos: Some(7), ..SpecialIds::default() },
            ..GgufVocab::default()
        };
        let tokenizer = Tokenizer::from_source(Source::Gguf(vocab)).unwrap();
        assert_eq!(tokenizer.n_vocab(), 128);
        assert_eq!(tokenizer.decode(&[1, 127, 128], false), "<1><127>");
        assert_eq!(tokenizer.encode("<1><127>", Encode::PLAIN).unwrap(), [1, 127]);
        assert_eq!(tokenizer.encode("<128>", Encode::PLAIN).unwrap().len(), 1);
        assert!(tokenizer.encode("Hello, world", Encode::PLAIN).unwrap().iter().all(|&id| id < 128));
        assert!(tokenizer.is_eog(7));
    }
}
