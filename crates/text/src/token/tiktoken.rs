//! tiktoken's rank files, and the engine for every vocabulary whose merges follow from its ranks.
//!
//! ```text
//! IQ== 0          a line each: base64 of the token's bytes, its rank, which is its id
//! Ig== 1
//! ```
//! Source: OpenAI's `tiktoken/load.py`.

use super::added::Added;
use super::bpe::{Bpe, Fallback};
use super::build::{Frame, Parts};
use super::config::{self, AddedToken};
use super::error::TokenError;
use super::limits;
use super::pre::{self, Splitter};
use super::roles;
use super::source::Config;
use super::spm::PatternBpe;
use super::symbols::{Symbols, Unit};
use super::tokenizer::{Decoding, Engine, Tokenizer};
use super::vocab::{Kind, SpecialIds, Vocab};

const FILE: &str = "tiktoken ranks";

/// Builds the tokenizer.
///
/// # Errors
/// A line that is no base64 and rank, a pattern that does not compile, a limit passed.
pub(super) fn tokenizer(
    ranks: &[u8],
    pattern: &str,
    special: Vec<(String, u32)>,
    config: &Config,
) -> Result<Tokenizer, TokenError> {
    limits::check(FILE, ranks.len(), limits::MAX_FILE_BYTES, "MAX_FILE_BYTES")?;
    let tokens = read(ranks)?;
    let mut added = config::added_tokens(config)?;
    let named =
        special.into_iter().map(|(text, id)| AddedToken { id, text, special: true, lstrip: false, rstrip: false });
    added.extend(named);
    added.sort_by_key(|t| t.id);
    added.dedup_by_key(|t| t.id);
    let mut vocab = vocabulary(tokens, &added)?;
    let mut special = SpecialIds::default();
    let named_ends = config::roles(config, &vocab, &mut special);
    let ends = roles::assign(&mut vocab, &mut special, &named_ends, roles::Named::Marked);
    let frame = Frame {
        before: special.bos.filter(|_| config::flag(config, "add_bos_token").unwrap_or(false)).into_iter().collect(),
        after: special.eos.filter(|_| config::flag(config, "add_eos_token").unwrap_or(false)).into_iter().collect(),
    };
    let strip = |id: u32, _: &[u8]| {
        let token = added.binary_search_by_key(&id, |t| t.id).ok().map(|i| &added[i]);
        Some(token.map_or((false, false), |t| (t.lstrip, t.rstrip)))
    };
    let cut = Added::new(&vocab, strip)?;
    let splitter = match pre::find(pattern) {
        Some(named) if !pattern.is_empty() => Splitter::new(named.rules)?,
        _ => Splitter::of_patterns(&[pattern])?,
    };
    let engine = rank_bpe(&vocab, splitter)?;
    Ok(Tokenizer::new(Parts { vocab, added: cut, engine, special, ends, frame, decoding: Decoding::default() }))
}

/// Byte-level BPE in which a lower id merges first. Every `Kind::Normal` token takes part.
///
/// # Errors
/// A vocabulary beyond the limits.
pub(super) fn rank_bpe(vocab: &Vocab, splitter: Splitter) -> Result<Engine, TokenError> {
    let mut symbols = Symbols::new(vocab.len());
    for (id, _, kind) in vocab.iter() {
        if kind == Kind::Normal
            && let Some(bytes) = vocab.bytes(id)
        {
            symbols.token(bytes, id);
        }
    }
    let merges = symbols.merges_of_vocab(Unit::Byte, |id| id)?;
    let bytes = (0..=255_u8).map(|b| symbols.get(&[b])).collect();
    let fallback = Fallback { bytes, unknown: None };
    // tiktoken looks a whole word up before it merges.
    let bpe = Bpe::new(symbols, merges, (Unit::Byte, vocab.len()), fallback, true);
    Ok(Engine::Bpe(PatternBpe::new(bpe, splitter)))
}

