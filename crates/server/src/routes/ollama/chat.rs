//! `POST /api/chat`.

use std::time::Instant;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use mlxr_text::chat::{Conversation, Message};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Answer;
use super::answer::{Part, Reply};
use super::options::Common;
use crate::routes::guard::Asker;
use crate::routes::wire;
use crate::{App, Chat, Error, Job, Prompt};

#[derive(Debug, Deserialize)]
struct Request {
    #[serde(flatten)]
    common: Common,
    #[serde(default)]
    messages: Option<Vec<WireMessage>>,
    #[serde(default)]
    tools: Option<Vec<Value>>,
}

#[derive(Debug, Deserialize)]
struct WireMessage {
    role: String,
    content: Option<String>,
    thinking: Option<String>,
    images: Option<Vec<Value>>,
    tool_calls: Option<Vec<wire::ToolCall>>,
    #[serde(alias = "name")]
    tool_name: Option<String>,
    tool_call_id: Option<String>,
}

impl Request {
    /// Every check of this endpoint. `None` when there are no messages: the model is only to be loaded.
    fn into_job(self) -> Result<Option<Job>, Error> {
        let messages = self.messages.unwrap_or_default();
        if messages.is_empty() {
            return Ok(None);
        }
        let messages = messages.into_iter().enumerate().map(|(index, wire)| message(index, wire));
        let mut conversation = Conversation::new(messages.collect::<Result<_, _>>()?);
        self.common.think()?.apply(&mut conversation);
        conversation.tools = self.tools.unwrap_or_default();
        if let Some(index) = conversation.tools.iter().position(|tool| !tool["function"]["name"].is_string()) {
            let param = format!("tools[{index}]");
            return Err(Error::invalid(&param, format!("`{param}` has no `function.name`")));
        }
        let chat = Chat { truncate: self.common.truncate.unwrap_or(true), ..Chat::new(conversation) };
        self.common.fill(Job::new(&self.common.model, Prompt::Chat(Box::new(chat)))).map(Some)
    }
}

fn message(index: usize, wire: WireMessage) -> Result<Message, Error> {
    let param = format!("messages[{index}]");
    if !["system", "user", "assistant", "tool"].contains(&wire.role.as_str()) {
        let message = format!("invalid role `{}` of `{param}`: expected system, user, assistant or tool", wire.role);
        return Err(Error::invalid(&param, message));
    }
    if wire.images.is_some_and(|images| !images.is_empty()) {
        return Err(Error::invalid(&param, format!("`{param}` has images; this model takes only text")));
    }
    Ok(Message {
        role: wire.role,
        content: wire.content.unwrap_or_default(),
        reasoning: wire.thinking.filter(|text| !text.is_empty()),
        tool_calls: wire::called(wire.tool_calls),
        tool_call_id: wire.tool_call_id,
        name: wire.tool_name,
    })
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
    if wire.messages.as_ref().is_none_or(Vec::is_empty) && wire.common.unloads()? {
        app.unload(&wire.common.model)?;
        return Ok(Reply::idle(&wire.common.model, show, "unload"));
    }
    let lease = wire.common.lease(&app).await?;
    think.check(&lease)?;
    let Some(job) = wire.into_job()? else {
        return Ok(Reply::idle(&lease.model.card.name, show, "load"));
    };
    let generation = wire::start(&lease.model, job.of(asker.0)?).await?;
    Reply { lease, start, show, with_context: false }.send(generation, streams).await
}

fn show(part: &Part, line: &mut Map<String, Value>) {
    let mut message = json!({"role": "assistant", "content": part.content});
    if !part.thinking.is_empty() {
        message["thinking"] = part.thinking.as_str().into();
    }
    if !part.calls.is_empty() {
        let call = |(index, call): (usize, &mlxr_text::chat::ParsedCall)| {
            // The wire wants an object; the parser gives only texts of objects, save for harmony's.
            let arguments = serde_json::from_str(&call.arguments)
                .ok()
                .filter(Value::is_object)
                .unwrap_or_else(|| json!({"input": call.arguments}));
            json!({"id": wire::new_call_id(), "function": {"index": index, "name": call.name, "arguments": arguments}})
        };
        message["tool_calls"] = part.calls.iter().enumerate().map(call).collect();
    }
    line.insert("message".to_owned(), message);
}
