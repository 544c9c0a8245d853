//! Tokens of one vocabulary as those of another: for a draft model that has its own.

use std::sync::Arc;

use mlxr_engine::{TokenId, Translate};
use mlxr_text::token::{Encode, Tokenizer};

/// Between a model and what drafts for it.
pub struct Translator {
    model: Side,
    draft: Side,
}

/// One of the two.
struct Side {
    tokenizer: Arc<Tokenizer>,
    /// Whether encoding puts a space before a text that has none.
    adds_space: bool,
}

impl Translator {
    /// Between these two.
    pub fn new(model: Arc<Tokenizer>, draft: Arc<Tokenizer>) -> Translator {
        Translator { model: Side::new(model), draft: Side::new(draft) }
    }
}

impl Translate for Translator {
    fn begin(&self, out: &mut Vec<TokenId>) {
        let tokenizer = &self.draft.tokenizer;
        out.extend(tokenizer.bos().filter(|_| tokenizer.add_bos()));
    }

    fn begins_word(&self, token: TokenId) -> bool {
        let tokenizer = &self.model.tokenizer;
        let starts = |bytes: &[u8]| bytes.first().is_some_and(u8::is_ascii_whitespace);
        tokenizer.is_special(token) || tokenizer.token_bytes(token).is_some_and(starts)
    }

    fn to_draft(&self, tokens: &[TokenId], out: &mut Vec<TokenId>) {
        carry(tokens, (&self.model, &self.draft), out);
    }

    fn to_model(&self, tokens: &[TokenId], out: &mut Vec<TokenId>) {
        carry(tokens, (&self.draft, &self.model), out);
    }
}

impl Side {
    fn new(tokenizer: Arc<Tokenizer>) -> Side {
        // What cannot be encoded is not begun with a space either.
        let ids = tokenizer.encode("x", Encode::PLAIN).unwrap_or_default();
        let first = ids.first().and_then(|id| tokenizer.token_bytes(*id)).unwrap_or_default();
        Side { adds_space: first.first() == Some(&b' '), tokenizer }
    }

    /// Appends the tokens of a text that goes on after another.
    fn encode(&self, text: &str, out: &mut Vec<TokenId>) {
        let text = text.strip_prefix(' ').filter(|_| self.adds_space).unwrap_or(text);
        // A text that the tokenizer gives up on is left out: the draft is worse.
        out.extend(self.tokenizer.encode(text, Encode { add_special: false, parse_special: true }).unwrap_or_default());
    }
}

/// Appends the tokens of `to` for those of `from`. An end is an end, a beginning nothing, everything else what it says; a
/// character that is not complete yet is left out.
fn carry(tokens: &[TokenId], (from, to): (&Side, &Side), out: &mut Vec<TokenId>) {
    let mut bytes = Vec::new();
    let say = |bytes: &mut Vec<u8>, out: &mut Vec<TokenId>| {
        let whole = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
        if !whole.is_empty() {
            to.encode(whole, out);
        }
        bytes.clear();
    };
    for &token in tokens {
        let is_end = from.tokenizer.is_eog(token);
        if is_end || from.tokenizer.bos() == Some(token) {
            say(&mut bytes, out);
            out.extend(to.tokenizer.eos().filter(|_| is_end));
        } else {
            bytes.extend_from_slice(from.tokenizer.token_bytes(token).unwrap_or_default());
        }
    }
    say(&mut bytes, out);
}

#[cfg(test)]
mod tests {
    use mlxr_text::token::{GgufVocab, Source, SpecialIds};

    use super::*;

    /// A SentencePiece vocabulary of a few words, where a text begins with a space.
    fn words() -> Arc<Tokenizer> {
        let texts =
            ["<unk>", "<s>", "</s>", "▁", "▁the", "▁cat", "s", "▁s", "a", "t", "c", "h", "e", "▁t", "▁c", "▁th", "▁ca"];
        let kinds = (0..texts.len())
            .map(|id| {
                if id == 0 {
                    2
                } else if id < 3 {
                    3
                } else {
                    1
                }
            })
            .collect();
        let vocab = GgufVocab {
            model: "llama".into(),
            scores: (0..texts.len()).map(|id| if id == 4 || id == 5 { 0.0 } else { -(id as f32) }).collect(),
            tokens: texts.iter().map(|text| text.as_bytes().to_vec()).collect(),
            types: kinds,
            ids: SpecialIds { bos: Some(1), eos: Some(2), unk: Some(0), ..SpecialIds::default() },
            add_bos: Some(true),
            add_space_prefix: Some(true),
            ..GgufVocab::default()
        };
        Arc::new(Tokenizer::from_source(Source::Gguf(vocab)).expect("a vocabulary"))
    }

    fn small() -> Arc<Tokenizer> {
        let model = mlxr_embedded::find("mlxr-small").expect("it is inside");
        let bytes = mlxr_compute::Bytes::new(Arc::new(model.bytes));
        let checkpoint = mlxr_weights::open_memory_gguf("small", bytes, &mlxr_weights::Limits::default());
        crate::vocab::tokenizer(&checkpoint.expect("it is whole")).expect("it has one")
    }

    #[test]
    fn tokens_go_over_as_text() {
        let (small, words) = (small(), words());
        let translator = Translator::new(small.clone(), words.clone());
        let (mut there, mut back) = (Vec::new(), Vec::new());
        translator.begin(&mut there);
        assert_eq!(there, [1]);
        there.clear();
        let text = |text: &str| small.encode(text, Encode::PLAIN).expect("a short text");
        // A text that goes on with a space gets no second one.
        translator.to_draft(&text(" the cats"), &mut there);
        assert_eq!(there, [4, 5, 6]);
        translator.to_model(&there, &mut back);
        assert_eq!(back, text(" the cats"));
        // An end is an end, and the model's own bytes of half a character say nothing.
        let end = small.eos().expect("it has one");
        there.clear();
        translator.to_draft(&[&text(" cat")[..], &[end]].concat(), &mut there);
        assert_eq!(there, [5, 2]);
        back.clear();
        translator.to_model(&[5, 2], &mut back);
        assert_eq!(back, [&text(" cat")[..], &[end]].concat());
        there.clear();
        let half = text("\u{20ac}");
        translator.to_draft(&[&text(" cat")[..], &half[..half.len() - 1]].concat(), &mut there);
        assert_eq!(there, [5]);
        let starts: Vec<bool> = text(" the cats").iter().map(|token| translator.begins_word(*token)).collect();
        assert!(starts[0] && starts.iter().filter(|starts| **starts).count() == 2, "{starts:?}");
    }
}
