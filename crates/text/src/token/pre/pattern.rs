//! One split pattern, compiled so that no text makes it slow.
//!
//! Model patterns need one thing that a finite automaton lacks: `\s+(?!\S)`, spaces up to but not
//! including the one before a word. It nearly always stands last, so it is taken off the pattern and
//! done by hand: a run of white space that no earlier alternative takes gives back its last character
//! when a word follows. What remains is a regular language. A pattern that is not regular even then
//! (a model file may hold any) runs on a backtracking engine with a limit on its steps.

use super::super::error::TokenError;
use super::super::limits;
use regex_automata::meta::Regex;
use regex_automata::{Anchored, Input, PatternID};

/// Steps that a backtracking pattern may take for one word.
const BACKTRACK_LIMIT: usize = 100_000_000;

/// What happens to white space that the main pattern leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tail {
    /// Nothing special.
    None,
    /// `\s+(?!\S)|\s+`: the last character before a word is left for the next match.
    KeepLast,
    /// `\s{512}(?!\S)|\s{256}(?!\S)|...|\s{1,2}(?!\S)|\s{1}`: powers of two (Jais 2).
    PowersOfTwo,
}

/// Endings of patterns, and what they mean. Longest first.
const TAILS: &[(&str, Tail)] = &[
    (
        r"|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}",
        Tail::PowersOfTwo,
    ),
    (r"|\s+(?!\S)|\s+", Tail::KeepLast),
    (r"|\s+(?!\S)|\s", Tail::KeepLast),
    (r"|\s+(?!\S)", Tail::KeepLast),
];

/// Patterns with possessive quantifiers in use, and the same without. Each was checked: no match of
/// theirs changes, because what a quantifier would give back cannot start the rest.
/// Source: OpenAI's `tiktoken_ext/openai_public.py`, Alibaba's `tokenization_qwen.py`.
const POSSESSIVE: &[(&str, &str)] = &[
    (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+$|\s*[\r\n]|\s+(?!\S)|\s",
    ),
    (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    ),
    (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    ),
    (
        r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
        r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+$|\s+(?!\S)|\s",
    ),
];

/// A compiled pattern.
#[derive(Debug)]
pub(super) struct Pattern(Engine);

#[derive(Debug)]
enum Engine {
    /// Pattern 0 is the main one, pattern 1 the white space of `tail`.
    Automaton {
        regex: Regex,
        tail: Tail,
    },
    Backtrack(Box<fancy_regex::Regex>),
}

impl Pattern {
    /// Compiles `pattern`, in the syntax that Hugging Face's and OpenAI's tokenizers share.
    ///
    /// # Errors
    /// A pattern that neither engine accepts, or that passes a limit.
    pub fn new(pattern: &str) -> Result<Pattern, TokenError> {
        limits::check("split pattern", pattern.len(), limits::MAX_PATTERN_BYTES, "MAX_PATTERN_BYTES")?;
        let known = POSSESSIVE.iter().find(|row| row.0 == pattern);
        let pattern = known.map_or(pattern, |row| row.1);
        if !has_possessive(pattern) {
            let tail = TAILS.iter().find(|(text, _)| pattern.len() > text.len() && pattern.ends_with(text));
            let (cut, tail) = tail.map_or((0, Tail::None), |&(text, tail)| (text.len(), tail));
            let main = &pattern[..pattern.len() - cut];
            let config =
                Regex::config().nfa_size_limit(Some(limits::MAX_COMPILED_BYTES)).hybrid_cache_capacity(16 << 20);
            let regex = match tail {
                Tail::None => Regex::builder().configure(config).build(main),
                _ => Regex::builder().configure(config).build_many(&[main, r"\s+"]),
            };
            if let Ok(regex) = regex {
                return Ok(Pattern(Engine::Automaton { regex, tail }));
            }
        }
        let regex = fancy_regex::RegexBuilder::new(pattern)
            .backtrack_limit(BACKTRACK_LIMIT)
            .delegate_size_limit(limits::MAX_COMPILED_BYTES)
            .build();
        let regex = regex.map_err(|e| {
            let found = format!("`{}`: {e}", pattern.chars().take(200).collect::<String>());
            TokenError::malformed("tokenizer", "split pattern", found, "the pattern does not compile")
        })?;
        Ok(Pattern(Engine::Backtrack(Box::new(regex))))
    }

    /// Calls `each` with consecutive pieces of `text` and whether the pattern matched them: matches,
    /// and the text between them.
    ///
    /// # Errors
    /// What `each` returns; [`TokenError::Pattern`] when a backtracking pattern gives up.
    pub fn pieces<'t>(
        &self,
        text: &'t str,
        each: &mut dyn FnMut(&'t str, bool) -> Result<(), TokenError>,
    ) -> Result<(), TokenError> {
        match &self.0 {
            Engine::Automaton { regex, tail } => automaton_pieces(regex, *tail, text, each),
            Engine::Backtrack(regex) => backtrack_pieces(regex, text, each),
        }
    }
}

/// Matches follow each other without a gap in most text: try at the position first, search after.
fn automaton_pieces<'t>(
    regex: &Regex,
    tail: Tail,
    text: &'t str,
    each: &mut dyn FnMut(&'t str, bool) -> Result<(), TokenError>,
) -> Result<(), TokenError> {
    let mut at = 0;
    while at < text.len() {
        let here = Input::new(text).range(at..).anchored(Anchored::Yes);
        let found = match regex.search_half(&here) {
            Some(half) if half.offset() > at => Some((half.pattern(), at, half.offset())),
            _ => {
                let mut later = regex.search(&Input::new(text).range(at..));
                if later.is_some_and(|m| m.is_empty()) {
                    later = regex.find_iter(Input::new(text).range(at..)).find(|m| !m.is_empty());
                }
                later.map(|m| (m.pattern(), m.start(), m.end()))
            }
        };
        let Some((pattern, start, end)) = found else {
            return each(&text[at..], false);
        };
        if start > at {
            each(&text[at..start], false)?;
        }
        at = if pattern == PatternID::ZERO {
            each(&text[start..end], true)?;
            end
        } else {
            spaces(tail, text, (start, end), each)?
        };
    }
    Ok(())
}

