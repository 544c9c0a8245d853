//! Where the merges of a vocabulary come from: a list, or the vocabulary itself.
//!
//! A *symbol* is a text that merging can meet: a token, or a text that is none (a single character
//! outside the vocabulary, or an intermediate result that a merge list names). The latter get ids
//! from `n_vocab` up, and fall back to bytes when a word ends with them.

use super::arena::TextMap;
use super::error::TokenError;
use super::limits;
use super::merge::{Merge, MergeTable};

/// Texts with ids: tokens first, then the texts that are no tokens.
#[derive(Debug, Clone)]
pub(super) struct Symbols {
    texts: TextMap,
    next: u32,
}

/// Into what the smallest symbols are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// Bytes (GPT-2, tiktoken).
    Byte,
    /// Characters (SentencePiece, Gemma).
    Char,
}

impl Symbols {
    /// Starts with no texts and room for the ids of a vocabulary of `n_vocab` tokens.
    pub fn new(n_vocab: usize) -> Symbols {
        Symbols { texts: TextMap::default(), next: n_vocab as u32 }
    }

    /// Enters a token.
    pub fn token(&mut self, text: &[u8], id: u32) {
        self.texts.insert(text, id);
    }

    pub fn get(&self, text: &[u8]) -> Option<u32> {
        self.texts.get(text)
    }

    /// The id of `text`, a new one above the vocabulary if it has none.
    pub fn intern(&mut self, text: &[u8]) -> u32 {
        let id = self.texts.insert(text, self.next);
        self.next += u32::from(id == self.next);
        id
    }

    /// Gives up the texts.
    pub fn into_texts(self) -> TextMap {
        self.texts
    }

    /// Merges from a list of pairs, best first.
    ///
    /// # Errors
    /// More than `limits::MAX_MERGES` pairs.
    pub fn merges_of_list(
        &mut self,
        pairs: impl Iterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<MergeTable, TokenError> {
        let mut table = MergeTable::with_capacity(pairs.size_hint().0.min(limits::MAX_MERGES));
        for (rank, (left, right)) in pairs.enumerate() {
            limits::check("merges", rank + 1, limits::MAX_MERGES, "MAX_MERGES")?;
            let (l, r) = (self.intern(&left), self.intern(&right));
            let id = self.intern(&[left, right].concat());
            table.insert(l, r, Merge { rank: rank as u32, id });
        }
        Ok(table)
    }

    /// Merges from the vocabulary: every way to write a token as two symbols merges at the token's rank.
    ///
    /// # Errors
    /// A token longer than `limits::MAX_MERGED_BYTES`, or more than `limits::MAX_MERGES` pairs.
    pub fn merges_of_vocab(&mut self, unit: Unit, rank: impl Fn(u32) -> u32) -> Result<MergeTable, TokenError> {
        let tokens: Vec<(Vec<u8>, u32)> = self.texts.iter().map(|(t, id)| (t.to_vec(), id)).collect();
        if unit == Unit::Char {
            for (text, _) in &tokens {
                for piece in units(text) {
                    self.intern(piece);
                }
            }
        }
        let mut table = MergeTable::with_capacity(tokens.len() * 2);
        let mut n_pairs = 0;
        for (text, id) in &tokens {
            let what = "bytes of a token that merging makes";
            limits::check(what, text.len(), limits::MAX_MERGED_BYTES, "MAX_MERGED_BYTES")?;
            for cut in 1..text.len() {
                if unit == Unit::Char && !starts_char(text[cut]) {
                    continue;
                }
                let (left, right) = text.split_at(cut);
                if let (Some(l), Some(r)) = (self.get(left), self.get(right)) {
                    n_pairs += 1;
                    limits::check("merges", n_pairs, limits::MAX_MERGES, "MAX_MERGES")?;
                    table.insert(l, r, Merge { rank: rank(*id), id: *id });
                }
            }
        }
        Ok(table)
    }
}

/// Whether a byte starts a UTF-8 character (or is no UTF-8 at all).
fn starts_char(byte: u8) -> bool {
    byte & 0xc0 != 0x80
}

/// The characters of a text that may not be UTF-8: a broken one is its first byte and what trails it.
fn units(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.chunk_by(|_, &b| !starts_char(b))
}
