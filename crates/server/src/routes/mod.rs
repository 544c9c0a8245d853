//! One module for each protocol. A route checks its request in `into_job` and writes the answer's events.

mod anthropic;
mod constraint;
mod guard;
mod health;
mod metrics;
mod ollama;
mod openai;
mod wire;

use axum::Router;
use axum::http::{HeaderValue, Method, Uri, header};
use axum::middleware;
use axum::response::Response;

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
        path if path.starts_with("/v1/messages") => anthropic::error_response(error),
        path if path.starts_with("/v1/") => openai::error_response(error),
        _ => ollama::error_response(error),
    }
}

/// Says when to ask again, where that may help.
fn with_retry(error: &Error, mut response: Response) -> Response {
    if let Some(seconds) = error.retry_s() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
