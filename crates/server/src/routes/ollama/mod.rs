//! The Ollama API.
//!
//! Source: Ollama's `docs/api.md` and the types of its Python client. Not supported, and refused with 400: images,
//! templates in Go's language (`template` takes Jinja).

mod answer;
mod chat;
mod generate;
mod models;
mod options;

use axum::Router;
use axum::routing::{any, get, post};
use serde_json::{Value, json};

use super::Protocol;
use super::openai::NO_EMBEDDINGS;
use crate::{App, Error};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/api/chat", post(chat::create))
        .route("/api/generate", post(generate::create))
        .route("/api/tags", get(models::tags))
        .route("/api/show", post(models::show))
        .route("/api/ps", get(models::ps))
        .route("/api/version", get(models::version))
        .merge(unsupported())
}

/// Routes of Ollama that this server has not.
fn unsupported() -> Router<App> {
    const MODELS: &str = "models are files in the model folder, which this server only reads: add or remove them there";
    const ROWS: [(&str, &str); 7] = [
        ("/api/embed", NO_EMBEDDINGS),
        ("/api/embeddings", NO_EMBEDDINGS),
        ("/api/pull", MODELS),
        ("/api/push", MODELS),
        ("/api/create", MODELS),
        ("/api/copy", MODELS),
        ("/api/delete", MODELS),
    ];
    ROWS.iter().fold(Router::new(), |router, (path, why)| {
        router.route(path, any(async || Answer::from(Error::Unsupported(why))))
    })
}

/// Ollama's protocol.
pub(super) struct Ollama;

impl Protocol for Ollama {
    fn error_body(error: &Error) -> Value {
        json!({"error": error.to_string()})
    }
}

type Answer = super::Answer<Ollama>;
