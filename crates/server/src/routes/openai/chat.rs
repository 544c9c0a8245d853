//! `POST /v1/chat/completions`.

mod reply;
mod request;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::{Answer, OpenAi, StreamOptions, Total, logprobs};
use crate::app::Lease;
use crate::generate::Event;
use crate::routes::Protocol;
use crate::routes::guard::Asker;
use crate::routes::wire::{self, Gone, Pieces};
use crate::{App, Generation};
use reply::{Head, Reply};
use request::Request;
pub(super) use request::max_tokens;

pub(super) async fn create(
    State(app): State<App>,
    Extension(asker): Extension<Asker>,
    body: Body,
) -> Result<Response, Answer> {
    let mut wire: Request = wire::read(&app, body).await?;
    let (streams, options) = (wire.stream.unwrap_or(false), wire.stream_options.take().unwrap_or_default());
    let job = wire.into_job()?.of(asker.0)?;
    let with_logprobs = job.logprobs.is_some();
    let lease = app.lease(&job.model, None).await?;
    let head = Head::new(&lease.model.card.name, with_logprobs);
    let generation = wire::start(&lease.model, job).await?;
    if streams {
        return Ok(wire::stream("text/event-stream", |pieces| async move {
            write(&pieces, lease, generation, head, options).await
        }));
    }
    Ok(Json(collect(generation, head).await?).into_response())
}

async fn collect(mut generation: Generation, head: Head) -> Result<serde_json::Value, Answer> {
    let mut total = Total { n_prompt: generation.n_prompt(), ..Total::default() };
    let mut replies: Vec<Reply> = (0..generation.n_choice()).map(|_| Reply::default()).collect();
    let mut prompt = None;
    while let Some(event) = generation.next().await {
        match event? {
            // All choices have one prompt.
            Event::Read { logprobs, .. } => prompt = Some(logprobs::of_prompt(&logprobs)),
            Event::Grown { choice, deltas, logprobs } => replies[choice].grow(deltas, logprobs),
            Event::Ended { choice, finish, usage, .. } => {
                replies[choice].finish = Some(finish);
                total.add(&usage);
            }
        }
    }
    let mut whole = head.whole(replies, &total);
    if let Some(prompt) = prompt {
        whole["prompt_logprobs"] = prompt;
    }
    Ok(whole)
}

/// Writes the answer as server-sent events. Owns the model, so that it stays loaded.
async fn write(
    pieces: &Pieces,
    lease: Lease,
    mut generation: Generation,
    head: Head,
    options: StreamOptions,
) -> Result<(), Gone> {
    let mut total = Total { n_prompt: generation.n_prompt(), ..Total::default() };
    for choice in 0..generation.n_choice() {
        pieces.event(&head.chunk(choice, json!({"role": "assistant", "content": ""}), None)).await?;
    }
    let mut n_call = vec![0; generation.n_choice()];
    while let Some(event) = generation.next().await {
        match event {
            // Refused with `stream`.
            Ok(Event::Read { .. }) => {}
            Ok(Event::Grown { choice, deltas, logprobs }) => {
                for chunk in head.chunks(choice, &deltas, &logprobs, &mut n_call[choice]) {
                    pieces.event(&chunk).await?;
                }
            }
            Ok(Event::Ended { choice, finish, usage, .. }) => {
                total.add(&usage);
                pieces.event(&head.chunk(choice, json!({}), Some(finish))).await?;
            }
            Err(error) => {
                pieces.event(&OpenAi::error_body(&error)).await?;
                break;
            }
        }
    }
    drop(lease);
    if options.include_usage {
        pieces.event(&head.usage(&total)).await?;
    }
    pieces.raw("data: [DONE]\n\n".to_owned()).await
}
