//! What the builders of tokenizers share.

use super::added::Added;
use super::bpe::{Bpe, Fallback};
use super::charsmap::Normalizer;
use super::error::TokenError;
use super::rwkv::hex;
use super::spm::Spm;
use super::symbols::{Symbols, Unit};
use super::tokenizer::{Decoding, Engine};
use super::vocab::{SpecialIds, Vocab};

/// Everything that a [`super::Tokenizer`] is made of.
pub(super) struct Parts {
    pub vocab: Vocab,
    pub added: Added,
    pub engine: Engine,
    pub special: SpecialIds,
    /// Ids that end a generation, sorted.
    pub ends: Vec<u32>,
    pub frame: Frame,
    pub decoding: Decoding,
}

/// The ids that go around a text when special tokens are to be added.
#[derive(Debug, Clone, Default)]
pub(super) struct Frame {
    pub before: Vec<u32>,
    pub after: Vec<u32>,
}

/// The byte that a token named `<0xNN>` stands for.
pub(super) fn byte_of(name: &[u8]) -> Option<u8> {
    let digits = name.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    hex(digits).filter(|_| digits.len() == 2)
}

/// The token of each byte: `<0xNN>`, or else the byte itself, `[256]`.
pub(super) fn byte_tokens(vocab: &Vocab) -> Vec<Option<u32>> {
    let named = |b: u8| vocab.id(format!("<0x{b:02X}>").as_bytes());
    (0..=255_u8).map(|b| named(b).or_else(|| vocab.id(&[b]))).collect()
}

/// A token's text with `▁` read as a space.
pub(super) fn unescape_spaces(name: &[u8]) -> Vec<u8> {
    let sign = "▁".as_bytes();
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, after)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(sign) {
            out.push(b' ');
            rest = after;
        } else {
            out.push(byte);
            rest = after;
        }
    }
    out
}

/// The two sides of a line `left right` of a merge list. The left side has at least one byte.
pub(super) fn merge_pair(line: &[u8]) -> (&[u8], &[u8]) {
    let space = line.iter().skip(1).position(|&b| b == b' ');
    match space {
        Some(at) => (&line[..at + 1], &line[at + 2..]),
        None => (b"", b""),
    }
}

/// SentencePiece's BPE: tokens merge in order of their scores.
///
/// # Errors
/// A vocabulary beyond the limits.
pub(super) fn spm(
    vocab: &Vocab,
    scores: &[f32],
    normalizer: Normalizer,
    unknown: Option<u32>,
) -> Result<Spm, TokenError> {
    let mut symbols = Symbols::new(vocab.len());
    for (id, name, kind) in vocab.iter() {
        if kind.is_text() {
            symbols.token(name, id);
        }
    }
    let ranks = ranks(vocab.len(), scores);
    let merges = symbols.merges_of_vocab(Unit::Char, |id| ranks[id as usize])?;
    let fallback = Fallback { bytes: byte_tokens(vocab), unknown };
    let bpe = Bpe::new(symbols, merges, (Unit::Char, vocab.len()), fallback, false);
    let sticky = bpe.sticky_chars();
    Ok(Spm { bpe, normalizer, sticky, frozen: None })
}

/// The place of each token when scores fall; equal scores share one. A missing score is 0.
fn ranks(n: usize, scores: &[f32]) -> Vec<u32> {
    let score = |id: usize| scores.get(id).copied().filter(|s| !s.is_nan()).unwrap_or(0.0) + 0.0;
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
    let mut ranks = vec![0; n];
    let mut rank = 0;
    for (i, &id) in order.iter().enumerate() {
        rank += u32::from(i > 0 && score(order[i - 1]) != score(id));
        ranks[id] = rank;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_readers() {
        assert_eq!(byte_of(b"<0x0A>"), Some(10));
        assert_eq!(byte_of(b"<0x0A0>"), None);
        assert_eq!(byte_of(b"<0x+1>"), None);
        assert_eq!(unescape_spaces("▁a▁▁b".as_bytes()), b" a  b");
        assert_eq!(merge_pair(b"a b"), (&b"a"[..], &b"b"[..]));
        assert_eq!(merge_pair(b"  b"), (&b" "[..], &b"b"[..]));
        assert_eq!(merge_pair(b"ab"), (&b""[..], &b""[..]));
        assert_eq!(ranks(4, &[-1.0, 0.0, -1.0, -0.0]), [1, 0, 1, 0]);
    }
}
