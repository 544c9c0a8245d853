//! The answer, whole or in chunks.

use mlxr_text::chat::Delta;
use serde_json::{Map, Value, json};

use super::super::{Total, finish_text, logprobs};
use crate::routes::wire;
use crate::{Finish, TokenLogprob};

/// What all parts of an answer share.
pub(super) struct Head {
    id: String,
    created: i64,
    model: String,
    with_logprobs: bool,
}

/// A choice as it grows.
#[derive(Debug, Default)]
pub(super) struct Reply {
    content: String,
    reasoning: String,
    calls: Vec<Value>,
    logprobs: Vec<TokenLogprob>,
    pub(super) finish: Option<Finish>,
}

impl Reply {
    pub(super) fn grow(&mut self, deltas: Vec<Delta>, logprobs: Vec<TokenLogprob>) {
        for delta in deltas {
            match delta {
                Delta::Content(text) => self.content.push_str(&text),
                Delta::Reasoning(text) => self.reasoning.push_str(&text),
                Delta::Call(call) => self.calls.push(json!({
                    "id": wire::new_call_id(),
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                })),
            }
        }
        self.logprobs.extend(logprobs);
    }
}

impl Head {
    pub(super) fn new(model: &str, with_logprobs: bool) -> Head {
        Head { id: wire::new_id("chatcmpl-", 24), created: wire::now_s(), model: model.to_owned(), with_logprobs }
    }

    fn frame(&self, object: &str, choices: Value) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert("id".to_owned(), self.id.as_str().into());
        map.insert("object".to_owned(), object.into());
        map.insert("created".to_owned(), self.created.into());
        map.insert("model".to_owned(), self.model.as_str().into());
        map.insert("system_fingerprint".to_owned(), concat!("mlxr-", env!("CARGO_PKG_VERSION")).into());
        map.insert("choices".to_owned(), choices);
        map
    }

    pub(super) fn whole(&self, replies: Vec<Reply>, total: &Total) -> Value {
        let choices = replies.into_iter().enumerate().map(|(index, reply)| self.choice(index, reply)).collect();
        let mut map = self.frame("chat.completion", choices);
        map.insert("usage".to_owned(), total.usage());
        map.insert("timings".to_owned(), total.timings());
        map.into()
    }

    fn choice(&self, index: usize, reply: Reply) -> Value {
        let mut message = json!({"role": "assistant", "content": reply.content, "refusal": null});
        if !reply.reasoning.is_empty() {
            message["reasoning_content"] = reply.reasoning.into();
        }
        if !reply.calls.is_empty() {
            if reply.content.is_empty() {
                message["content"] = Value::Null;
            }
            message["tool_calls"] = reply.calls.into();
        }
        let finish = reply.finish.map(finish_text);
        json!({
            "index": index,
            "message": message,
            "logprobs": self.logprobs(&reply.logprobs),
            "finish_reason": finish,
        })
    }

    fn logprobs(&self, tokens: &[TokenLogprob]) -> Value {
        match self.with_logprobs {
            true => json!({"content": logprobs::of_chat(tokens), "refusal": null}),
            false => Value::Null,
        }
    }

    /// A chunk without logprobs.
    pub(super) fn chunk(&self, choice: usize, delta: Value, finish: Option<Finish>) -> Value {
        let finish = finish.map(finish_text);
        let choices = json!([{"index": choice, "delta": delta, "logprobs": null, "finish_reason": finish}]);
        self.frame("chat.completion.chunk", choices).into()
    }

    /// A chunk for each of `deltas`; the first carries the logprobs.
    pub(super) fn chunks(
        &self,
        choice: usize,
        deltas: &[Delta],
        tokens: &[TokenLogprob],
        n_call: &mut usize,
    ) -> Vec<Value> {
        let mut bodies: Vec<Value> = deltas.iter().map(|delta| delta_body(delta, n_call)).collect();
        if bodies.is_empty() {
            bodies.push(json!({}));
        }
        let mut chunks: Vec<Value> = bodies.into_iter().map(|body| self.chunk(choice, body, None)).collect();
        if !tokens.is_empty() {
            chunks[0]["choices"][0]["logprobs"] = self.logprobs(tokens);
        }
        chunks
    }

    /// The chunk that only has the usage.
    pub(super) fn usage(&self, total: &Total) -> Value {
        let mut map = self.frame("chat.completion.chunk", json!([]));
        map.insert("usage".to_owned(), total.usage());
        map.insert("timings".to_owned(), total.timings());
        map.into()
    }
}

fn delta_body(delta: &Delta, n_call: &mut usize) -> Value {
    match delta {
        Delta::Content(text) => json!({"content": text}),
        Delta::Reasoning(text) => json!({"reasoning_content": text}),
        Delta::Call(call) => {
            let index = *n_call;
            *n_call += 1;
            json!({"tool_calls": [{
                "index": index,
                "id": wire::new_call_id(),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }]})
        }
    }
}
