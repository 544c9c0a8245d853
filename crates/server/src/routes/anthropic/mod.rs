//! The Anthropic API: `POST /v1/messages` and `POST /v1/messages/count_tokens`.
//!
//! Source: Anthropic's API reference and the types of its Python client. What cannot be done is refused with 400: images,
//! documents, tools that the server would run.

mod reply;
mod request;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::Protocol;
use super::guard::Asker;
use super::wire::{self, Gone, Pieces};
use crate::app::Lease;
use crate::generate::Event;
use crate::{App, Error, Generation};
use reply::{Reply, Stream};
use request::Request;

pub(super) fn routes() -> Router<App> {
    Router::new().route("/v1/messages", post(create)).route("/v1/messages/count_tokens", post(count))
}

/// Anthropic's protocol.
pub(super) struct Anthropic;

impl Protocol for Anthropic {
    fn error_body(error: &Error) -> Value {
        let kind = match error.status().as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        };
        json!({"type": "error", "error": {"type": kind, "message": error.to_string()}})
    }
}

type Answer = super::Answer<Anthropic>;

async fn create(State(app): State<App>, Extension(asker): Extension<Asker>, body: Body) -> Result<Response, Answer> {
    let wire: Request = wire::read(&app, body).await?;
    let streams = wire.stream.unwrap_or(false);
    let job = wire.into_job()?.of(asker.0)?;
    let lease = app.lease(&job.model, None).await?;
    let generation = wire::start(&lease.model, job).await?;
    if streams {
        return Ok(wire::stream("text/event-stream", |pieces| async move { write(&pieces, lease, generation).await }));
    }
    Ok(Json(collect(&lease, generation).await?).into_response())
}

async fn count(State(app): State<App>, Extension(asker): Extension<Asker>, body: Body) -> Result<Response, Answer> {
    let wire: Request = wire::read(&app, body).await?;
    let job = wire.into_counted_job()?;
    asker.check(&job.model)?;
    let lease = app.lease(&job.model, None).await?;
    let n_prompt = wire::count(&lease.model, job).await?;
    Ok(Json(json!({"input_tokens": n_prompt})).into_response())
}

async fn collect(lease: &Lease, mut generation: Generation) -> Result<Value, Answer> {
    let mut reply = Reply::new(&lease.model.card.name);
    while let Some(event) = generation.next().await {
        match event? {
            Event::Grown { deltas, .. } => deltas.into_iter().for_each(|delta| reply.grow(delta)),
            // This API cannot ask for it.
            Event::Read { .. } => {}
            Event::Ended { finish, stop, usage, .. } => return Ok(reply.whole(finish, stop, &usage)),
        }
    }
    Err(Error::Model("it ended without an answer".to_owned()).into())
}

/// Writes the answer as server-sent events. Owns the model, so that it stays loaded.
async fn write(pieces: &Pieces, lease: Lease, mut generation: Generation) -> Result<(), Gone> {
    let mut stream = Stream::new(&lease.model.card.name);
    let mut events = vec![stream.start(generation.n_prompt())];
    loop {
        for (name, value) in events.drain(..) {
            pieces.named_event(name, &value).await?;
        }
        match generation.next().await {
            None => return Ok(()),
            Some(Ok(Event::Grown { deltas, .. })) => {
                deltas.into_iter().for_each(|delta| stream.grow(delta, &mut events));
            }
            Some(Ok(Event::Read { .. })) => {}
            Some(Ok(Event::Ended { finish, stop, usage, .. })) => stream.end(finish, stop, &usage, &mut events),
            Some(Err(error)) => return pieces.named_event("error", &Anthropic::error_body(&error)).await,
        }
    }
}
