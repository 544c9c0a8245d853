//! The Ollama API.
//!
//! Source: Ollama's `docs/api.md` and the types of its Python client. Not supported, and refused with 400: images,
//! templates in Go's language (`template` takes Jinja).

mod answer;
mod chat;
mod generate;
mod models;
mod options;

use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use serde_json::json;

use super::openai::NO_EMBEDDINGS;
use super::with_retry;
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
    ROWS.iter()
        .fold(Router::new(), |router, (path, why)| router.route(path, any(async || Answer(Error::Unsupported(why)))))
}

/// An error in Ollama's shape.
pub(super) fn error_response(error: &Error) -> Response {
    with_retry(error, (error.status(), Json(json!({"error": error.to_string()}))).into_response())
}

/// An error is answered in the protocol's shape.
struct Answer(Error);

impl From<Error> for Answer {
    fn from(error: Error) -> Answer {
        Answer(error)
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        error_response(&self.0)
    }
}
