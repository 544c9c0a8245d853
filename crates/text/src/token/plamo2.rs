//! PLaMo 2: the cut whose tokens' scores sum highest, searched from the end; unknown characters are bytes.
//!
//! Scores are rounded to 1e-4, and a character outside the vocabulary costs 1000. Searching from the
//! end means that among cuts of equal sum the longest first token wins.
//! Source: Preferred Networks' `tokenization_plamo.py` (PLaMo 2, Apache-2.0), read as a description.

use super::error::TokenError;
use super::trie::Trie;
use super::vocab::{Kind, Vocab};

/// The score of a character outside the vocabulary, in units of 1e-4.
const UNKNOWN_SCORE: i64 = -10_000_000;
/// A token with this score or less is never used.
const INVALID_SCORE: i64 = -20_000_000;

/// A PLaMo 2 vocabulary.
#[derive(Debug)]
pub(super) struct Plamo2 {
    trie: Trie,
    scores: Vec<i64>,
    bytes: Vec<u32>,
}

impl Plamo2 {
    /// `bytes`: the byte tokens, `[256]`. `scores`: `[n_vocab]`.
    ///
    /// # Errors
    /// A vocabulary beyond the limits.
    pub fn new(vocab: &Vocab, scores: &[f32], bytes: Vec<u32>) -> Result<Plamo2, TokenError> {
        let entries = vocab.iter().filter(|(_, _, kind)| *kind != Kind::Byte).map(|(id, name, _)| (name, id));
        let rounded = |id: usize| match scores.get(id) {
            Some(s) if s.is_finite() => (f64::from(*s) * 1e4).round() as i64,
            Some(_) => INVALID_SCORE,
            None => 0,
        };
        Ok(Plamo2 { trie: Trie::new(entries.collect())?, scores: (0..vocab.len()).map(rounded).collect(), bytes })
    }

    /// Appends the ids of `text`.
    pub fn encode(&self, text: &str, out: &mut Vec<u32>) {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        // Per byte position: the cost from here to the end, the length of the first token, and its id.
        let mut best = vec![(i64::MAX, 0_u32, None); text.len() + 1];
        best[text.len()].0 = 0;
        for (start, c) in text.char_indices().rev() {
            let tokens: Vec<(usize, u32)> = self.trie.prefixes(&text.as_bytes()[start..]).collect();
            let longest_first = tokens.into_iter().rev().map(|(len, id)| (len, Some(id)));
            for (len, id) in longest_first.chain([(c.len_utf8(), None)]) {
                let score = id.map_or(UNKNOWN_SCORE, |id| self.scores[id as usize]);
                let rest = best[start + len].0;
                if score <= INVALID_SCORE || rest == i64::MAX {
                    continue;
                }
                let cost = rest.saturating_sub(score);
                if cost < best[start].0 {
                    best[start] = (cost, len as u32, id);
                }
            }
        }
        let mut at = 0;
        while let Some(&(_, len, id)) = best.get(at).filter(|b| b.1 > 0) {
            let end = at + len as usize;
            match id {
                Some(id) => out.push(id),
                None => out.extend(text.as_bytes()[at..end].iter().map(|&b| self.bytes[b as usize])),
            }
            at = end;
        }
    }
}
