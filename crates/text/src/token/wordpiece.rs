//! BERT's WordPiece: words by white space and punctuation, each the longest tokens that fit.
//!
//! GGUF writes the start of a word as `▁word` and its continuation as `ing` (where BERT's own file has
//! `word` and `##ing`). Source: Devlin et al. 2018, arXiv:1810.04805, `tokenization.py`.

use super::error::TokenError;
use super::trie::Trie;
use super::vocab::Vocab;
use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::UnicodeNormalization;

/// A WordPiece vocabulary.
#[derive(Debug)]
pub(super) struct WordPiece {
    /// Tokens that start a word, without their `▁`.
    starts: Trie,
    /// Tokens that continue a word.
    continues: Trie,
    unknown: u32,
    lowercase: bool,
    strip_accents: bool,
}

impl WordPiece {
    /// `unknown` stands for a word that the vocabulary cannot write.
    ///
    /// # Errors
    /// A vocabulary beyond the limits.
    pub fn new(vocab: &Vocab, unknown: u32, lowercase: bool, strip_accents: bool) -> Result<WordPiece, TokenError> {
        let text = vocab.iter().filter(|(_, _, kind)| kind.is_text());
        let (starts, continues): (Vec<_>, Vec<_>) = text.partition(|(_, name, _)| name.starts_with("▁".as_bytes()));
        let starts = starts.into_iter().map(|(id, name, _)| (&name["▁".len()..], id)).collect();
        let continues = continues.into_iter().map(|(id, name, _)| (name, id)).collect();
        let (starts, continues) = (Trie::new(starts)?, Trie::new(continues)?);
        Ok(WordPiece { starts, continues, unknown, lowercase, strip_accents })
    }

    /// Appends the ids of `text`, which holds no added token.
    pub fn encode(&self, text: &str, out: &mut Vec<u32>) {
        let mut word = String::new();
        let mut flush = |word: &mut String| {
            if !word.is_empty() {
                self.encode_word(word, out);
                word.clear();
            }
        };
        let mut each = |c: char| {
            if is_dropped(c) || self.strip_accents && c.is_mark_nonspacing() {
                return;
            }
            let alone = is_ideograph(c) || c.is_punctuation() || c.is_ascii_punctuation();
            if alone || c.is_whitespace() {
                flush(&mut word);
            }
            if c.is_whitespace() {
                return;
            }
            match self.lowercase {
                true => word.extend(c.to_lowercase()),
                false => word.push(c),
            }
            if alone {
                flush(&mut word);
            }
        };
        if self.strip_accents {
            text.nfd().for_each(|(c, _)| each(c));
        } else {
            text.chars().for_each(&mut each);
        }
        each(' ');
    }

    /// The longest token at each position; one unknown token if some position has none.
    fn encode_word(&self, word: &str, out: &mut Vec<u32>) {
        let before = out.len();
        let mut rest = word.as_bytes();
        while !rest.is_empty() {
            let trie = if rest.len() == word.len() { &self.starts } else { &self.continues };
            let Some((len, id)) = trie.prefixes(rest).last() else {
                out.truncate(before);
                out.push(self.unknown);
                return;
            };
            out.push(id);
            rest = &rest[len..];
        }
    }
}

/// Characters that are not there for BERT: control characters other than its white space.
fn is_dropped(c: char) -> bool {
    !matches!(c, '\t' | '\n' | '\r') && (matches!(c, '\0' | '\u{fffd}') || c.is_other())
}

/// Characters that are words of their own. The borders are BERT's.
fn is_ideograph(c: char) -> bool {
    matches!(u32::from(c),
        0x4e00..=0x9fff | 0x3400..=0x4dbf | 0x20000..=0x2a6df | 0x2a700..=0x2b73f | 0x2b740..=0x2b81f
        | 0x2b920..=0x2ceaf | 0xf900..=0xfaff | 0x2f800..=0x2fa1f)
}
