//! The Ollama API.
//!
//! Source: Ollama's `docs/api.md` and the types of its Python client. Not supported, and refused with 400: `format`
//! (constraints of the output), images, templates in Go's language (`template` takes Jinja).

mod answer;
mod chat;
mod generate;
mod models;
mod options;

use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;

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
