//! The request and its checks.

use mlxr_text::chat::{Conversation, Message};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::super::{OneOrMany, StreamOptions};
use crate::routes::constraint::Constraints;
use crate::routes::wire;
use crate::{Chat, Error, Job, Prompt, Sampling, Standing, ToolChoice};

/// The body of `POST /v1/chat/completions`.
#[derive(Debug, Deserialize)]
pub(super) struct Request {
    #[serde(default)]
    model: String,
    messages: Vec<WireMessage>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    functions: Option<Value>,
    modalities: Option<Vec<String>>,
    pub(super) stream: Option<bool>,
    pub(super) stream_options: Option<StreamOptions>,
    stop: Option<OneOrMany>,
    n: Option<usize>,
    max_tokens: Option<i64>,
    max_completion_tokens: Option<i64>,
    logprobs: Option<bool>,
    top_logprobs: Option<usize>,
    prompt_logprobs: Option<usize>,
    reasoning_effort: Option<String>,
    chat_template_kwargs: Option<Map<String, Value>>,
    chat_template: Option<String>,
    documents: Option<Vec<Value>>,
    #[serde(default)]
    ignore_eos: bool,
    #[serde(flatten)]
    constraints: Constraints,
    #[serde(flatten)]
    standing: Standing,
    #[serde(flatten)]
    sampling: Sampling,
}

#[derive(Debug, Deserialize)]
struct WireMessage {
    role: String,
    content: Option<Content>,
    #[serde(alias = "reasoning")]
    reasoning_content: Option<String>,
    tool_calls: Option<Vec<wire::ToolCall>>,
    tool_call_id: Option<String>,
    name: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
    refusal: Option<String>,
}

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

impl Request {
    /// Every check of this endpoint.
    pub(super) fn into_job(self) -> Result<Job, Error> {
        self.check_unsupported()?;
        if self.messages.is_empty() {
            return Err(Error::invalid("messages", "`messages` is empty: give at least one message"));
        }
        let messages = self.messages.into_iter().enumerate().map(|(index, wire)| message(index, wire));
        let mut conversation = Conversation::new(messages.collect::<Result<_, _>>()?);
        let (tools, tool_choice) = offered_tools(self.tools, self.tool_choice.as_ref())?;
        conversation.tools = tools;
        conversation.documents = self.documents.unwrap_or_default();
        if let Some(effort) = self.reasoning_effort {
            match effort.as_str() {
                "none" => conversation.set_thinking(false),
                _ => conversation.set_thinking(true),
            }
            conversation.extra.insert("reasoning_effort".to_owned(), effort.into());
        }
        conversation.extra.extend(self.chat_template_kwargs.unwrap_or_default());
        let chat = Chat {
            one_call: self.parallel_tool_calls == Some(false),
            template: self.chat_template,
            tool_choice,
            ..Chat::new(conversation)
        };
        let logprobs = match (self.logprobs, self.top_logprobs) {
            (Some(true), top) => Some(top.unwrap_or(0)),
            (_, Some(top)) if top > 0 => {
                return Err(Error::invalid("top_logprobs", "`top_logprobs` needs `logprobs`: set it to true"));
            }
            _ => None,
        };
        let job = Job {
            n: self.n.unwrap_or(1),
            sampling: self.sampling,
            stop: self.stop.map(OneOrMany::into_vec).unwrap_or_default(),
            structure: self.constraints.structure()?,
            max_tokens: max_tokens(self.max_completion_tokens.or(self.max_tokens))?,
            logprobs,
            prompt_logprobs: self.prompt_logprobs,
            ignore_eos: self.ignore_eos,
            ..Job::new(&self.model, Prompt::Chat(Box::new(chat)))
        };
        self.standing.apply(job)?.check()
    }

    fn check_unsupported(&self) -> Result<(), Error> {
        if self.functions.as_ref().is_some_and(|value| !value.is_null()) {
            return Err(Error::invalid("functions", "`functions` is not supported: use `tools`"));
        }
        if self.prompt_logprobs.is_some() && self.stream == Some(true) {
            return Err(Error::invalid(
                "prompt_logprobs",
                "`prompt_logprobs` come with whole answers only: leave `stream` out",
            ));
        }
        if let Some(other) = self.modalities.iter().flatten().find(|modality| *modality != "text") {
            return Err(Error::invalid("modalities", format!("`modalities` has `{other}`, expected only `text`")));
        }
        Ok(())
    }
}