/// Cuts the white space `text[run.0..run.1]`; returns where to go on.
fn spaces<'t>(
    tail: Tail,
    text: &'t str,
    (start, end): (usize, usize),
    each: &mut dyn FnMut(&'t str, bool) -> Result<(), TokenError>,
) -> Result<usize, TokenError> {
    let run = &text[start..end];
    let last = run.char_indices().next_back().map_or(0, |(i, _)| i);
    let before_word = end < text.len();
    match tail {
        Tail::KeepLast | Tail::None => {
            let end = if before_word && last > 0 { start + last } else { end };
            each(&text[start..end], true)?;
            Ok(end)
        }
        Tail::PowersOfTwo => {
            let mut rest = if before_word { &run[..last] } else { run };
            let kept = if before_word { 1 } else { 0 };
            while !rest.is_empty() {
                let n = rest.chars().take(512).count();
                let take = [512, 256, 128, 64, 32, 16, 8, 4, 2, 1].into_iter().find(|&k| k <= n).unwrap_or(1);
                let cut = rest.char_indices().nth(take).map_or(rest.len(), |(i, _)| i);
                each(&rest[..cut], true)?;
                rest = &rest[cut..];
            }
            if kept == 1 && last == 0 {
                each(run, true)?;
                return Ok(end);
            }
            Ok(end - kept * (run.len() - last))
        }
    }
}

fn backtrack_pieces<'t>(
    regex: &fancy_regex::Regex,
    text: &'t str,
    each: &mut dyn FnMut(&'t str, bool) -> Result<(), TokenError>,
) -> Result<(), TokenError> {
    let mut at = 0;
    for found in regex.find_iter(text) {
        let found = found.map_err(|e| TokenError::Pattern(e.to_string()))?;
        if found.start() > at {
            each(&text[at..found.start()], false)?;
        }
        if !found.as_str().is_empty() {
            each(&text[found.start()..found.end()], true)?;
        }
        at = found.end();
    }
    if at < text.len() { each(&text[at..], false) } else { Ok(()) }
}

/// Whether a quantifier is followed by `+`: possessive to some engines, a second quantifier to the
/// automaton, which would then match something else.
fn has_possessive(pattern: &str) -> bool {
    let (mut escaped, mut in_class, mut after_quantifier) = (false, 0_u32, false);
    // In `\p{L}` the braces name a property and are no quantifier.
    let mut in_name = false;
    for c in pattern.chars() {
        if escaped {
            (escaped, after_quantifier) = (false, false);
            in_name = matches!(c, 'p' | 'P' | 'x' | 'u' | 'U');
            continue;
        }
        match c {
            '\\' => escaped = true,
            '[' => in_class += 1,
            ']' => in_class = in_class.saturating_sub(1),
            '+' if in_class == 0 && after_quantifier => return true,
            _ => {}
        }
        after_quantifier = in_class == 0 && matches!(c, '?' | '*' | '+' | '}') && !(c == '}' && in_name);
        in_name &= c != '}';
    }
    false
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // tests
mod tests {
    use super::*;

    fn pieces(pattern: &Pattern, text: &str) -> Vec<String> {
        let mut out = Vec::new();
        pattern
            .pieces(text, &mut |p, _| {
                out.push(p.to_string());
                Ok(())
            })
            .unwrap();
        out
    }

    /// The automaton with its hand-made tail against a backtracking engine on the whole pattern.
    #[test]
    fn tails_cut_as_the_lookahead_does() {
        let main = r"'s|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+";
        let seed = 0x5eed_0002_u64;
        println!("seed {seed:#x}");
        let mut state = seed;
        for (ending, _) in TAILS {
            let whole = format!("{main}{ending}");
            let fast = Pattern::new(&whole).unwrap();
            assert!(matches!(fast.0, Engine::Automaton { .. }), "{ending}");
            let slow = Pattern(Engine::Backtrack(Box::new(fancy_regex::Regex::new(&whole).unwrap())));
            for _ in 0..400 {
                let mut text = String::new();
                for _ in 0..24 {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let pick = ["a", " ", "\n", "\u{3000}", "1", "é", "!", "  ", "\t", "\r"];
                    text += &pick[(state >> 33) as usize % pick.len()].repeat(1 + (state >> 60) as usize % 6);
                }
                assert_eq!(pieces(&fast, &text), pieces(&slow, &text), "{ending} on {text:?}");
            }
        }
    }

    #[test]
    fn possessive_patterns_keep_their_matches() {
        for (with, without) in POSSESSIVE {
            let slow = Pattern(Engine::Backtrack(Box::new(fancy_regex::Regex::new(with).unwrap())));
            let fast = Pattern::new(with).unwrap();
            assert!(matches!(fast.0, Engine::Automaton { .. }), "{without}");
            for text in
                ["  a b!!\n\n c'LL 12345  ", "x\r\n \r\n y", " \n ", "!!\n \n", "", "   ", "a'sb 's", "\u{a0}\u{a0}z"]
            {
                assert_eq!(pieces(&fast, text), pieces(&slow, text), "{with} on {text:?}");
            }
        }
        assert!(has_possessive(r"\p{L}++") && has_possessive("a{1,3}+") && !has_possessive(r"[?+]+\++"));
    }
}
