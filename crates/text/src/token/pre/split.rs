//! A list of rules. Each rule cuts every piece that the rules before it left.

use super::super::error::TokenError;
use super::pattern::Pattern;

/// One rule of a pre-tokenizer. Matches and the text between them both become pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// A pattern's matches.
    Split(&'static str),
    /// A pattern's matches, each cut further into groups of three characters counted from its end.
    ThreesFromEnd(&'static str),
}

/// Compiled rules. Without any, a text is one piece.
#[derive(Debug, Default)]
pub struct Splitter {
    steps: Vec<(Pattern, bool)>,
}

impl Splitter {
    /// Compiles a row of the table.
    ///
    /// # Errors
    /// A pattern that does not compile.
    pub fn new(rules: &[Rule]) -> Result<Splitter, TokenError> {
        let compile = |rule: &Rule| match rule {
            Rule::Split(p) => Ok((Pattern::new(p)?, false)),
            Rule::ThreesFromEnd(p) => Ok((Pattern::new(p)?, true)),
        };
        Ok(Splitter { steps: rules.iter().map(compile).collect::<Result<_, TokenError>>()? })
    }

    /// Compiles patterns of a model file.
    ///
    /// # Errors
    /// A pattern that does not compile, or that passes a limit.
    pub fn of_patterns(patterns: &[impl AsRef<str>]) -> Result<Splitter, TokenError> {
        let compile = |pattern: &_| Ok((Pattern::new(AsRef::as_ref(pattern))?, false));
        Ok(Splitter { steps: patterns.iter().map(compile).collect::<Result<_, TokenError>>()? })
    }

    /// Calls `each` with the pieces of `text`, in order; together they are `text`.
    ///
    /// # Errors
    /// What `each` returns, or a pattern that gives up on this text.
    pub fn split<'t>(
        &self,
        text: &'t str,
        each: &mut dyn FnMut(&'t str) -> Result<(), TokenError>,
    ) -> Result<(), TokenError> {
        descend(&self.steps, text, each)
    }
}

fn descend<'t>(
    steps: &[(Pattern, bool)],
    text: &'t str,
    each: &mut dyn FnMut(&'t str) -> Result<(), TokenError>,
) -> Result<(), TokenError> {
    let Some(((pattern, threes), rest)) = steps.split_first() else {
        return each(text);
    };
    pattern.pieces(text, &mut |piece, matched| {
        if !(matched && *threes) {
            return descend(rest, piece, each);
        }
        let mut piece = piece;
        let mut left = piece.chars().count();
        while left > 0 {
            let take = if left % 3 == 0 { 3 } else { left % 3 };
            let cut = piece.char_indices().nth(take).map_or(piece.len(), |(i, _)| i);
            descend(rest, &piece[..cut], each)?;
            piece = &piece[cut..];
            left -= take;
        }
        Ok(())
    })
}
