//! Why a request is refused or fails. Each protocol writes it in its own shape.

use axum::http::StatusCode;
use mlxr_engine::SubmitError;
use mlxr_grammar::GrammarError;
use mlxr_text::chat::TemplateError;
use mlxr_text::token::TokenError;

use crate::app::LoadError;

/// Seconds until a model that is in use may be idle: nobody knows.
const RETRY_MODEL_S: u64 = 10;

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request is wrong, or asks for what cannot be done.
    #[error("{message}")]
    Invalid {
        /// The field, as the wire names it.
        param: Option<String>,
        /// What was found, what is expected.
        message: String,
    },
    /// The body is over its limit.
    #[error("the request's body is over the limit of {limit} bytes")]
    BodyTooLarge {
        /// The limit.
        limit: usize,
    },
    /// The headers are over their limit.
    #[error("the request's headers have {found} bytes, the limit is {limit}")]
    HeadersTooLarge {
        /// Found.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// A path or method that does not exist.
    #[error("there is no {0}")]
    NoRoute(String),
    /// What the protocol has and this server has not.
    #[error("{0}")]
    Unsupported(&'static str),
    /// The request came under a name that this server does not have, or from a page that may not use it.
    #[error("{0}")]
    Forbidden(String),
    /// The request shows no key that is known.
    #[error("this server answers only those who show a key: send `Authorization: Bearer KEY`")]
    Unauthorized,
    /// The tenant has used what it may.
    #[error("{message}: try again in {retry_s} s")]
    Quota {
        /// What is used up.
        message: String,
        /// When there may be more, in seconds from now.
        retry_s: u64,
    },
    /// The model cannot be had.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The engine refused the sequence.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The template refused the messages or failed on them.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The prompt cannot be encoded.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The answer cannot be constrained as asked.
    #[error("{error}")]
    Grammar {
        /// The field that asks for it.
        param: String,
        /// Why not.
        error: GrammarError,
    },
    /// The model failed while it answered.
    #[error("the model failed: {0}")]
    Model(String),
    /// Models that are in use leave no room for another.
    #[error(
        "{n_model} models in use take {} MiB, and this one {} MiB of {} MiB (memory, max_models): try again when one is \
         idle",
        .bytes >> 20, .least >> 20, .limit >> 20
    )]
    NoRoom {
        /// Models loaded.
        n_model: usize,
        /// Bytes that they may take.
        bytes: u64,
        /// Bytes that this one takes at least.
        least: u64,
        /// Bytes that all may take.
        limit: u64,
    },
}

impl Error {
    /// An error of the field `param`.
    pub fn invalid(param: &str, message: impl Into<String>) -> Error {
        Error::Invalid { param: Some(param.to_owned()), message: message.into() }
    }

    /// The field at fault, if one is.
    pub fn param(&self) -> Option<&str> {
        match self {
            Error::Invalid { param, .. } => param.as_deref(),
            Error::Grammar { param, .. } => Some(param),
            Error::Load(LoadError::NotFound { .. }) => Some("model"),
            Error::Submit(SubmitError::Param(error)) => Some(error.field),
            Error::Submit(SubmitError::Limit { field, .. } | SubmitError::Token { field, .. }) => Some(field),
            _ => None,
        }
    }

    /// Seconds after which to ask again, where that may help.
    pub fn retry_s(&self) -> Option<u64> {
        match self {
            Error::Submit(SubmitError::ClientFull { retry_s, .. } | SubmitError::QueueFull { retry_s, .. }) => {
                Some(*retry_s)
            }
            Error::Quota { retry_s, .. } => Some(*retry_s),
            Error::NoRoom { .. } => Some(RETRY_MODEL_S),
            Error::Grammar { error: GrammarError::Busy { .. }, .. } => Some(1),
            _ => None,
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        match self {
            Error::Grammar { error: GrammarError::Busy { .. }, .. } => StatusCode::SERVICE_UNAVAILABLE,
            Error::Grammar { .. } => StatusCode::BAD_REQUEST,
            Error::Invalid { .. } | Error::Template(_) | Error::Token(_) => StatusCode::BAD_REQUEST,
            Error::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Error::HeadersTooLarge { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Error::NoRoute(_) | Error::Load(LoadError::NotFound { .. }) => StatusCode::NOT_FOUND,
            Error::Unsupported(_) => StatusCode::NOT_IMPLEMENTED,
            Error::Forbidden(_) => StatusCode::FORBIDDEN,
            Error::Unauthorized => StatusCode::UNAUTHORIZED,
            Error::Submit(SubmitError::ClientFull { .. }) | Error::Quota { .. } => StatusCode::TOO_MANY_REQUESTS,
            Error::Submit(SubmitError::QueueFull { .. }) | Error::NoRoom { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Error::Submit(SubmitError::Dead(_)) | Error::Load(LoadError::Failed { .. }) | Error::Model(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Error::Submit(_) => StatusCode::BAD_REQUEST,
        }
    }
}
