//! The answer: blocks of thinking, text and calls, whole or as events.

use mlxr_engine::Usage;
use mlxr_text::chat::{Delta, ParsedCall};
use serde_json::{Value, json};

use crate::Finish;
use crate::routes::wire;

/// A named event of a stream.
pub(super) type Named = (&'static str, Value);

fn message(id: &str, model: &str, content: Value) -> Value {
    json!({"id": id, "type": "message", "role": "assistant", "model": model, "content": content,
        "stop_reason": null, "stop_sequence": null})
}

fn call_id() -> String {
    wire::new_id("toolu_", 24)
}

/// Arguments as an object; harmony's may be any text.
fn input(call: &ParsedCall) -> Value {
    let object = serde_json::from_str(&call.arguments).ok().filter(Value::is_object);
    object.unwrap_or_else(|| json!({"input": call.arguments}))
}

/// Why the answer ended, and by which stop string.
fn stop_fields(finish: Finish, stop: Option<String>) -> Value {
    let reason = match (finish, &stop) {
        (Finish::ToolCalls, _) => "tool_use",
        (Finish::Length, _) => "max_tokens",
        (Finish::Stop, Some(_)) => "stop_sequence",
        (Finish::Stop, None) => "end_turn",
    };
    json!({"stop_reason": reason, "stop_sequence": stop})
}

fn usage_value(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.n_prompt - usage.n_cached.min(usage.n_prompt),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.n_cached,
        "output_tokens": usage.n_generated,
    })
}

/// A whole answer as it grows.
pub(super) struct Reply {
    model: String,
    blocks: Vec<Value>,
}

impl Reply {
    pub(super) fn new(model: &str) -> Reply {
        Reply { model: model.to_owned(), blocks: Vec::new() }
    }

    pub(super) fn grow(&mut self, delta: Delta) {
        let (kind, field, text) = match delta {
            Delta::Reasoning(text) => ("thinking", "thinking", text),
            Delta::Content(text) => ("text", "text", text),
            Delta::Call(call) => {
                let input = input(&call);
                self.blocks.push(json!({"type": "tool_use", "id": call_id(), "name": call.name, "input": input}));
                return;
            }
        };
        match self.blocks.last_mut().filter(|last| last["type"] == kind).map(|last| &mut last[field]) {
            Some(Value::String(known)) => known.push_str(&text),
            _ => self.blocks.push(block(kind, &text)),
        }
    }

    pub(super) fn whole(self, finish: Finish, stop: Option<String>, usage: &Usage) -> Value {
        let mut message = message(&wire::new_id("msg_", 24), &self.model, self.blocks.into());
        let ended = stop_fields(finish, stop);
        for name in ["stop_reason", "stop_sequence"] {
            message[name] = ended[name].clone();
        }
        message["usage"] = usage_value(usage);
        message
    }
}

/// A block of text or thinking.
fn block(kind: &str, text: &str) -> Value {
    match kind {
        // Nothing signs it, and nothing is checked when it comes back.
        "thinking" => json!({"type": kind, "thinking": text, "signature": ""}),
        _ => json!({"type": kind, "text": text}),
    }
}

/// An answer as events.
pub(super) struct Stream {
    model: String,
    /// Blocks begun.
    n_block: usize,
    /// The kind of the block that is open.
    open: Option<&'static str>,
}

impl Stream {
    pub(super) fn new(model: &str) -> Stream {
        Stream { model: model.to_owned(), n_block: 0, open: None }
    }

    pub(super) fn start(&self, n_prompt: usize) -> Named {
        let mut message = message(&wire::new_id("msg_", 24), &self.model, json!([]));
        message["usage"] = json!({"input_tokens": n_prompt, "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0, "output_tokens": 0});
        ("message_start", json!({"type": "message_start", "message": message}))
    }

    pub(super) fn grow(&mut self, delta: Delta, out: &mut Vec<Named>) {
        match delta {
            Delta::Reasoning(text) => {
                self.text("thinking", json!({"type": "thinking_delta", "thinking": text}), out);
            }
            Delta::Content(text) => self.text("text", json!({"type": "text_delta", "text": text}), out),
            Delta::Call(call) => {
                self.close(out);
                let block = json!({"type": "tool_use", "id": call_id(), "name": call.name, "input": {}});
                self.begin("tool_use", block, out);
                let json = input(&call).to_string();
                self.delta(json!({"type": "input_json_delta", "partial_json": json}), out);
                self.close(out);
            }
        }
    }

    pub(super) fn end(&mut self, finish: Finish, stop: Option<String>, usage: &Usage, out: &mut Vec<Named>) {
        self.close(out);
        let value = json!({"type": "message_delta", "delta": stop_fields(finish, stop), "usage": usage_value(usage)});
        out.push(("message_delta", value));
        out.push(("message_stop", json!({"type": "message_stop"})));
    }

    fn text(&mut self, kind: &'static str, delta: Value, out: &mut Vec<Named>) {
        if self.open != Some(kind) {
            self.close(out);
            self.begin(kind, block(kind, ""), out);
        }
        self.delta(delta, out);
    }

    fn begin(&mut self, kind: &'static str, block: Value, out: &mut Vec<Named>) {
        let value = json!({"type": "content_block_start", "index": self.n_block, "content_block": block});
        out.push(("content_block_start", value));
        self.n_block += 1;
        self.open = Some(kind);
    }

    fn delta(&self, delta: Value, out: &mut Vec<Named>) {
        let value = json!({"type": "content_block_delta", "index": self.n_block - 1, "delta": delta});
        out.push(("content_block_delta", value));
    }

    fn close(&mut self, out: &mut Vec<Named>) {
        if self.open.take().is_some() {
            let value = json!({"type": "content_block_stop", "index": self.n_block - 1});
            out.push(("content_block_stop", value));
        }
    }
}
