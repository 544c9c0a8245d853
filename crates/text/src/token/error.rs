//! Why a tokenizer cannot be built, or a text not encoded.

/// Errors of this module. Each message names the field, what was found and what to do.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// A file is not of the format that its name promises.
    #[error("{file}: {at}: {found}; {help}")]
    Malformed {
        /// File name or metadata key, e.g. `tokenizer.model`.
        file: &'static str,
        /// Where in it: a field, a line, a byte offset.
        at: String,
        /// What stands there.
        found: String,
        /// What was expected, or what to do.
        help: &'static str,
    },
    /// A field that the tokenizer kind needs is absent.
    #[error("{file}: `{field}` is missing; {help}")]
    Missing {
        /// File name or metadata prefix.
        file: &'static str,
        /// The absent field.
        field: &'static str,
        /// What to do.
        help: &'static str,
    },
    /// The file names a tokenizer kind or pre-tokenizer that this program does not know.
    #[error("{file}: `{field}` is `{found}`, which is not supported; known are: {known}")]
    Unsupported {
        /// File name or metadata prefix.
        file: &'static str,
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
        /// The values that are supported.
        known: String,
    },
    /// Something is larger than this program accepts.
    #[error("{what}: {found} exceeds the limit of {limit} ({name})")]
    Limit {
        /// What is too large.
        what: &'static str,
        /// Its size.
        found: usize,
        /// The limit.
        limit: usize,
        /// The limit's name in `token::limits`.
        name: &'static str,
    },
    /// The model's split pattern gave up on this text (it backtracks too much).
    #[error("the tokenizer's split pattern failed on this text: {0}; use a shorter or different text")]
    Pattern(String),
    /// Hugging Face's library refused a text.
    #[error("the tokenizer cannot encode this text: {0}")]
    Library(String),
}

impl TokenError {
    /// Shorthand for [`TokenError::Malformed`].
    pub(super) fn malformed(
        file: &'static str,
        at: impl Into<String>,
        found: impl Into<String>,
        help: &'static str,
    ) -> TokenError {
        TokenError::Malformed { file, at: at.into(), found: found.into(), help }
    }
}
