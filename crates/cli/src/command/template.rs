//! `mlx-run template`.

use std::io::{self, Read, Write};
use std::path::Path;

use mlxr_text::chat::{Conversation, Message, ToolCall};
use serde_json::Value;

use crate::CliError;
use crate::args::TemplateArgs;
use crate::{load, template, vocab};

/// Prints a conversation as the model sees it, or the template itself.
///
/// # Errors
/// If the model has no template, or it refuses the conversation.
pub fn run(args: &TemplateArgs) -> Result<(), CliError> {
    let (_, checkpoint) = load::open(&args.model, &args.folder)?;
    let tokenizer = vocab::tokenizer(&checkpoint)?;
    let template = template::template(&checkpoint, &tokenizer, args.template.as_deref())?;
    let none = "the model has no chat template: give one by --template";
    let template = template.ok_or_else(|| CliError::Failed(none.into()))?;
    let mut out = io::stdout().lock();
    if args.source {
        return Ok(writeln!(out, "{}", template.source())?);
    }
    let mut conversation = Conversation::new(messages(args)?);
    if let Some(path) = &args.tools {
        let tools = read_json(path)?;
        let expected = "a JSON list of tools";
        conversation.tools = tools.as_array().cloned().ok_or_else(|| wrong(path, expected))?;
    }
    conversation.add_generation_prompt = !args.no_generation_prompt;
    if let Some(think) = args.think {
        conversation.set_thinking(think);
    }
    Ok(write!(out, "{}", template.render(&conversation)?)?)
}

fn messages(args: &TemplateArgs) -> Result<Vec<Message>, CliError> {
    let mut messages = Vec::new();
    messages.extend(args.system.as_deref().map(|text| Message::new("system", text)));
    match &args.messages {
        Some(path) => {
            let json = read_json(path)?;
            let list = json.as_array().and_then(|list| list.iter().map(message).collect::<Option<Vec<_>>>());
            messages.extend(list.ok_or_else(|| wrong(path, "a JSON list of {\"role\": ..., \"content\": ...}"))?);
        }
        None => messages.push(Message::new("user", args.prompt.as_deref().unwrap_or("Hello"))),
    }
    Ok(messages)
}

/// A message of OpenAI's API, as far as it is text.
fn message(value: &Value) -> Option<Message> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let calls = value.get("tool_calls").and_then(Value::as_array).into_iter().flatten();
    let tool_calls = calls.map(|call| {
        let function = call.get("function")?;
        Some(ToolCall {
            id: call.get("id").and_then(Value::as_str).unwrap_or_default().to_owned(),
            name: function.get("name")?.as_str()?.to_owned(),
            arguments: function.get("arguments")?.clone(),
        })
    });
    Some(Message {
        role: text("role")?,
        content: text("content").unwrap_or_default(),
        reasoning: text("reasoning_content").or_else(|| text("thinking")),
        tool_calls: tool_calls.collect::<Option<_>>()?,
        tool_call_id: text("tool_call_id"),
        name: text("name"),
    })
}

fn read_json(path: &Path) -> Result<Value, CliError> {
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    let bytes = bytes.map_err(CliError::file(path))?;
    serde_json::from_slice(&bytes).map_err(|error| CliError::Usage(format!("{}: {error}", path.display())))
}

fn wrong(path: &Path, expected: &str) -> CliError {
    CliError::Usage(format!("{}: expected {expected}", path.display()))
}
