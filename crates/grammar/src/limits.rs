//! What is asked of an output, and what that may cost.

use serde_json::Value;

/// What an output must be.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A JSON object.
    Json,
    /// JSON that fits a schema.
    Schema(Value),
    /// Text that a regular expression matches from begin to end, in the syntax of Rust's `regex`.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A grammar in llguidance's dialect of Lark, from its rule `start`.
    Lark(String),
    /// A grammar in llama.cpp's GBNF, from its rule `root`.
    Gbnf(String),
}

/// What a grammar may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a schema as JSON, of a regular expression or grammar, of all choices.
    pub source_bytes: usize,
    /// Levels of a schema.
    pub depth: usize,
    /// Values in a schema, brackets in a grammar.
    pub n_value: usize,
    /// Characters that a regular expression stands for, its repetitions written out.
    pub n_repeated: usize,
    /// How long compiling may take.
    pub compile_ms: u64,
    /// Grammars that are compiled at once.
    pub n_compiling: usize,
    /// Compiled grammars that are kept for later requests.
    pub n_kept: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            source_bytes: 256 << 10,
            depth: 64,
            n_value: 16_384,
            n_repeated: 100_000,
            compile_ms: 10_000,
            n_compiling: 8,
            n_kept: 16,
        }
    }
}

/// Why there is no grammar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// It is too large.
    #[error("{what} has {found} {unit}, the limit is {limit}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// Found.
        found: usize,
        /// The limit.
        limit: usize,
        /// Of what kind.
        unit: &'static str,
    },
    /// It cannot be compiled.
    #[error("{what} cannot be enforced: {message}")]
    Invalid {
        /// What.
        what: &'static str,
        /// Why.
        message: String,
    },
    /// It takes too long.
    #[error("the constraint was not compiled within {limit_ms} ms: make it simpler")]
    Slow {
        /// The limit.
        limit_ms: u64,
    },
    /// Others are compiled.
    #[error("{limit} constraints are compiled at this moment: try again")]
    Busy {
        /// The limit.
        limit: usize,
    },
    /// Where a grammar ends nothing can be said.
    #[error("this model has no end token: its output cannot be constrained")]
    NoEnd,
}

impl Source {
    /// What it is, in words.
    pub fn what(&self) -> &'static str {
        match self {
            Source::Json | Source::Schema(_) => "the JSON schema",
            Source::Regex(_) => "the regular expression",
            Source::Choice(_) => "the choice",
            Source::Lark(_) | Source::Gbnf(_) => "the grammar",
        }
    }

    /// Checks size and depth, before anything is made of it.
    ///
    /// # Errors
    /// If it is over a limit.
    pub fn check(&self, limits: &Limits) -> Result<(), GrammarError> {
        let bytes = |found| within(self.what(), (found, limits.source_bytes), "bytes");
        match self {
            Source::Json => Ok(()),
            Source::Schema(schema) => check_schema(self.what(), schema, limits),
            Source::Regex(text) => {
                bytes(text.len())?;
                within(self.what(), (repeated(text), limits.n_repeated), "characters with repetitions")
            }
            Source::Choice(texts) => {
                bytes(texts.iter().map(String::len).sum())?;
                within(self.what(), (texts.len(), limits.n_value), "texts")?;
                match texts.is_empty() {
                    true => Err(GrammarError::Invalid { what: self.what(), message: "it has no texts".into() }),
                    false => Ok(()),
                }
            }
            Source::Lark(text) | Source::Gbnf(text) => {
                bytes(text.len())?;
                let n_repeated = text.lines().map(repeated).max().unwrap_or(0);
                within(self.what(), (n_repeated, limits.n_repeated), "characters in a rule with repetitions")?;
                let n_open = text.bytes().filter(|byte| b"([{".contains(byte)).count();
                within(self.what(), (n_open, limits.n_value / 4), "brackets")
            }
        }
    }
}

/// Checks a schema's size and depth.
///
/// # Errors
/// If it is over a limit, or no schema at all.
pub(crate) fn check_schema(what: &'static str, schema: &Value, limits: &Limits) -> Result<(), GrammarError> {
    if !schema.is_object() && !schema.is_boolean() {
        let message = format!("it is {}, expected an object", kind(schema));
        return Err(GrammarError::Invalid { what, message });
    }
    let mut rest = vec![(schema, 1)];
    let (mut n_value, mut n_byte) = (0, 0);
    while let Some((value, depth)) = rest.pop() {
        n_value += 1;
        within(what, (depth, limits.depth), "levels")?;
        within(what, (n_value, limits.n_value), "values")?;
        match value {
            Value::Array(items) => rest.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(map) => {
                if let Some(pattern) = map.get("pattern").and_then(Value::as_str) {
                    within(what, (repeated(pattern), limits.n_repeated), "characters with repetitions in a pattern")?;
                }
                n_byte += map.keys().map(String::len).sum::<usize>();
                rest.extend(map.values().map(|item| (item, depth + 1)));
            }
            Value::String(text) => n_byte += text.len(),
            _ => n_byte += 8,
        }
        within(what, (n_byte, limits.source_bytes), "bytes")?;
    }
    Ok(())
}

/// Characters that a regular expression stands for, its numbered repetitions written out.
fn repeated(text: &str) -> usize {
    // For each open group: what it has so far, and its last part.
    let mut groups = vec![(0_usize, 0_usize)];
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        let part = match c {
            '(' => {
                groups.push((0, 0));
                continue;
            }
            ')' if groups.len() > 1 => {
                let (sum, last) = groups.pop().unwrap_or_default();
                sum.saturating_add(last).max(1)
            }
            '{' => {
                let inner: String = rest.clone().take_while(|c| c.is_ascii_digit() || *c == ',').collect();
                let most = inner.split(',').filter_map(|n| n.parse::<usize>().ok()).max();
                if let (Some(most), Some((_, last))) = (most, groups.last_mut()) {
                    *last = last.saturating_mul(most.max(1));
                    let after = &rest.as_str()[inner.len()..];
                    rest = after.strip_prefix('}').unwrap_or(after).chars();
                }
                continue;
            }
            '[' => {
                let mut escaped = false;
                for c in rest.by_ref() {
                    if c == ']' && !escaped {
                        break;
                    }
                    escaped = c == '\\' && !escaped;
                }
                1
            }
            '\\' => {
                rest.next();
                1
            }
            _ => 1,
        };
        if let Some((sum, last)) = groups.last_mut() {
            *sum = sum.saturating_add(std::mem::replace(last, part));
        }
    }
    groups.iter().fold(0, |all, (sum, last)| all.saturating_add(*sum).saturating_add(*last))
}

fn within(what: &'static str, (found, limit): (usize, usize), unit: &'static str) -> Result<(), GrammarError> {
    if found > limit { Err(GrammarError::Limit { what, found, limit, unit }) } else { Ok(()) }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a bool",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_are_counted_written_out() {
        let rows = [
            ("abc", 3),
            ("a{3}b", 4),
            ("(ab){2,5}c", 11),
            ("(a{10}){10}{10}", 1000),
            ("[a-z{9}]{4}\\{5}", 4 + 3),
            ("(a{100000}){100000}{100000}{100000}{100000}", usize::MAX),
            ("((a{2}", 2),
            ("a{,}", 3),
        ];
        for (text, want) in rows {
            assert_eq!(repeated(text), want, "{text}");
        }
    }
}