/// A limit of tokens; below 0 there is none.
pub(in crate::routes::openai) fn max_tokens(asked: Option<i64>) -> Result<Option<usize>, Error> {
    match asked {
        Some(0) => Err(Error::invalid("max_tokens", "`max_tokens` is 0, expected at least 1")),
        other => Ok(other.and_then(|n| usize::try_from(n).ok())),
    }
}

fn offered_tools(tools: Option<Vec<Value>>, choice: Option<&Value>) -> Result<(Vec<Value>, ToolChoice), Error> {
    let tools = tools.unwrap_or_default();
    for (index, tool) in tools.iter().enumerate() {
        let param = format!("tools[{index}]");
        if tool["type"] != "function" || !tool["function"]["name"].is_string() {
            let message = format!(
                "`{param}` is no function: expected {{\"type\": \"function\", \"function\": {{\"name\": ...}}}}"
            );
            return Err(Error::invalid(&param, message));
        }
    }
    let Some(choice) = choice.filter(|choice| !choice.is_null()) else { return Ok((tools, ToolChoice::Auto)) };
    if let Some(allowed) = choice.get("allowed_tools") {
        let names: Vec<&Value> = allowed["tools"].as_array().into_iter().flatten().map(named).collect();
        let tools = tools.into_iter().filter(|tool| names.contains(&named(tool))).collect();
        return offered_tools(Some(tools), Some(&allowed["mode"]));
    }
    match (choice.as_str(), choice["function"]["name"].as_str().or(choice["name"].as_str())) {
        (Some("auto"), _) => Ok((tools, ToolChoice::Auto)),
        (Some("none"), _) => Ok((Vec::new(), ToolChoice::Auto)),
        (Some("required" | "any"), _) if tools.is_empty() => {
            Err(Error::invalid("tool_choice", "`tool_choice` requires a call and `tools` offers none"))
        }
        (Some("required" | "any"), _) => Ok((tools, ToolChoice::Required)),
        (None, Some(name)) if tools.iter().any(|tool| tool["function"]["name"] == name) => {
            Ok((tools, ToolChoice::Named(name.to_owned())))
        }
        (None, Some(name)) => {
            Err(Error::invalid("tool_choice", format!("`tool_choice` names `{name}`, which `tools` does not offer")))
        }
        _ => {
            let message = format!(
                "`tool_choice` is {choice}, expected \"auto\", \"none\", \"required\" or \
                 {{\"type\": \"function\", \"function\": {{\"name\": ...}}}}"
            );
            Err(Error::invalid("tool_choice", message))
        }
    }
}

fn named(tool: &Value) -> &Value {
    &tool["function"]["name"]
}

fn message(index: usize, wire: WireMessage) -> Result<Message, Error> {
    let param = format!("messages[{index}]");
    if !ROLES.contains(&wire.role.as_str()) {
        let message = format!("`{param}.role` is `{}`, expected one of {}", wire.role, ROLES.join(", "));
        return Err(Error::invalid(&param, message));
    }
    if wire.content.is_none() && wire.role != "assistant" {
        return Err(Error::invalid(&param, format!("`{param}.content` is missing")));
    }
    let content = match wire.content {
        None => String::new(),
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => text_of_parts(&param, parts)?,
    };
    // Most templates know only `system`.
    let role = if wire.role == "developer" { "system".to_owned() } else { wire.role };
    Ok(Message {
        role,
        content,
        reasoning: wire.reasoning_content,
        tool_calls: wire::called(wire.tool_calls),
        tool_call_id: wire.tool_call_id,
        name: wire.name,
    })
}

fn text_of_parts(param: &str, parts: Vec<Part>) -> Result<String, Error> {
    let mut text = String::new();
    for (index, part) in parts.into_iter().enumerate() {
        match (part.kind.as_str(), part.text.or(part.refusal)) {
            ("text" | "input_text" | "refusal", Some(piece)) => text.push_str(&piece),
            (kind, _) => {
                let param = format!("{param}.content[{index}]");
                let message = format!("`{param}` is of type `{kind}`; this model takes only text");
                return Err(Error::invalid(&param, message));
            }
        }
    }
    Ok(text)
}
