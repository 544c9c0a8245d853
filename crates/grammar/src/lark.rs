//! Writing Lark.

use mlxr_text::token::{Encode, Tokenizer};

/// A literal.
pub(crate) fn literal(text: &str) -> String {
    // The lexer takes JSON strings, but for this character.
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// A regular expression between slashes. `text` is in the syntax of Rust's `regex`.
pub(crate) fn regex(text: &str) -> String {
    format!("/{}/", llguidance::regex_to_lark(text, ""))
}

/// A mark of a format: the control token of this name, or its text.
pub(crate) fn mark(tokenizer: &Tokenizer, text: &str) -> String {
    control(tokenizer, text).unwrap_or_else(|| literal(text))
}

/// The control token of this name, as Lark; `None` if the vocabulary has none.
pub(crate) fn control(tokenizer: &Tokenizer, text: &str) -> Option<String> {
    match tokenizer.encode(text, Encode::TEMPLATE).ok()?.as_slice() {
        [id] if tokenizer.is_special(*id) => Some(format!("<[{id}]>")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_escaped() {
        for (text, want) in [("a\"b", r#""a\"b""#), ("\n\u{1}\u{7f}", r#""\n\u0001\u007f""#), ("é", "\"é\"")] {
            assert_eq!(literal(text), want);
        }
        assert_eq!(regex("a/b\\d"), r"/a\/b\d/");
    }
}
