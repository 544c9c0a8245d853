//! Text to ids by merging, for the two ways of cutting words: patterns (BPE) and `▁` (SentencePiece).

use super::bpe::{Bpe, SPACE};
use super::charsmap::Normalizer;
use super::error::TokenError;
use super::merge::Scratch;
use super::pre::Splitter;
use super::vocab::{Kind, Vocab};
use aho_corasick::{AhoCorasick, MatchKind};

/// BPE as GPT-2 has it: words by patterns.
#[derive(Debug)]
pub(super) struct PatternBpe {
    pub bpe: Bpe,
    pub splitter: Splitter,
    /// Spaces become `▁` first, and words are cut before it as well where no merge crosses.
    pub escape_spaces: bool,
    /// A run of line feeds that is a token is that token (Gemma 4).
    pub whole_newlines: bool,
    /// See [`Bpe::sticky_chars`]; used where `escape_spaces`.
    pub sticky: Vec<char>,
    /// Text is lowercased first.
    pub lowercase: bool,
    /// White space only separates words and is not encoded.
    pub drop_white_space: bool,
}

impl PatternBpe {
    /// Words by `splitter`, nothing else.
    pub fn new(bpe: Bpe, splitter: Splitter) -> PatternBpe {
        PatternBpe {
            bpe,
            splitter,
            escape_spaces: false,
            whole_newlines: false,
            sticky: Vec::new(),
            lowercase: false,
            drop_white_space: false,
        }
    }

    /// Appends the ids of `text`, which holds no added token.
    ///
    /// # Errors
    /// A backtracking split pattern that gives up on this text.
    pub fn encode(&self, text: &str, scratch: &mut Scratch, out: &mut Vec<u32>) -> Result<(), TokenError> {
        let escaped;
        let mut text = text;
        if self.escape_spaces {
            escaped = text.replace(' ', "▁");
            text = &escaped;
        }
        let lower;
        if self.lowercase {
            lower = text.to_lowercase();
            text = &lower;
        }
        self.splitter.split(text, &mut |word| {
            if self.drop_white_space && word.starts_with(char::is_whitespace) {
                return Ok(());
            }
            if self.whole_newlines
                && word.bytes().all(|b| b == b'\n')
                && let Some(id) = self.bpe.token(word.as_bytes())
            {
                out.push(id);
            } else if self.escape_spaces {
                for word in words(word, &self.sticky) {
                    self.bpe.encode(word.as_bytes(), scratch, out);
                }
            } else {
                self.bpe.encode(word.as_bytes(), scratch, out);
            }
            Ok(())
        })
    }
}

/// BPE as SentencePiece has it: the whole text is one word, written with `▁` for a space.
#[derive(Debug)]
pub(super) struct Spm {
    pub bpe: Bpe,
    pub normalizer: Normalizer,
    /// See [`Bpe::sticky_chars`].
    pub sticky: Vec<char>,
    /// User-defined pieces of a SentencePiece model, which are looked for after normalizing.
    pub frozen: Option<Frozen>,
}

/// Pieces that merging does not touch: the longest at each position, from the left.
#[derive(Debug)]
pub(super) struct Frozen {
    finder: AhoCorasick,
    ids: Vec<u32>,
}

impl Frozen {
    /// The user-defined pieces of `vocab`, as far as `wanted`; `None` if there are none.
    ///
    /// # Errors
    /// More or longer pieces than the automaton holds.
    pub fn new(vocab: &Vocab, wanted: impl Fn(u32) -> bool) -> Result<Option<Frozen>, TokenError> {
        let pieces =
            vocab.iter().filter(|(id, name, kind)| *kind == Kind::UserDefined && wanted(*id) && !name.is_empty());
        let (texts, ids): (Vec<&[u8]>, Vec<u32>) = pieces.map(|(id, name, _)| (name, id)).unzip();
        if ids.is_empty() {
            return Ok(None);
        }
        let built = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts);
        let finder = built.map_err(|e| {
            let help = "there are too many or too long ones";
            TokenError::malformed("tokenizer.model", "user-defined pieces", e.to_string(), help)
        })?;
        Ok(Some(Frozen { finder, ids }))
    }
}

impl Spm {
    /// Appends the ids of `text`, which holds no added token.
    pub fn encode(&self, text: &str, scratch: &mut Scratch, out: &mut Vec<u32>) {
        let text = self.normalizer.normalize(text);
        let mut rest = 0;
        if let Some(frozen) = &self.frozen {
            for found in frozen.finder.find_iter(&text) {
                self.merge(&text[rest..found.start()], scratch, out);
                out.push(frozen.ids[found.pattern().as_usize()]);
                rest = found.end();
            }
        }
        self.merge(&text[rest..], scratch, out);
    }

    fn merge(&self, text: &str, scratch: &mut Scratch, out: &mut Vec<u32>) {
        for word in words(text, &self.sticky) {
            self.bpe.encode(word.as_bytes(), scratch, out);
        }
    }
}

/// Cuts a text before each `▁` that no merge can join to the character before it.
fn words<'t>(text: &'t str, sticky: &[char]) -> impl Iterator<Item = &'t str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut cut = rest.len();
        for (at, _) in rest.match_indices(SPACE) {
            let before = rest[..at].chars().next_back();
            if before.is_some_and(|c| c != SPACE && sticky.binary_search(&c).is_err()) {
                cut = at;
                break;
            }
        }
        let word;
        (word, rest) = rest.split_at(cut);
        Some(word)
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn words_begin_at_spaces_unless_a_merge_may_cross() {
        let check = |text: &str, sticky: &[char], want: &[&str]| {
            assert_eq!(super::words(text, sticky).collect::<Vec<_>>(), want);
        };
        check("▁a▁b▁▁c", &[], &["▁a", "▁b", "▁▁c"]);
        check("▁a▁b▁▁c", &['a'], &["▁a▁b", "▁▁c"]);
        check("▁▁", &[], &["▁▁"]);
        check("", &[], &[]);
    }
}
