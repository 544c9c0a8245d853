//! What the answers of `/api/chat` and `/api/generate` have in common: lines of JSON, the last one with counts and times.

use std::time::{Duration, Instant};

use axum::Json;
use axum::response::{IntoResponse, Response};
use mlxr_engine::{TokenId, Usage};
use mlxr_text::chat::{Delta, ParsedCall};
use serde_json::{Map, Value, json};

use super::Answer;
use crate::app::Lease;
use crate::generate::Event;
use crate::routes::openai;
use crate::routes::wire::{self, Gone, Pieces};
use crate::{Error, Finish, Generation, TokenLogprob};

/// A part of an answer.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) content: String,
    pub(super) thinking: String,
    pub(super) calls: Vec<ParsedCall>,
    logprobs: Vec<TokenLogprob>,
}

impl Part {
    fn grow(&mut self, deltas: Vec<Delta>, logprobs: Vec<TokenLogprob>) {
        for delta in deltas {
            match delta {
                Delta::Content(text) => self.content.push_str(&text),
                Delta::Reasoning(text) => self.thinking.push_str(&text),
                Delta::Call(call) => self.calls.push(call),
            }
        }
        self.logprobs.extend(logprobs);
    }
}

/// An answer of one of the two endpoints.
pub(super) struct Reply {
    pub(super) lease: Lease,
    pub(super) start: Instant,
    /// Puts a part into a line, under the endpoint's names.
    pub(super) show: fn(&Part, &mut Map<String, Value>),
    /// Whether the last line has the tokens of prompt and answer, to be given back as `context`.
    pub(super) with_context: bool,
}

impl Reply {
    /// Answers with what `generation` brings, in lines if `streams`.
    pub(super) async fn send(self, generation: Generation, streams: bool) -> Result<Response, Answer> {
        match streams {
            true => {
                Ok(wire::stream("application/x-ndjson", |pieces| async move { self.write(&pieces, generation).await }))
            }
            false => Ok(Json(self.collect(generation).await?).into_response()),
        }
    }

    /// The line that says that a model was only loaded or unloaded.
    pub(super) fn idle(model: &str, show: fn(&Part, &mut Map<String, Value>), reason: &str) -> Response {
        let mut line = frame(model);
        show(&Part::default(), &mut line);
        line.insert("done".to_owned(), true.into());
        line.insert("done_reason".to_owned(), reason.into());
        Json(line).into_response()
    }

    async fn collect(&self, mut generation: Generation) -> Result<Value, Error> {
        let mut whole = Part::default();
        let mut line = None;
        while let Some(event) = generation.next().await {
            match event? {
                Event::Grown { deltas, logprobs, .. } => whole.grow(deltas, logprobs),
                // Its API cannot ask for this.
                Event::Read { .. } => {}
                Event::Ended { finish, usage, .. } => line = Some(self.last(finish, &usage, &generation, &whole)),
            }
        }
        line.map(Value::from).ok_or_else(|| Error::Model("it ended without an answer".to_owned()))
    }

    async fn write(self, pieces: &Pieces, mut generation: Generation) -> Result<(), Gone> {
        while let Some(event) = generation.next().await {
            let line = match event {
                Ok(Event::Grown { deltas, logprobs, .. }) => {
                    let mut part = Part::default();
                    part.grow(deltas, logprobs);
                    self.line(&part)
                }
                Ok(Event::Read { .. }) => continue,
                Ok(Event::Ended { finish, usage, .. }) => self.last(finish, &usage, &generation, &Part::default()),
                Err(error) => {
                    pieces.line(&json!({"error": error.to_string()})).await?;
                    break;
                }
            };
            pieces.line(&line).await?;
        }
        Ok(())
    }

    fn line(&self, part: &Part) -> Map<String, Value> {
        let mut line = frame(&self.lease.model.card.name);
        (self.show)(part, &mut line);
        line.insert("done".to_owned(), false.into());
        if !part.logprobs.is_empty() {
            line.insert("logprobs".to_owned(), openai::chat_logprobs(&part.logprobs));
        }
        line
    }

    fn last(&self, finish: Finish, usage: &Usage, generation: &Generation, part: &Part) -> Map<String, Value> {
        let mut line = self.line(part);
        line.insert("done".to_owned(), true.into());
        let reason = if finish == Finish::Length { "length" } else { "stop" };
        line.insert("done_reason".to_owned(), reason.into());
        if self.with_context {
            let context: Vec<TokenId> = [generation.prompt(0), generation.tokens(0)].concat();
            line.insert("context".to_owned(), context.into());
        }
        let mut time = |name: &str, time: Duration| {
            line.insert(name.to_owned(), u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).into());
        };
        time("total_duration", self.start.elapsed());
        time("load_duration", self.lease.load_time);
        time("prompt_eval_duration", usage.prefill);
        time("eval_duration", usage.decode);
        line.insert("prompt_eval_count".to_owned(), usage.n_prompt.into());
        line.insert("eval_count".to_owned(), usage.n_generated.into());
        line
    }
}

fn frame(model: &str) -> Map<String, Value> {
    let mut line = Map::new();
    line.insert("model".to_owned(), model.into());
    line.insert("created_at".to_owned(), wire::now_text().into());
    line
}
