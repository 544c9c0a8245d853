//! Tokens that are cut out of a text before anything else: control tokens and user-defined ones.
//!
//! The longest token goes first over the whole text, then the next longest over what is left, and so
//! on, as llama.cpp does. An Aho-Corasick automaton first finds which of them occur at all, so that a
//! text without any costs one pass however many tokens there are.

use super::error::TokenError;
use super::vocab::{Kind, Vocab};
use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use memchr::memmem;

/// One such token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    pub id: u32,
    /// Swallows white space before it.
    pub lstrip: bool,
    /// Swallows white space after it.
    pub rstrip: bool,
}

/// A part of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'t> {
    Text(&'t str),
    Token(u32),
}

/// The cutter.
#[derive(Debug)]
pub(super) struct Added {
    /// Longest text first.
    marks: Vec<(Vec<u8>, Mark, bool)>,
    present: Option<AhoCorasick>,
}

impl Added {
    /// The control, unknown and user-defined tokens of `vocab`. `strip` says which swallow space before
    /// and after them; `None` leaves a token in the text.
    ///
    /// # Errors
    /// More or longer tokens than the automaton holds.
    pub fn new(vocab: &Vocab, strip: impl Fn(u32, &[u8]) -> Option<(bool, bool)>) -> Result<Added, TokenError> {
        let mut marks: Vec<(Vec<u8>, Mark, bool)> = vocab
            .iter()
            .filter(|(_, name, kind)| !name.is_empty() && (kind.is_special() || *kind == Kind::UserDefined))
            .filter_map(|(id, name, kind)| {
                let (lstrip, rstrip) = strip(id, name)?;
                Some((name.to_vec(), Mark { id, lstrip, rstrip }, kind.is_special()))
            })
            .collect();
        marks.sort_by_key(|(text, mark, _)| (usize::MAX - text.len(), mark.id));
        let build = || {
            AhoCorasick::builder()
                .match_kind(MatchKind::Standard)
                .kind(Some(AhoCorasickKind::ContiguousNFA))
                .build(marks.iter().map(|(text, _, _)| text))
        };
        let present = if marks.is_empty() { None } else { Some(build().map_err(too_many)?) };
        Ok(Added { marks, present })
    }

    /// Cuts `text`. Control and unknown tokens only where `parse_special`.
    pub fn cut<'t>(&self, text: &'t str, parse_special: bool) -> Vec<Part<'t>> {
        let mut parts = vec![Part::Text(text)];
        for index in self.occurring(text, parse_special) {
            let (token, mark, _) = &self.marks[index];
            let finder = memmem::Finder::new(token);
            let mut next = Vec::with_capacity(parts.len() + 2);
            for part in parts {
                match part {
                    Part::Text(text) => cut_one(text, &finder, (token.len(), *mark), &mut next),
                    token => next.push(token),
                }
            }
            parts = next;
        }
        parts.retain(|part| *part != Part::Text(""));
        parts
    }

    /// The indices of the tokens that stand somewhere in `text`, longest first.
    fn occurring(&self, text: &str, parse_special: bool) -> Vec<usize> {
        let Some(present) = &self.present else { return Vec::new() };
        let mut seen = vec![false; self.marks.len()];
        let mut n_left = self.marks.len();
        for found in present.find_overlapping_iter(text) {
            let slot = &mut seen[found.pattern().as_usize()];
            n_left -= usize::from(!*slot);
            *slot = true;
            if n_left == 0 {
                break;
            }
        }
        let wanted = |&i: &usize| seen[i] && (parse_special || !self.marks[i].2);
        (0..seen.len()).filter(wanted).collect()
    }
}

fn cut_one<'t>(text: &'t str, finder: &memmem::Finder<'_>, (len, mark): (usize, Mark), out: &mut Vec<Part<'t>>) {
    let mut rest = text;
    while let Some(at) = finder.find(rest.as_bytes()) {
        // A token that is no UTF-8 never equals a part of a text at a character border.
        let (Some(before), Some(after)) = (rest.get(..at), rest.get(at + len..)) else { break };
        out.push(Part::Text(if mark.lstrip { before.trim_end_matches(is_space) } else { before }));
        out.push(Part::Token(mark.id));
        rest = if mark.rstrip { after.trim_start_matches(is_space) } else { after };
    }
    out.push(Part::Text(rest));
}

/// C's `isspace`.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

fn too_many(error: aho_corasick::BuildError) -> TokenError {
    TokenError::malformed("tokenizer", "special tokens", error.to_string(), "there are too many or too long ones")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // tests
mod tests {
    use super::*;

    fn check(tokens: &[(&str, Kind)], strip: (bool, bool), parse: bool, text: &str, want: &str) {
        let mut vocab = Vocab::default();
        for (name, kind) in tokens {
            vocab.push(name.as_bytes(), name.as_bytes(), *kind).unwrap();
        }
        let added = Added::new(&vocab, |_, _| Some(strip)).unwrap();
        let show = |part: &Part| match part {
            Part::Text(t) => format!("{t:?}"),
            Part::Token(id) => id.to_string(),
        };
        let got: Vec<_> = added.cut(text, parse).iter().map(show).collect();
        assert_eq!(got.join(" "), want, "{text:?}");
    }

    #[test]
    fn tokens_are_cut_longest_first_and_as_asked() {
        use Kind::{Control, Normal, UserDefined};
        let tokens = [("<s>", Control), ("  ", UserDefined), ("   ", UserDefined), ("x", Normal)];
        check(&tokens, (false, false), true, "a<s>b", r#""a" 0 "b""#);
        check(&tokens, (false, false), false, "a<s>b", r#""a<s>b""#);
        check(&tokens, (false, false), false, "a     x", r#""a" 2 1 "x""#);
        check(&tokens, (true, true), true, "a <s> \n<s>b", r#""a" 0 0 "b""#);
        check(&tokens, (false, false), true, "", "");
        check(&tokens, (false, false), true, "<s><s>", "0 0");
        check(&[("ab", Control), ("bcd", Control)], (false, false), true, "abcd", r#""a" 1"#);
    }
}
