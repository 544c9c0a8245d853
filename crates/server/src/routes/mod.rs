//! One module for each protocol. A route checks its request in `into_job` and writes the answer's events.

mod anthropic;
mod constraint;
mod guard;
mod health;
mod metrics;
mod ollama;
mod openai;
mod wire;

use std::marker::PhantomData;

use axum::http::{HeaderValue, Method, Uri, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde_json::Value;

use crate::{App, Error};

/// All routes, behind the guards.
pub fn router(app: App) -> Router {
    let cors = guard::cors(app.config());
    Router::new()
        .merge(health::routes())
        .merge(metrics::routes())
        .merge(openai::routes())
        .merge(anthropic::routes())
        .merge(ollama::routes())
        .fallback(no_route)
        .method_not_allowed_fallback(no_route)
        .layer(middleware::from_fn_with_state(app.clone(), guard::check))
        .layer(cors)
        .with_state(app)
}

async fn no_route(method: Method, uri: Uri) -> Response {
    respond_error(uri.path(), &Error::NoRoute(format!("{method} {}", uri.path())))
}

/// An error in the shape of the protocol that `path` belongs to.
fn respond_error(path: &str, error: &Error) -> Response {
    match path {
        path if path.starts_with("/v1/messages") => respond::<anthropic::Anthropic>(error),
        path if path.starts_with("/v1/") => respond::<openai::OpenAi>(error),
        _ => respond::<ollama::Ollama>(error),
    }
}

/// A protocol, as far as all routes of it are alike.
trait Protocol {
    /// An error in its shape.
    fn error_body(error: &Error) -> Value;
}

/// An error, answered in the shape of a protocol.
struct Answer<P>(Error, PhantomData<P>);

impl<P> From<Error> for Answer<P> {
    fn from(error: Error) -> Answer<P> {
        Answer(error, PhantomData)
    }
}

impl<P: Protocol> IntoResponse for Answer<P> {
    fn into_response(self) -> Response {
        respond::<P>(&self.0)
    }
}

/// The response to an error; says when to ask again, where that may help.
fn respond<P: Protocol>(error: &Error) -> Response {
    let mut response = (error.status(), Json(P::error_body(error))).into_response();
    if let Some(seconds) = error.retry_s() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
