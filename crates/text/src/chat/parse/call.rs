//! The text of a call to its name and arguments.

use std::collections::HashSet;

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

/// Arguments that are texts by their tool's schema, each as the names of tool and argument.
#[derive(Debug, Clone, Default)]
pub(crate) struct Texts(HashSet<(String, String)>);

impl Texts {
    /// Those of tools in OpenAI's shape.
    pub(crate) fn of(tools: &[Value]) -> Texts {
        let is_text = |schema: &Value| match (&schema["type"], schema["enum"].as_array()) {
            (Value::String(kind), _) => kind == "string",
            (Value::Null, Some(values)) => values.iter().all(Value::is_string),
            _ => schema["const"].is_string(),
        };
        let of_tool = |tool: &Value| {
            let name = tool["function"]["name"].as_str().unwrap_or_default().to_owned();
            let properties = tool["function"]["parameters"]["properties"].as_object().cloned().unwrap_or_default();
            let texts = properties.into_iter().filter(|(_, schema)| is_text(schema));
            texts.map(|(key, _)| (name.clone(), key)).collect::<Vec<_>>()
        };
        Texts(tools.iter().flat_map(of_tool).collect())
    }

    fn has(&self, tool: &str, key: &str) -> bool {
        !self.0.is_empty() && self.0.contains(&(tool.to_owned(), key.to_owned()))
    }
}

/// The calls in `text`, the part between the marks; `None` if it is not written as `body` says.
pub(crate) fn parse(body: Body, text: &str, texts: &Texts) -> Option<Vec<ParsedCall>> {
    let calls = match body {
        Body::Json => json_calls(text)?,
        Body::NameThenJson => name_then_json(text)?,
        Body::Xml => vec![xml(text, texts)?],
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

fn xml(text: &str, texts: &Texts) -> Option<ParsedCall> {
    let text = text.trim();
    let text = text.strip_prefix("<function=").unwrap_or(text);
    let text = text.strip_suffix("</function>").unwrap_or(text);
    let (name, mut rest) = text.split_once('>')?;
    let name = valid_name(name.trim())?;
    let mut arguments = Map::new();
    while let Some((_, after)) = rest.split_once("<parameter=") {
        let (key, after) = after.split_once('>')?;
        let (value, after) = after.split_once("</parameter>").or_else(|| after.split_once("<parameter="))?;
        let value = value.strip_prefix('\n').unwrap_or(value);
        let value = value.strip_suffix('\n').unwrap_or(value);
        let key = key.trim().to_owned();
        // The format does not tell types. What reads as a number, list, object, bool or null is taken as such, where the
        // schema does not say that it is a text.
        let parsed = if texts.has(&name, &key) { None } else { serde_json::from_str(value).ok() };
        arguments.insert(key, parsed.unwrap_or_else(|| value.into()));
        rest = after;
    }
    Some(ParsedCall { name, arguments: Value::from(arguments).to_string() })
}

fn deepseek(text: &str) -> Option<ParsedCall> {
    let (first, rest) = text.split_once("<｜tool▁sep｜>")?;
    let (name, arguments) = match rest.split_once("```json") {
        Some((name, block)) => (name, block.trim().trim_end_matches("```")),
        None => (first, rest),
    };
    Some(ParsedCall { name: valid_name(name.trim())?, arguments: object_text(arguments)? })
}
