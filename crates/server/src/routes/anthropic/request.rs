//! The request and its checks.

use mlxr_grammar::Source;
use mlxr_text::chat::{Conversation, Message, ToolCall};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{Chat, Error, Job, Prompt, Sampling, Standing, Structure, ToolChoice};

/// The body of `POST /v1/messages`.
#[derive(Debug, Deserialize)]
pub(super) struct Request {
    #[serde(default)]
    model: String,
    max_tokens: Option<i64>,
    messages: Vec<WireMessage>,
    system: Option<Content>,
    stop_sequences: Option<Vec<String>>,
    pub(super) stream: Option<bool>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i64>,
    tools: Option<Vec<WireTool>>,
    tool_choice: Option<WireChoice>,
    thinking: Option<Thinking>,
    metadata: Option<Metadata>,
    output_format: Option<Value>,
    output_config: Option<OutputConfig>,
}

#[derive(Debug, Deserialize)]
struct WireMessage {
    role: String,
    content: Content,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Blocks(Vec<Block>),
}

#[derive(Debug, Deserialize)]
struct Block {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
    thinking: Option<String>,
    id: Option<String>,
    name: Option<String>,
    input: Option<Value>,
    tool_use_id: Option<String>,
    content: Option<Content>,
    is_error: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct WireTool {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    name: String,
    description: Option<String>,
    input_schema: Option<Value>,
    strict: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct WireChoice {
    #[serde(rename = "type")]
    kind: String,
    name: Option<String>,
    disable_parallel_tool_use: Option<bool>,
}

impl Default for WireChoice {
    fn default() -> WireChoice {
        WireChoice { kind: "auto".to_owned(), name: None, disable_parallel_tool_use: None }
    }
}

#[derive(Debug, Deserialize)]
struct Thinking {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    user_id: Option<String>,
}

#[derive(Debug, Deserialize)]
struct OutputConfig {
    format: Option<Value>,
}

impl Request {
    /// Every check of `/v1/messages`.
    pub(super) fn into_job(self) -> Result<Job, Error> {
        match self.max_tokens {
            None => Err(Error::invalid("max_tokens", "`max_tokens` is missing: say how long an answer may be")),
            Some(n) if n < 1 => Err(Error::invalid("max_tokens", format!("`max_tokens` is {n}, expected at least 1"))),
            Some(_) => self.into_counted_job(),
        }
    }

    /// Every check of `/v1/messages/count_tokens`, which needs no `max_tokens`.
    pub(super) fn into_counted_job(self) -> Result<Job, Error> {
        let mut messages = Vec::new();
        if let Some(system) = self.system {
            messages.push(Message::new("system", &text("system", system)?));
        }
        if self.messages.is_empty() {
            return Err(Error::invalid("messages", "`messages` is empty: give at least one message"));
        }
        for (index, wire) in self.messages.into_iter().enumerate() {
            push_message(index, wire, &mut messages)?;
        }
        let mut conversation = Conversation::new(messages);
        let WireChoice { kind, name, disable_parallel_tool_use } = self.tool_choice.unwrap_or_default();
        if kind != "none" {
            let tools = self.tools.unwrap_or_default().into_iter().enumerate();
            conversation.tools = tools.map(|(index, wire)| tool(index, wire)).collect::<Result<_, _>>()?;
        }
        let tool_choice = choice(&kind, name, &conversation.tools)?;
        conversation.set_thinking(thinks(self.thinking.as_ref())?);
        let one_call = disable_parallel_tool_use.unwrap_or(false);
        let chat = Chat { tool_choice, one_call, ..Chat::new(conversation) };
        let format = self.output_format.or(self.output_config.and_then(|config| config.format));
        let job = Job {
            max_tokens: self.max_tokens.and_then(|n| usize::try_from(n).ok()),
            stop: self.stop_sequences.unwrap_or_default(),
            sampling: Sampling {
                temperature: self.temperature,
                top_p: self.top_p,
                top_k: self.top_k,
                ..Sampling::default()
            },
            structure: format.filter(|format| !format.is_null()).map(structure).transpose()?,
            ..Job::new(&self.model, Prompt::Chat(Box::new(chat)))
        };
        let user = self.metadata.and_then(|metadata| metadata.user_id);
        Standing { user, ..Standing::default() }.apply(job)?.check()
    }
}

/// Whether the model is to think; not unless it is asked to.
fn thinks(thinking: Option<&Thinking>) -> Result<bool, Error> {
    match thinking.map(|thinking| thinking.kind.as_str()) {
        None | Some("disabled") => Ok(false),
        Some("enabled" | "adaptive") => Ok(true),
        Some(other) => {
            let message = format!("`thinking.type` is `{other}`, expected enabled, adaptive or disabled");
            Err(Error::invalid("thinking", message))
        }
    }
}

fn structure(mut format: Value) -> Result<Structure, Error> {
    let schema = format.get_mut("schema").map(Value::take);
    match (format["type"].as_str(), schema) {
        (Some("json_schema"), Some(schema)) => {
            Ok(Structure { param: "output_config.format".to_owned(), source: Source::Schema(schema) })
        }
        _ => {
            let message = "`output_config.format` must be {\"type\": \"json_schema\", \"schema\": ...}";
            Err(Error::invalid("output_config.format", message))
        }
    }
}

/// A tool in OpenAI's shape, which templates expect.
fn tool(index: usize, wire: WireTool) -> Result<Value, Error> {
    let param = format!("tools[{index}]");
    if let Some(kind) = wire.kind.filter(|kind| kind != "custom") {
        let message =
            format!("`{param}.type` is `{kind}`, which this server does not run: only custom tools are known");
        return Err(Error::invalid(&param, message));
    }
    if wire.name.is_empty() {
        return Err(Error::invalid(&param, format!("`{param}.name` is missing")));
    }
    let mut function = Map::new();
    function.insert("name".to_owned(), wire.name.into());
    function.insert("description".to_owned(), wire.description.unwrap_or_default().into());
    function.insert("parameters".to_owned(), wire.input_schema.unwrap_or_else(|| json!({"type": "object"})));
    if wire.strict == Some(true) {
        function.insert("strict".to_owned(), true.into());
    }
    Ok(json!({"type": "function", "function": function}))
}

fn choice(kind: &str, name: Option<String>, tools: &[Value]) -> Result<ToolChoice, Error> {
    let wrong = |message: String| Err(Error::invalid("tool_choice", message));
    match (kind, name) {
        ("auto" | "none", _) => Ok(ToolChoice::Auto),
        ("any", _) if tools.is_empty() => wrong("`tool_choice` requires a call and `tools` offers none".to_owned()),
        ("any", _) => Ok(ToolChoice::Required),
        ("tool", Some(name)) if tools.iter().any(|tool| tool["function"]["name"] == name.as_str()) => {
            Ok(ToolChoice::Named(name))
        }
        ("tool", name) => {
            wrong(format!("`tool_choice` names `{}`, which `tools` does not offer", name.unwrap_or_default()))
        }
        (other, _) => wrong(format!("`tool_choice.type` is `{other}`, expected auto, any, tool or none")),
    }
}

/// Appends what a message says: answers of tools are messages of their own, and come first.
fn push_message(index: usize, wire: WireMessage, out: &mut Vec<Message>) -> Result<(), Error> {
    let param = format!("messages[{index}]");
    if !["user", "assistant", "system"].contains(&wire.role.as_str()) {
        let message = format!("`{param}.role` is `{}`, expected user or assistant", wire.role);
        return Err(Error::invalid(&param, message));
    }
    let mut message = Message::new(&wire.role, "");
    let blocks = match wire.content {
        Content::Text(text) => {
            out.push(Message { content: text, ..message });
            return Ok(());
        }
        Content::Blocks(blocks) => blocks,
    };
    let mut answers = false;
    for (at, block) in blocks.into_iter().enumerate() {
        let param = format!("{param}.content[{at}]");
        let missing = |field: &str| Error::invalid(&param, format!("`{param}.{field}` is missing"));
        match (block.kind.as_str(), wire.role.as_str()) {
            ("text", _) => message.content.push_str(&block.text.ok_or_else(|| missing("text"))?),
            ("thinking", "assistant") => {
                message.reasoning.get_or_insert_default().push_str(&block.thinking.unwrap_or_default());
            }
            // Nobody here can read it.
            ("redacted_thinking", "assistant") => {}
            ("tool_use", "assistant") => message.tool_calls.push(ToolCall {
                id: block.id.unwrap_or_default(),
                name: block.name.ok_or_else(|| missing("name"))?,
                arguments: block.input.unwrap_or_else(|| json!({})),
            }),
            ("tool_result", "user") => {
                answers = true;
                let content = block.content.map_or_else(|| Ok(String::new()), |content| text(&param, content))?;
                let content = if block.is_error == Some(true) { format!("Error: {content}") } else { content };
                let tool_call_id = Some(block.tool_use_id.ok_or_else(|| missing("tool_use_id"))?);
                let mut called = out.iter().flat_map(|message| &message.tool_calls);
                let name = called.rfind(|call| Some(&call.id) == tool_call_id.as_ref()).map(|call| call.name.clone());
                out.push(Message { tool_call_id, name, ..Message::new("tool", &content) });
            }
            (kind, role) => {
                let message = format!("`{param}` is of type `{kind}`, which a message of the {role} cannot have here");
                return Err(Error::invalid(&param, message));
            }
        }
    }
    if !(answers && message.content.is_empty()) {
        out.push(message);
    }
    Ok(())
}

/// Text, or blocks of text.
fn text(param: &str, content: Content) -> Result<String, Error> {
    let blocks = match content {
        Content::Text(text) => return Ok(text),
        Content::Blocks(blocks) => blocks,
    };
    let mut out = String::new();
    for (at, block) in blocks.into_iter().enumerate() {
        match (block.kind.as_str(), block.text) {
            ("text", Some(text)) => out.push_str(&text),
            (kind, _) => {
                let message = format!("`{param}[{at}]` is of type `{kind}`; this model takes only text");
                return Err(Error::invalid(param, message));
            }
        }
    }
    Ok(out)
}
