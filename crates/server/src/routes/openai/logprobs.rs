//! Logprobs as chat and as completions have them.

use serde_json::{Map, Value, json};

use crate::TokenLogprob;

/// Lowest number that is written: JSON has no infinity.
fn finite(logprob: f32) -> f32 {
    logprob.max(-9999.0)
}

/// `choices[].logprobs.content[]` of a chat.
pub(crate) fn of_chat(logprobs: &[TokenLogprob]) -> Value {
    let entry = |bytes: &[u8], logprob: f32| json!({"token": String::from_utf8_lossy(bytes), "logprob": finite(logprob), "bytes": bytes});
    logprobs
        .iter()
        .map(|token| {
            let mut value = entry(&token.bytes, token.logprob);
            value["top_logprobs"] = token.top.iter().map(|(_, bytes, logprob)| entry(bytes, *logprob)).collect();
            value
        })
        .collect()
}

/// `choices[].logprobs` of a completion, whose text so far has `offset` characters; `offset` is moved on.
pub(super) fn of_completion(logprobs: &[TokenLogprob], offset: &mut usize) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut offsets = Vec::with_capacity(logprobs.len());
    for token in logprobs {
        offsets.push(*offset);
        *offset += text(&token.bytes).chars().count();
    }
    let top = |token: &TokenLogprob| -> Map<String, Value> {
        token.top.iter().map(|(_, bytes, logprob)| (text(bytes), finite(*logprob).into())).collect()
    };
    json!({
        "tokens": logprobs.iter().map(|token| text(&token.bytes)).collect::<Vec<_>>(),
        "token_logprobs": logprobs.iter().map(|token| finite(token.logprob)).collect::<Vec<_>>(),
        "top_logprobs": logprobs.iter().map(top).collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}
