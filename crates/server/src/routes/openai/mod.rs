//! The OpenAI API.
//!
//! Source: OpenAI's OpenAPI description; the fields beyond it are llama.cpp's. What cannot be done is refused with 400,
//! never ignored: audio, images.

mod chat;
mod completions;
mod logprobs;
mod models;

use axum::Router;
use axum::routing::{get, post};
use mlxr_engine::{SubmitError, Usage};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Protocol;
use crate::{App, Error, Finish};
pub(super) use logprobs::of_chat as chat_logprobs;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*name}", get(models::show))
        .route("/v1/embeddings", post(async || Answer::from(Error::Unsupported(NO_EMBEDDINGS))))
        .route("/v1/responses", post(async || Answer::from(Error::Unsupported(NO_RESPONSES))))
}

pub(super) const NO_EMBEDDINGS: &str = "this version computes no embeddings";
const NO_RESPONSES: &str = "this version has no responses API: use /v1/chat/completions";

/// OpenAI's protocol.
pub(super) struct OpenAi;

impl Protocol for OpenAi {
    fn error_body(error: &Error) -> Value {
        let status = error.status().as_u16();
        let kind = match status {
            401 => "authentication_error",
            404 => "not_found_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            503 => "unavailable_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        let code = match error {
            Error::Submit(SubmitError::TooLong { .. }) => json!("context_length_exceeded"),
            Error::Load(crate::LoadError::NotFound { .. }) => json!("model_not_found"),
            _ => Value::Null,
        };
        json!({"error": {"message": error.to_string(), "type": kind, "param": error.param(), "code": code}})
    }
}

type Answer = super::Answer<OpenAi>;

/// `"a"` or `["a", "b"]`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            OneOrMany::One(text) => vec![text],
            OneOrMany::Many(texts) => texts,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

fn finish_text(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
        Finish::ToolCalls => "tool_calls",
    }
}

/// What all choices cost together.
#[derive(Debug, Default, Clone, Copy)]
struct Total {
    n_prompt: usize,
    n_generated: usize,
    n_cached: usize,
    times: (u128, u128),
}

impl Total {
    fn add(&mut self, usage: &Usage) {
        self.n_generated += usage.n_generated;
        // Choices of a prompt share it, so that it counts once, and so do its cached tokens.
        self.n_cached = self.n_cached.max(usage.n_cached.min(self.n_prompt));
        self.times.0 = self.times.0.max(usage.prefill.as_micros());
        self.times.1 = self.times.1.max(usage.decode.as_micros());
    }

    fn usage(&self) -> Value {
        json!({
            "prompt_tokens": self.n_prompt,
            "completion_tokens": self.n_generated,
            "total_tokens": self.n_prompt + self.n_generated,
            "prompt_tokens_details": {"cached_tokens": self.n_cached},
        })
    }

    /// Times as llama.cpp reports them.
    fn timings(&self) -> Value {
        let (prompt_ms, predicted_ms) = (self.times.0 as f64 / 1e3, self.times.1 as f64 / 1e3);
        let rate = |n: usize, ms: f64| if ms > 0.0 { n as f64 / ms * 1e3 } else { 0.0 };
        let n_prompt = self.n_prompt.saturating_sub(self.n_cached);
        json!({
            "cache_n": self.n_cached,
            "prompt_n": n_prompt,
            "prompt_ms": prompt_ms,
            "prompt_per_second": rate(n_prompt, prompt_ms),
            "predicted_n": self.n_generated,
            "predicted_ms": predicted_ms,
            "predicted_per_second": rate(self.n_generated, predicted_ms),
        })
    }
}
