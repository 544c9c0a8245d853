//! What a template supports, found out by rendering conversations that differ in one thing and comparing.

use jiff::civil::DateTime;
use serde_json::{Map, Value, json};

use super::parse::Format;
use super::template::{ChatTemplate, TemplateError};

/// What a template supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// A system message is shown. If not, it is put into the first user message.
    pub system: bool,
    /// Tools are shown. If not, they are described in the system message.
    pub tools: bool,
    /// Calls of tools and their answers are shown. If not, they become text.
    pub tool_calls: bool,
    /// Calls are printed with the marks and keys of the format that the model's answers are read by.
    pub marked_calls: bool,
    /// Arguments of calls must be JSON text; else they are objects.
    pub text_arguments: bool,
    /// The content of a message must be a list of parts.
    pub parts_only: bool,
    /// Thinking can be switched by `enable_thinking` or `thinking`.
    pub thinking: bool,
    /// The model is known to think: the template mentions `<think>` or switches thinking.
    pub reasons: bool,
}

impl Default for Capabilities {
    fn default() -> Capabilities {
        Capabilities {
            system: true,
            tools: true,
            tool_calls: true,
            marked_calls: false,
            text_arguments: false,
            parts_only: false,
            thinking: false,
            reasons: false,
        }
    }
}

const SYSTEM: &str = "needle-system";
const USER: &str = "needle-user";
const TOOL: &str = "needle_tool";
const KEY: &str = "needle_key";
const ANSWER: &str = "needle-answer";

/// Finds out what `template` supports.
pub(crate) fn probe(template: &ChatTemplate) -> Capabilities {
    let shows = |context: Value, needles: &[&str]| match render(template, context) {
        Ok(text) => needles.iter().all(|needle| text.contains(needle)),
        Err(_) => false,
    };
    let parts_only = !shows(json!({"messages": [user(json!(USER), false)]}), &[USER])
        && shows(json!({"messages": [user(json!(USER), true)]}), &[USER]);
    let user = user(json!(USER), parts_only);
    let system = text_message("system", SYSTEM, parts_only);
    let tool = json!({"type": "function", "function": {"name": TOOL, "description": "d",
        "parameters": {"type": "object", "properties": {KEY: {"type": "string", "description": "d"}}, "required": [KEY]}}});
    let calls = |arguments: Value| {
        let mut call = text_message("assistant", "", parts_only);
        call["tool_calls"] = json!([{"id": "call00001", "type": "function",
            "function": {"name": TOOL, "arguments": arguments}}]);
        let mut answer = text_message("tool", ANSWER, parts_only);
        answer["tool_call_id"] = "call00001".into();
        answer["name"] = TOOL.into();
        json!({"messages": [user, call, answer], "tools": [tool]})
    };
    let needles = [TOOL, KEY, ANSWER];
    let object = render(template, calls(json!({KEY: "needle-value"}))).unwrap_or_default();
    // `{'key': ...` is how Python prints a dict: then the template expected text.
    let text_arguments = (!needles.iter().all(|needle| object.contains(needle)) || object.contains("{'needle_key'"))
        && shows(calls(Value::from(format!("{{\"{KEY}\": \"needle-value\"}}"))), &needles);
    let called = |arguments: Value| {
        let mut context = calls(arguments);
        context["tools"] = Value::Null;
        shows(context, &needles)
    };
    let arguments = json!({KEY: "needle-value"});
    let arguments = if text_arguments { Value::from(arguments.to_string()) } else { arguments };
    let printed = render(template, calls(arguments.clone())).unwrap_or_default();
    let call = printed.rsplit(USER).next().and_then(|rest| rest.split(ANSWER).next()).unwrap_or_default();
    let syntax = Format::detect(template.source()).call_syntax(template.source());
    let switched = |on: bool| {
        render(template, json!({"messages": [user], "enable_thinking": on, "thinking": on})).unwrap_or_default()
    };
    let thinking = switched(true) != switched(false);
    Capabilities {
        system: shows(json!({"messages": [system, user]}), &[SYSTEM, USER]),
        tools: shows(json!({"messages": [user], "tools": [tool]}), &[TOOL, KEY, USER]),
        tool_calls: called(arguments.clone()) || shows(calls(arguments), &needles),
        marked_calls: syntax.is_marked_in(call),
        text_arguments,
        parts_only,
        thinking,
        reasons: thinking || template.source().contains("<think>"),
    }
}

fn user(content: Value, parts: bool) -> Value {
    json!({"role": "user", "content": if parts { json!([{"type": "text", "text": content}]) } else { content }})
}

fn text_message(role: &str, content: &str, parts: bool) -> Value {
    let mut message = user(content.into(), parts);
    message["role"] = role.into();
    message
}

fn render(template: &ChatTemplate, mut context: Value) -> Result<String, TemplateError> {
    let map: &mut Map<String, Value> = context.as_object_mut().expect("every probe is an object");
    map.insert("add_generation_prompt".to_owned(), true.into());
    for name in ["tools", "documents"] {
        map.entry(name).or_insert(Value::Null);
    }
    template.render_context(map, DateTime::constant(2026, 1, 2, 3, 4, 5, 0))
}
