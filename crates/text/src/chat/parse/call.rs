//! The text of a call to its name and arguments.

use serde_json::{Map, Value};

use super::Body;

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedCall {
    /// Name of the function.
    pub name: String,
    /// Its arguments as the text of a JSON object.
    pub arguments: String,
}

/// The calls in `text`, the part between the marks; `None` if it is not written as `body` says.
pub(crate) fn parse(body: Body, text: &str) -> Option<Vec<ParsedCall>> {
    let calls = match body {
        Body::Json => json_calls(text)?,
        Body::NameThenJson => name_then_json(text)?,
        Body::Xml => vec![xml(text)?],
        Body::DeepSeek => vec![deepseek(text)?],
    };
    if calls.is_empty() { None } else { Some(calls) }
}

fn json_calls(text: &str) -> Option<Vec<ParsedCall>> {
    let mut calls = Vec::new();
    // Llama separates calls by `;` or newlines; a stream of values reads the latter.
    for part in text.trim().split_inclusive("};") {
        let part = part.strip_suffix(';').unwrap_or(part);
        for value in serde_json::Deserializer::from_str(part).into_iter::<Value>() {
            match value.ok()? {
                Value::Array(items) => {
                    for item in items {
                        calls.push(from_object(&item)?);
                    }
                }
                value => calls.push(from_object(&value)?),
            }
        }
    }
    Some(calls)
}

/// `{"name": ..., "arguments" or "parameters": {...}}`, or the same within `function`.
fn from_object(value: &Value) -> Option<ParsedCall> {
    let value = value.get("function").filter(|inner| inner.is_object()).unwrap_or(value);
    let name = value.get("name").or_else(|| value.get("function"))?.as_str()?;
    let arguments = match value.get("arguments").or_else(|| value.get("parameters")) {
        None => "{}".to_owned(),
        Some(Value::String(text)) if text.trim_start().starts_with('{') => text.clone(),
        Some(object @ Value::Object(_)) => object.to_string(),
        Some(_) => return None,
    };
    Some(ParsedCall { name: name.to_owned(), arguments })
}

fn name_then_json(text: &str) -> Option<Vec<ParsedCall>> {
    let text = text.trim();
    if text.starts_with(['[', '{']) {
        return json_calls(text);
    }
    // `name{...}`, `name>{...}` and `name[ARGS]{...}`; Mistral repeats its opening mark before each further call.
    let mut calls = Vec::new();
    for part in text.split("[TOOL_CALLS]") {
        let start = part.find('{')?;
        let name = part[..start].trim().trim_end_matches("[ARGS]").trim_end_matches('>').trim();
        let name = name.split("[CALL_ID]").next().unwrap_or(name);
        calls.push(ParsedCall { name: valid_name(name)?, arguments: object_text(&part[start..])? });
    }
    Some(calls)
}

fn valid_name(name: &str) -> Option<String> {
    let fits = |c: char| c.is_alphanumeric() || "_-.:/".contains(c);
    (!name.is_empty() && name.len() <= 256 && name.chars().all(fits)).then(|| name.to_owned())
}

/// `text` if it is a JSON object.
fn object_text(text: &str) -> Option<String> {
    let text = text.trim();
    serde_json::from_str::<Map<String, Value>>(text).ok().map(|_| text.to_owned())
}

fn xml(text: &str) -> Option<ParsedCall> {
    let text = text.trim();
    let text = text.strip_prefix("<function=").unwrap_or(text);
    let text = text.strip_suffix("</function>").unwrap_or(text);
    let (name, mut rest) = text.split_once('>')?;
    let mut arguments = Map::new();
    while let Some((_, after)) = rest.split_once("<parameter=") {
        let (key, after) = after.split_once('>')?;
        let (value, after) = after.split_once("</parameter>").or_else(|| after.split_once("<parameter="))?;
        let value = value.strip_prefix('\n').unwrap_or(value);
        let value = value.strip_suffix('\n').unwrap_or(value);
        // The format does not tell types. What reads as a number, list, object, bool or null is taken as such.
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        arguments.insert(key.trim().to_owned(), value);
        rest = after;
    }
    Some(ParsedCall { name: valid_name(name.trim())?, arguments: Value::from(arguments).to_string() })
}

fn deepseek(text: &str) -> Option<ParsedCall> {
    let (first, rest) = text.split_once("<｜tool▁sep｜>")?;
    let (name, arguments) = match rest.split_once("```json") {
        Some((name, block)) => (name, block.trim().trim_end_matches("```")),
        None => (first, rest),
    };
    Some(ParsedCall { name: valid_name(name.trim())?, arguments: object_text(arguments)? })
}
