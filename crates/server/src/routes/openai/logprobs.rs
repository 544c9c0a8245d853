//! Logprobs as chat and as completions have them.

use serde_json::{Map, Value, json};

use crate::TokenLogprob;

/// JSON has no infinity: the lowest number that is written takes its place.
fn finite(logprob: f32) -> Value {
    logprob.max(-9999.0).into()
}

/// `choices[].logprobs.content[]` of a chat.
pub(crate) fn of_chat(logprobs: &[TokenLogprob]) -> Value {
    let entry = |bytes: &[u8], logprob: Value| json!({"token": String::from_utf8_lossy(bytes), "logprob": logprob, "bytes": bytes});
    logprobs
        .iter()
        .map(|token| {
            let mut value = entry(&token.bytes, token.logprob.map_or(Value::Null, finite));
            let top = token.top.iter().map(|(_, bytes, logprob)| entry(bytes, finite(*logprob)));
            value["top_logprobs"] = top.collect();
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
    // The first token of a prompt has nothing to be likely after.
    let top = |token: &TokenLogprob| -> Option<Map<String, Value>> {
        token.logprob?;
        Some(token.top.iter().map(|(_, bytes, logprob)| (text(bytes), finite(*logprob))).collect())
    };
    json!({
        "tokens": logprobs.iter().map(|token| text(&token.bytes)).collect::<Vec<_>>(),
        "token_logprobs": logprobs.iter().map(|token| token.logprob.map(finite)).collect::<Vec<_>>(),
        "top_logprobs": logprobs.iter().map(top).collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}

/// `prompt_logprobs` as vLLM has them: for each token of the prompt an object with it and the likeliest tokens, by id;
/// null for the first.
pub(crate) fn of_prompt(logprobs: &[TokenLogprob]) -> Value {
    let entry = |bytes: &[u8], logprob: f32, rank: Option<usize>| json!({"logprob": finite(logprob), "rank": rank, "decoded_token": String::from_utf8_lossy(bytes)});
    let object = |token: &TokenLogprob| -> Option<Map<String, Value>> {
        let logprob = token.logprob?;
        let top = token.top.iter().zip(1..);
        let mut map: Map<String, Value> =
            top.map(|((id, bytes, logprob), rank)| (id.to_string(), entry(bytes, *logprob, Some(rank)))).collect();
        map.entry(token.token.to_string()).or_insert_with(|| entry(&token.bytes, logprob, token.rank));
        Some(map)
    };
    logprobs.iter().map(object).collect()
}
