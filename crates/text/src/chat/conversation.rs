//! What is rendered: messages, tools and options, in the shape of the OpenAI API, which templates expect.

use jiff::Zoned;
use jiff::civil::DateTime;
use serde_json::{Map, Value, json};

use super::capability::Capabilities;

/// A call of a tool, by the model.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// Identifies the call in the answer of the tool.
    pub id: String,
    /// Name of the function.
    pub name: String,
    /// Its arguments: an object, or whatever the model wrote.
    pub arguments: Value,
}

/// One message.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or what else the template knows.
    pub role: String,
    /// The text.
    pub content: String,
    /// What the assistant thought before it answered.
    pub reasoning: Option<String>,
    /// Tools that the assistant called.
    pub tool_calls: Vec<ToolCall>,
    /// In an answer of a tool: the call it answers.
    pub tool_call_id: Option<String>,
    /// Name of the tool that answers, or of the speaker.
    pub name: Option<String>,
}

impl Message {
    /// A message that is only text.
    pub fn new(role: &str, content: &str) -> Message {
        Message { role: role.to_owned(), content: content.to_owned(), ..Message::default() }
    }
}

/// All that a prompt is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversation {
    /// The messages, oldest first.
    pub messages: Vec<Message>,
    /// Tools as OpenAI's `{"type": "function", "function": {...}}`.
    pub tools: Vec<Value>,
    /// Documents for templates that ground their answers.
    pub documents: Vec<Value>,
    /// Whether the prompt ends where the assistant begins to speak.
    pub add_generation_prompt: bool,
    /// Other variables of the template, such as `enable_thinking`.
    pub extra: Map<String, Value>,
    /// The time that `strftime_now` shows.
    pub now: DateTime,
}

impl Conversation {
    /// A conversation for which the assistant is to speak next, at the system's time.
    pub fn new(messages: Vec<Message>) -> Conversation {
        Conversation {
            messages,
            tools: Vec::new(),
            documents: Vec::new(),
            add_generation_prompt: true,
            extra: Map::new(),
            now: Zoned::now().datetime(),
        }
    }

    /// Asks for thinking or for none, under all the names that templates have for it.
    pub fn set_thinking(&mut self, thinking: bool) {
        for name in ["enable_thinking", "thinking"] {
            self.extra.insert(name.to_owned(), thinking.into());
        }
    }

    /// The template's variables, adapted to what it supports.
    pub(crate) fn context(&self, can: &Capabilities) -> Map<String, Value> {
        let mut messages = self.messages.clone();
        let mut tools = self.tools.clone();
        if !can.tool_calls {
            messages = spell_out_tools(messages);
        }
        if !can.tools && !tools.is_empty() {
            add_to_system(&mut messages, &describe_tools(&tools));
            tools.clear();
        }
        if !can.system {
            fold_system(&mut messages);
        }
        let list = |items: &[Value]| if items.is_empty() { Value::Null } else { Value::from(items.to_vec()) };
        let mut context = self.extra.clone();
        context.insert("messages".to_owned(), messages.iter().map(|message| message_value(message, can)).collect());
        context.insert("tools".to_owned(), list(&tools));
        context.insert("documents".to_owned(), list(&self.documents));
        context.insert("add_generation_prompt".to_owned(), self.add_generation_prompt.into());
        context
    }
}

fn message_value(message: &Message, can: &Capabilities) -> Value {
    let mut map = Map::new();
    map.insert("role".to_owned(), message.role.as_str().into());
    let content = match can.parts_only {
        true => json!([{"type": "text", "text": message.content}]),
        false => message.content.as_str().into(),
    };
    map.insert("content".to_owned(), content);
    if let Some(reasoning) = &message.reasoning {
        // Names under which templates look: Qwen, DeepSeek and most others; gpt-oss.
        map.insert("reasoning_content".to_owned(), reasoning.as_str().into());
        map.insert("thinking".to_owned(), reasoning.as_str().into());
    }
    if !message.tool_calls.is_empty() {
        map.insert("tool_calls".to_owned(), message.tool_calls.iter().map(|call| call_value(call, can)).collect());
    }
    for (key, value) in [("tool_call_id", &message.tool_call_id), ("name", &message.name)] {
        if let Some(value) = value {
            map.insert(key.to_owned(), value.as_str().into());
        }
    }
    map.into()
}

fn call_value(call: &ToolCall, can: &Capabilities) -> Value {
    let arguments = match &call.arguments {
        Value::String(text) if !can.text_arguments => {
            serde_json::from_str(text).unwrap_or_else(|_| call.arguments.clone())
        }
        Value::String(_) => call.arguments.clone(),
        other if can.text_arguments => other.to_string().into(),
        other => other.clone(),
    };
    json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}})
}

/// Puts `text` at the end of the system message, or makes one.
fn add_to_system(messages: &mut Vec<Message>, text: &str) {
    match messages.first_mut() {
        Some(first) if first.role == "system" => {
            first.content.push_str("\n\n");
            first.content.push_str(text);
        }
        _ => messages.insert(0, Message::new("system", text)),
    }
}

/// Puts each system message in front of the user message after it, or makes it one.
fn fold_system(messages: &mut Vec<Message>) {
    let mut folded: Vec<Message> = Vec::with_capacity(messages.len());
    let mut pending = String::new();
    for mut message in messages.drain(..) {
        if message.role == "system" || message.role == "developer" {
            if !pending.is_empty() {
                pending.push_str("\n\n");
            }
            pending.push_str(message.content.trim());
            continue;
        }
        if !pending.is_empty() {
            let system = std::mem::take(&mut pending);
            if message.role == "user" {
                message.content = format!("{system}\n\n{}", message.content);
            } else {
                folded.push(Message::new("user", &system));
            }
        }
        folded.push(message);
    }
    if !pending.is_empty() {
        folded.push(Message::new("user", &pending));
    }
    *messages = folded;
}

/// Tells a model whose template knows no tools what it may call, in the format of Hermes, which `parse` reads.
fn describe_tools(tools: &[Value]) -> String {
    let list: Vec<String> = tools.iter().map(Value::to_string).collect();
    format!(
        "You may call functions to help with the user's request. They are described within <tools></tools>:\n\
         <tools>\n{}\n</tools>\n\
         To call one, answer with a JSON object within <tool_call></tool_call>:\n\
         <tool_call>\n{{\"name\": \"function name\", \"arguments\": {{...}}}}\n</tool_call>",
        list.join("\n")
    )
}

/// Turns calls and answers of tools into text, for a template that drops them.
fn spell_out_tools(messages: Vec<Message>) -> Vec<Message> {
    let mut out: Vec<Message> = Vec::with_capacity(messages.len());
    for mut message in messages {
        for call in std::mem::take(&mut message.tool_calls) {
            let arguments = match &call.arguments {
                Value::String(text) => serde_json::from_str(text).unwrap_or_else(|_| call.arguments.clone()),
                other => other.clone(),
            };
            let text = json!({"name": call.name, "arguments": arguments});
            let space = if message.content.is_empty() { "" } else { "\n" };
            message.content.push_str(&format!("{space}<tool_call>\n{text}\n</tool_call>"));
        }
        if message.role == "tool" {
            let answer = format!("<tool_response>\n{}\n</tool_response>", message.content);
            match out.last_mut() {
                Some(last) if last.role == "user" && last.content.ends_with("</tool_response>") => {
                    last.content.push('\n');
                    last.content.push_str(&answer);
                }
                _ => out.push(Message::new("user", &answer)),
            }
            continue;
        }
        out.push(message);
    }
    out
}
