//! One word to ids by merging, with fallback to bytes.

use super::arena::TextMap;
use super::merge::{MergeTable, Scratch, Symbol};
use super::symbols::{Symbols, Unit};
use std::sync::atomic::{AtomicU8, Ordering};

/// No id: of a byte without a token, or a character outside the vocabulary.
const NO_ID: u32 = u32::MAX;

/// A vocabulary whose tokens come about by merging.
#[derive(Debug)]
pub(super) struct Bpe {
    merges: MergeTable,
    /// Text of a whole word to its symbol; ids from `n_vocab` up are no tokens.
    texts: TextMap,
    n_vocab: u32,
    unit: Unit,
    /// The symbol of each byte (unit `Byte`) or of each ASCII character (unit `Char`).
    first: Box<[u32; 256]>,
    fallback: Fallback,
    /// A word that is a token is that token, whatever merging says (Llama 3).
    whole_words: bool,
    /// Per token: does merging its own text give back the token? 0 unknown, 1 yes, 2 no.
    reproduces: Vec<AtomicU8>,
}

/// What becomes of text that ends as no token.
#[derive(Debug, Clone)]
pub(super) struct Fallback {
    /// The token of each byte, `None` where there is none.
    pub bytes: Vec<Option<u32>>,
    /// For bytes without a token; a run of them gives one. `None` drops them.
    pub unknown: Option<u32>,
}

impl Bpe {
    /// From symbols and their merges. `n_vocab` is the number of true tokens.
    pub fn new(
        mut symbols: Symbols,
        merges: MergeTable,
        (unit, n_vocab): (Unit, usize),
        fallback: Fallback,
        whole_words: bool,
    ) -> Bpe {
        let symbol = |symbols: &mut Symbols, byte: u8| match unit {
            Unit::Byte => symbols.intern(&[byte]),
            Unit::Char => symbols.get(&[byte]).unwrap_or(NO_ID),
        };
        let first = Box::new(std::array::from_fn(|b| symbol(&mut symbols, b as u8)));
        let reproduces = (0..n_vocab).map(|_| AtomicU8::new(0)).collect();
        let n_vocab = n_vocab as u32;
        Bpe { merges, texts: symbols.into_texts(), n_vocab, unit, first, fallback, whole_words, reproduces }
    }

    /// Appends the ids of `word`, which merges with nothing outside itself.
    pub fn encode(&self, word: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        if let Some(id) = self.token(word)
            && (self.whole_words || self.reproduces(id, word, scratch))
        {
            out.push(id);
            return;
        }
        self.merge(word, scratch);
        let mut at = 0;
        for symbol in &scratch.symbols {
            let end = at + symbol.len as usize;
            if symbol.id < self.n_vocab {
                out.push(symbol.id);
            } else {
                self.fall_back(&word[at..end], out);
            }
            at = end;
        }
    }

    /// The token of exactly this text.
    pub fn token(&self, word: &[u8]) -> Option<u32> {
        self.texts.get(word).filter(|&id| id < self.n_vocab)
    }

    /// Most words are one token. Whether merging agrees is found out once per token.
    fn reproduces(&self, id: u32, word: &[u8], scratch: &mut Scratch) -> bool {
        let known = &self.reproduces[id as usize];
        if known.load(Ordering::Relaxed) == 0 {
            self.merge(word, scratch);
            let same = scratch.symbols.len() == 1 && scratch.symbols[0].id == id;
            known.store(if same { 1 } else { 2 }, Ordering::Relaxed);
        }
        known.load(Ordering::Relaxed) == 1
    }

    /// Leaves the merged symbols of `word` in `scratch`.
    fn merge(&self, word: &[u8], scratch: &mut Scratch) {
        scratch.symbols.clear();
        match self.unit {
            Unit::Byte => {
                let symbol = |&b: &u8| Symbol { id: self.first[b as usize], len: 1 };
                scratch.symbols.extend(word.iter().map(symbol));
            }
            Unit::Char => {
                for c in word.chunk_by(|_, &b| b & 0xc0 == 0x80) {
                    let id = if let [b] = c { self.first[*b as usize] } else { self.texts.get(c).unwrap_or(NO_ID) };
                    scratch.symbols.push(Symbol { id, len: c.len() as u32 });
                }
            }
        }
        self.merges.merge(scratch);
    }

    fn fall_back(&self, bytes: &[u8], out: &mut Vec<u32>) {
        for &byte in bytes {
            match (self.fallback.bytes.get(byte as usize).copied().flatten(), self.fallback.unknown) {
                (Some(id), _) => out.push(id),
                (None, Some(unknown)) if out.last() != Some(&unknown) => out.push(unknown),
                (None, _) => {}
            }
        }
    }

    /// Characters that some symbol has right before a `▁` (U+2581). Between any other character and a
    /// `▁`, no merge ever happens, so that a text may be cut there.
    pub fn sticky_chars(&self) -> Vec<char> {
        let mut sticky = Vec::new();
        for (text, _) in self.texts.iter() {
            let Ok(text) = std::str::from_utf8(text) else { continue };
            let pairs = text.chars().zip(text.chars().skip(1));
            sticky.extend(pairs.filter(|&(a, b)| b == SPACE && a != SPACE).map(|(a, _)| a));
        }
        sticky.sort_unstable();
        sticky.dedup();
        sticky
    }
}

/// SentencePiece's sign for a space.
pub(super) const SPACE: char = '▁';
