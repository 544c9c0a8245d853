//! `POST /api/generate`.

use std::time::Instant;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use mlxr_text::chat::{Conversation, Message};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Answer;
use super::answer::{Part, Reply};
use super::options::Common;
use crate::app::Lease;
use crate::routes::guard::Asker;
use crate::routes::wire;
use crate::{App, Chat, Error, Job, Prompt};

#[derive(Debug, Deserialize)]
struct Request {
    #[serde(flatten)]
    common: Common,
    #[serde(default)]
    prompt: String,
    #[serde(default)]
    suffix: String,
    #[serde(default)]
    system: String,
    #[serde(default)]
    template: String,
    context: Option<Vec<u32>>,
    #[serde(default)]
    raw: bool,
    images: Option<Vec<Value>>,
}

impl Request {
    /// Every check of this endpoint. A model without a template continues the prompt as it is.
    fn into_job(self, lease: &Lease) -> Result<Job, Error> {
        if self.images.is_some_and(|images| !images.is_empty()) {
            return Err(Error::invalid("images", "`images` are not supported: this model takes only text"));
        }
        let templates = !(self.system.is_empty() && self.template.is_empty());
        if self.raw && (templates || self.context.is_some()) {
            return Err(Error::invalid("raw", "raw mode does not support template, system, or context"));
        }
        let plain = self.raw || (lease.model.template.is_none() && !templates);
        let prompt = if !self.suffix.is_empty() {
            Prompt::Infill { prefix: self.prompt, suffix: self.suffix }
        } else if plain {
            Prompt::Text(self.prompt)
        } else {
            let mut messages = Vec::new();
            if !self.system.is_empty() {
                messages.push(Message::new("system", &self.system));
            }
            messages.push(Message::new("user", &self.prompt));
            let mut conversation = Conversation::new(messages);
            self.common.think()?.apply(&mut conversation);
            let template = jinja(self.template)?;
            let context = self.context.unwrap_or_default();
            Prompt::Chat(Box::new(Chat { template, context, ..Chat::new(conversation) }))
        };
        self.common.fill(Job::new(&self.common.model, prompt))
    }
}

/// The template of the request, unless it is in Go's language.
fn jinja(template: String) -> Result<Option<String>, Error> {
    let marks = ["{{ .", "{{.", "{{- .", "{{-.", "{{ if ", "{{- if ", "{{ range ", "{{- range "];
    if marks.iter().any(|mark| template.contains(mark)) {
        return Err(Error::invalid("template", "`template` is in Go's template language, expected Jinja"));
    }
    Ok(Some(template).filter(|template| !template.is_empty()))
}

pub(super) async fn create(
    State(app): State<App>,
    Extension(asker): Extension<Asker>,
    body: Body,
) -> Result<Response, Answer> {
    let start = Instant::now();
    let wire: Request = wire::read(&app, body).await?;
    asker.check(&wire.common.model)?;
    let (streams, think) = (wire.common.stream.unwrap_or(true), wire.common.think()?);
    let is_empty = wire.prompt.is_empty() && wire.suffix.is_empty() && !wire.raw;
    if is_empty && wire.common.unloads()? {
        app.unload(&wire.common.model)?;
        return Ok(Reply::idle(&wire.common.model, show, "unload"));
    }
    let lease = wire.common.lease(&app).await?;
    think.check(&lease)?;
    if is_empty {
        return Ok(Reply::idle(&lease.model.card.name, show, "load"));
    }
    let with_context = !wire.raw;
    let job = wire.into_job(&lease)?.of(asker.0)?;
    let generation = wire::start(&lease.model, job).await?;
    Reply { lease, start, show, with_context }.send(generation, streams).await
}

fn show(part: &Part, line: &mut Map<String, Value>) {
    let calls: String = part.calls.iter().map(|call| call.arguments.as_str()).collect();
    line.insert("response".to_owned(), (part.content.clone() + &calls).into());
    if !part.thinking.is_empty() {
        line.insert("thinking".to_owned(), part.thinking.as_str().into());
    }
}
