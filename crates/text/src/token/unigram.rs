//! SentencePiece's unigram model: the cut of a text whose tokens' scores sum highest.
//!
//! Scores are log probabilities. The search keeps, for each position, the best way to reach it
//! (Viterbi), and costs one walk through the trie per character.
//! Source: Kudo 2018, arXiv:1804.10959; SentencePiece `src/unigram_model.cc` (`EncodeOptimized`).

use super::charsmap::Normalizer;
use super::error::TokenError;
use super::trie::Trie;
use super::vocab::{Kind, Vocab};

/// How much worse than the worst token a character outside the vocabulary is.
const UNKNOWN_PENALTY: f64 = 10.0;

/// What text outside the vocabulary becomes.
#[derive(Debug)]
pub(super) struct Unknown {
    /// One token for a run of unknown characters.
    pub id: u32,
    /// `[256]` byte tokens to be used instead, or empty.
    pub bytes: Vec<u32>,
}

/// A unigram vocabulary.
#[derive(Debug)]
pub(super) struct Unigram {
    pub normalizer: Normalizer,
    trie: Trie,
    scores: Vec<f64>,
    unknown_score: f64,
    unknown: Unknown,
    /// Length of the longest token, in bytes.
    longest: usize,
}

impl Unigram {
    /// `scores`: `[n_vocab]`. `user_score` is the score of a user-defined token of so many bytes.
    ///
    /// # Errors
    /// A vocabulary beyond the limits.
    pub fn new(
        vocab: &Vocab,
        scores: &[f32],
        normalizer: Normalizer,
        unknown: Unknown,
        user_score: impl Fn(usize) -> f64,
    ) -> Result<Unigram, TokenError> {
        let mut worst = f64::MAX;
        let mut own = Vec::with_capacity(vocab.len());
        let mut entries = Vec::new();
        for (id, name, kind) in vocab.iter() {
            let score = f64::from(scores.get(id as usize).copied().unwrap_or(0.0));
            let score = if score.is_finite() { score } else { 0.0 };
            if kind == Kind::Normal {
                worst = worst.min(score);
            }
            own.push(if kind == Kind::UserDefined { user_score(name.len()) } else { score });
            if kind.is_text() {
                entries.push((name, id));
            }
        }
        let longest = entries.iter().map(|(t, _)| t.len()).max().unwrap_or(0);
        let worst = if worst == f64::MAX { 0.0 } else { worst };
        let trie = Trie::new(entries)?;
        Ok(Unigram { normalizer, trie, scores: own, unknown_score: worst - UNKNOWN_PENALTY, unknown, longest })
    }

    /// Appends the ids of `text`, which holds no added token.
    pub fn encode(&self, text: &str, out: &mut Vec<u32>) {
        let text = self.normalizer.normalize(text);
        let best = self.search(&text);
        let mut ids = Vec::new();
        let mut end = text.len();
        while end > 0 {
            let Some(&(_, start, id)) = best.get(end) else { break };
            let start = start as usize;
            if id != self.unknown.id {
                ids.push(id);
            } else if self.unknown.bytes.len() == 256 {
                ids.extend(text.as_bytes()[start..end].iter().rev().map(|&b| self.unknown.bytes[b as usize]));
            } else if ids.last() != Some(&id) {
                ids.push(id);
            }
            end = start;
        }
        out.extend(ids.iter().rev());
    }

    /// For each byte position: the best score that reaches it, where its last token starts, and that token.
    fn search(&self, text: &str) -> Vec<(f64, u32, u32)> {
        let mut best = vec![(f64::NEG_INFINITY, 0_u32, self.unknown.id); text.len() + 1];
        best[0].0 = 0.0;
        for (start, c) in text.char_indices() {
            let here = best[start].0;
            let mut single = false;
            let window = &text.as_bytes()[start..text.len().min(start + self.longest)];
            for (len, id) in self.trie.prefixes(window) {
                single |= len == c.len_utf8();
                let score = here + self.scores[id as usize];
                let slot = &mut best[start + len];
                if score > slot.0 {
                    *slot = (score, start as u32, id);
                }
            }
            if !single {
                let slot = &mut best[start + c.len_utf8()];
                let score = here + self.unknown_score;
                if score > slot.0 {
                    *slot = (score, start as u32, self.unknown.id);
                }
            }
        }
        best
    }
}
