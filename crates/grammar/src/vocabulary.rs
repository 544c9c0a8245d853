//! A tokenizer as llguidance wants it: a trie of all tokens' bytes, and the tokens that a text is usually made of.

use std::sync::Arc;

use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use mlxr_text::token::{Encode, Kind, Tokenizer};

/// Texts whose tokens must spell them, byte for byte, where forced text is to be tokenized.
const PROBES: [&str; 6] = [
    "{\"name\": \"value\", \"list\": [1, 2.5, true, null]}",
    "word",
    " word",
    "\n    \"",
    "</",
    "é🦜\t\u{4e2d}\u{6587}",
];

struct Vocabulary {
    trie: TokTrie,
    tokenizer: Arc<Tokenizer>,
    is_canonical: bool,
}

/// The environment of grammars for a model whose logits have `n_vocab` entries; `None` if it has no end token among them.
pub(crate) fn environment(tokenizer: &Arc<Tokenizer>, n_vocab: usize) -> Option<TokEnv> {
    let n_token = tokenizer.n_vocab().min(n_vocab);
    let words: Vec<Vec<u8>> = (0..n_token as TokenId).map(|id| word(tokenizer, id)).collect();
    let ends: Vec<TokenId> = tokenizer.eog_ids().iter().copied().filter(|id| (*id as usize) < n_token).collect();
    let info = TokRxInfo::new(n_token as u32, *ends.first()?);
    let trie = TokTrie::from(&info, &words).with_eos_tokens(&ends);
    let is_canonical = PROBES.iter().all(|text| encode(tokenizer, text).is_some());
    Some(Arc::new(Vocabulary { trie, tokenizer: tokenizer.clone(), is_canonical }))
}

/// What a token stands for in a trie: control tokens are marked, so that no text spells them.
fn word(tokenizer: &Tokenizer, id: TokenId) -> Vec<u8> {
    const MARK: u8 = TokTrie::SPECIAL_TOKEN_MARKER;
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    match tokenizer.kind(id) {
        None | Some(Kind::Unused) => Vec::new(),
        Some(Kind::Control | Kind::Unknown) => [&[MARK], bytes].concat(),
        // No text in UTF-8 has this byte.
        Some(_) if bytes.first() == Some(&MARK) => Vec::new(),
        Some(_) => bytes.to_vec(),
    }
}

/// The tokens of `text`; `None` if they do not spell it, as where a space is put first.
fn encode(tokenizer: &Tokenizer, text: &str) -> Option<Vec<TokenId>> {
    let ids = tokenizer.encode(text, Encode::PLAIN).ok()?;
    let mut rest = text.as_bytes();
    for id in &ids {
        rest = rest.strip_prefix(tokenizer.token_bytes(*id).filter(|_| !tokenizer.is_special(*id))?)?;
    }
    rest.is_empty().then_some(ids)
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| {
            encode(&self.tokenizer, text).unwrap_or_else(|| self.trie.greedy_tokenize(text.as_bytes()))
        })
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.is_canonical
    }
}