/// Bytes and rank of each line, by rank.
fn read(text: &[u8]) -> Result<Vec<(u32, Vec<u8>)>, TokenError> {
    let help = "expected a base64 text, a space and a rank";
    let mut tokens = Vec::new();
    for (i, line) in text.split(|&b| b == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let wrong = || {
            let found = String::from_utf8_lossy(&line[..line.len().min(60)]).into_owned();
            TokenError::malformed(FILE, format!("line {}", i + 1), found, help)
        };
        let at = line.iter().position(|&b| b == b' ').ok_or_else(wrong)?;
        let bytes = base64(&line[..at]).ok_or_else(wrong)?;
        let rank = std::str::from_utf8(&line[at + 1..]).ok().and_then(|n| n.trim().parse().ok());
        tokens.push((rank.ok_or_else(wrong)?, bytes));
        limits::check("tokens of the vocabulary", tokens.len(), limits::MAX_VOCAB_TOKENS, "MAX_VOCAB_TOKENS")?;
    }
    if tokens.is_empty() {
        return Err(TokenError::malformed(FILE, "file", "no lines", help));
    }
    tokens.sort_by_key(|t| t.0);
    Ok(tokens)
}

/// Ranked and added tokens by id, holes filled with unused ids.
pub(super) fn vocabulary(tokens: Vec<(u32, Vec<u8>)>, added: &[AddedToken]) -> Result<Vocab, TokenError> {
    let ranked = tokens.into_iter().map(|(id, bytes)| (id, bytes, Kind::Normal));
    let kind = |t: &AddedToken| if t.special { Kind::Control } else { Kind::UserDefined };
    let added = added.iter().map(|t| (t.id, t.text.clone().into_bytes(), kind(t)));
    let mut all: Vec<(u32, Vec<u8>, Kind)> = ranked.chain(added).collect();
    all.sort_by_key(|(id, _, kind)| (*id, *kind == Kind::Normal));
    let mut vocab = Vocab::default();
    for (id, bytes, kind) in all {
        limits::check("id of a token", id as usize, limits::MAX_VOCAB_TOKENS, "MAX_VOCAB_TOKENS")?;
        while vocab.len() < id as usize {
            vocab.push(b"", b"", Kind::Unused)?;
        }
        if vocab.len() == id as usize {
            vocab.push(&bytes, &bytes, kind)?;
        }
    }
    Ok(vocab)
}

/// The bytes behind a base64 text with or without padding.
pub(super) fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    for group in text.chunks(4) {
        let mut bits = 0_u32;
        for &c in group {
            let value = match c {
                b'A'..=b'Z' => c - b'A',
                b'a'..=b'z' => c - b'a' + 26,
                b'0'..=b'9' => c - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        let bytes = match group.len() {
            4 => 3,
            3 => 2,
            2 => 1,
            _ => return None,
        };
        bits <<= 6 * (4 - group.len());
        out.extend(&bits.to_be_bytes()[1..=bytes]);
    }
    Some(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // tests
mod tests {
    use super::*;

    #[test]
    fn base64_both_ways_of_padding() {
        let check = |text: &str, want: Option<&[u8]>| assert_eq!(base64(text.as_bytes()).as_deref(), want, "{text}");
        check("SGVsbG8=", Some(b"Hello"));
        check("SGVsbG8", Some(b"Hello"));
        check("IQ==", Some(b"!"));
        check("", Some(b""));
        check("A", None);
        check("A*==", None);
        check("//79", Some(&[0xff, 0xfe, 0xfd]));
    }

    #[test]
    fn damaged_lines_are_named() {
        for (text, want) in
            [("IQ== 0\nIg==", "line 2"), ("IQ== x", "line 1"), ("*** 1", "line 1"), ("\n\n", "no lines")]
        {
            let error = read(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(want), "{text:?}: {error}");
        }
    }
}
