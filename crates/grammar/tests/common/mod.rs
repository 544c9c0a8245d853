//! A tokenizer of bytes and marks, and what a grammar says of a text.

use std::error::Error;
use std::sync::{Arc, OnceLock};

use mlxr_engine::TokenId;
use mlxr_engine::constraint::{ConstraintError, Grammar, Progress};
use mlxr_engine::sampler::Mask;
use mlxr_grammar::{Grammars, Limits, Reply};
use mlxr_text::token::{Encode, GgufVocab, Source, SpecialIds, Tokenizer};

/// Marks that are control tokens in one of the tokenizers, and text in the other.
const MARKS: [&str; 18] = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>",
    "<|channel|>",
    "<|message|>",
    "<|constrain|>",
    "<|start|>",
    "<|end|>",
    "<|call|>",
    "<|return|>",
];
const END: TokenId = 257;
/// More logits than tokens, as models have.
const N_VOCAB: usize = 300;

/// GPT-2's letters for bytes.
fn byte_letters() -> impl Iterator<Item = Vec<u8>> {
    let printable = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let mut next = 256;
    (0..256).map(move |b| {
        let letter = if printable(b) { b } else { next };
        next += u32::from(!printable(b));
        char::from_u32(letter).expect("all are letters").to_string().into_bytes()
    })
}

fn tokenizer(has_marks: bool) -> Tokenizer {
    // A merge, and its token; the end; the marks.
    let rest = ["ab".to_owned(), "<|im_end|>".to_owned()].into_iter();
    let marks = MARKS.iter().filter(|_| has_marks).map(|mark| (*mark).to_owned());
    let tokens: Vec<Vec<u8>> = byte_letters().chain(rest.chain(marks).map(String::into_bytes)).collect();
    Tokenizer::from_source(Source::Gguf(GgufVocab {
        model: "gpt2".into(),
        pre: Some("gpt-2".into()),
        types: (0..tokens.len()).map(|id| if id <= 256 { 1 } else { 3 }).collect(),
        tokens,
        merges: vec!["a b".into()],
        ids: SpecialIds { bos: Some(END), eos: Some(END), ..SpecialIds::default() },
        add_bos: Some(false),
        ..GgufVocab::default()
    }))
    .expect("a tokenizer of bytes")
}

/// What a grammar says of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may end here.
    Whole,
    /// It must go on.
    Open,
    /// The byte that may not come. Where a token of several bytes may not come, its first.
    Refused(usize),
}

/// Goes through `text` token by token. On the way: drafts that are taken back change nothing, and what is forced is what
/// comes.
pub fn verdict(reply: &Reply, has_marks: bool, text: &str) -> Result<Verdict, Box<dyn Error>> {
    type Made = (Arc<Tokenizer>, Arc<Grammars>);
    static MADE: [OnceLock<Made>; 2] = [const { OnceLock::new() }; 2];
    let (tokenizer, grammars) = MADE[usize::from(has_marks)].get_or_init(|| {
        let tokenizer = Arc::new(tokenizer(has_marks));
        let grammars = Grammars::new(&tokenizer, N_VOCAB, Limits::default()).expect("a tokenizer with an end token");
        (tokenizer, grammars)
    });
    let compiled = grammars.compile(reply)?;
    Ok(walk(compiled.as_ref(), tokenizer, text)?)
}

fn walk(grammar: &dyn Grammar, tokenizer: &Tokenizer, text: &str) -> Result<Verdict, ConstraintError> {
    let mut constraint = grammar.begin();
    let (mut mask, mut again) = (Mask::nothing(N_VOCAB), Mask::nothing(N_VOCAB));
    let tokens = tokenizer.encode(text, Encode::TEMPLATE).expect("a text of bytes");
    let (mut at, mut forced) = (0, Vec::new());
    for (index, token) in tokens.iter().enumerate() {
        constraint.forced(&mut forced);
        constraint.allowed(&mut mask)?;
        assert!(mask.count() > 0, "nothing may come after {at} bytes");
        if let Some(first) = forced.first() {
            assert_eq!(mask.tokens().collect::<Vec<_>>(), [*first], "forced after {at} bytes");
        }
        if !mask.allows(*token) {
            assert_eq!(constraint.n_allowed(&tokens[index..]), 0);
            return Ok(Verdict::Refused(at));
        }
        let n = constraint.n_allowed(&tokens[index..]);
        // Control tokens are no drafts.
        assert!(n > 0 || tokenizer.is_special(*token), "a token that is allowed is none in a draft");
        for n in [1, n.clamp(1, 5)] {
            let progress = tokens[index..index + n].iter().map(|token| constraint.push(*token));
            let n_pushed = progress.take_while(|progress| matches!(progress, Ok(Progress::Open))).count();
            constraint.pop((n_pushed + 1).min(n))?;
            constraint.allowed(&mut again)?;
            assert!(mask == again, "a draft of {n} tokens after {at} bytes was not taken back");
        }
        at += tokenizer.token_bytes(*token).map_or(0, <[u8]>::len);
        if constraint.push(*token)? == Progress::Complete {
            return Ok(if index + 1 == tokens.len() { Verdict::Whole } else { Verdict::Refused(at) });
        }
    }
    constraint.allowed(&mut mask)?;
    Ok(if mask.allows(END) { Verdict::Whole } else { Verdict::Open })
}
