//! Replies of the model inside the program under schemas, grammars and required tools: each is what was asked for, and
//! drafts change nothing.

use serde_json::{Value, json};

use crate::common::{Temp, mlx_run, stdout, succeed};
use crate::daemon::Daemon;

/// Whether `value` fits a schema made of these words: type, enum, properties, required, additionalProperties, items,
/// maxItems, minItems, minimum, maximum, maxLength, anyOf.
fn fits(schema: &Value, value: &Value) -> bool {
    let number = |word: &str| schema[word].as_f64();
    let length = |n: usize, low: &str, high: &str| {
        number(low).is_none_or(|low| n as f64 >= low) && number(high).is_none_or(|high| n as f64 <= high)
    };
    let kind = match schema["type"].as_str() {
        None => true,
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        Some(other) => panic!("{other} is not known here"),
    };
    let listed = schema["enum"].as_array().is_none_or(|values| values.contains(value));
    let any = schema["anyOf"].as_array().is_none_or(|any| any.iter().any(|schema| fits(schema, value)));
    let inner = match value {
        Value::Object(map) => {
            let required = schema["required"].as_array().into_iter().flatten();
            let has_all = required.filter_map(Value::as_str).all(|name| map.contains_key(name));
            has_all && map.iter().all(|(key, value)| schema["properties"].get(key).is_some_and(|own| fits(own, value)))
        }
        Value::Array(items) => {
            length(items.len(), "minItems", "maxItems") && items.iter().all(|item| fits(&schema["items"], item))
        }
        Value::String(text) => length(text.chars().count(), "minLength", "maxLength"),
        Value::Number(n) => {
            let n = n.as_f64().expect("a small number");
            number("minimum").is_none_or(|low| n >= low) && number("maximum").is_none_or(|high| n <= high)
        }
        _ => true,
    };
    kind && listed && any && inner
}

fn object(properties: &Value) -> Value {
    let names: Vec<&String> = properties.as_object().expect("properties").keys().collect();
    json!({"type": "object", "properties": properties, "required": names, "additionalProperties": false})
}

/// Schemas whose values are short.
fn schemas() -> Vec<Value> {
    let text = |n: usize| json!({"type": "string", "maxLength": n});
    vec![
        object(&json!({"name": text(12), "age": {"type": "integer", "minimum": 0, "maximum": 120}})),
        object(&json!({
            "title": text(20),
            "steps": {"type": "array", "minItems": 1, "maxItems": 3, "items": object(&json!({
                "action": {"enum": ["cook", "cut", "wait"]}, "minutes": {"type": "integer", "minimum": 1, "maximum": 60}}))},
            "vegan": {"type": "boolean"},
        })),
        json!({"type": "array", "minItems": 2, "maxItems": 4, "items": {"anyOf": [text(5), {"type": "null"}]}}),
        object(&json!({"a_rather_long_name_of_a_property": {"enum": ["a rather long text, which comes as one"]},
            "number": {"type": "number", "minimum": -1, "maximum": 1}})),
        json!({"enum": ["red", "green", "blue", 3, null]}),
    ]
}

/// The contents of a streamed chat, joined.
fn streamed(daemon: &Daemon, body: &Value) -> String {
    let mut body = body.clone();
    body["stream"] = true.into();
    let (status, text) = daemon.ask("POST", "/v1/chat/completions", &body.to_string());
    assert_eq!(status, 200, "{text}");
    let events = text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|line| *line != "[DONE]");
    let content = |event: &str| {
        let event: Value = serde_json::from_str(event).unwrap_or_else(|error| panic!("{error}: {event}"));
        event["choices"][0]["delta"]["content"].as_str().map(str::to_owned)
    };
    events.filter_map(content).collect()
}

#[test]
fn every_reply_fits_its_schema_with_drafts_and_without_streamed_and_whole() {
    let home = Temp::new("grammar-schemas");
    let plain = Daemon::start_with(&home, &home.0, &["--draft-max", "0", "--no-disk", "--kv-memory", "256MiB"]);
    let drafted = Daemon::start_with(&home, &home.0, &["--draft", "mlxr-draft", "--no-disk", "--kv-memory", "256MiB"]);
    let mut n_saved = 0;
    for (index, schema) in schemas().iter().enumerate() {
        for (temperature, seed) in [(0.0, 0), (1.0, 1), (1.7, 2)] {
            let format = json!({"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": schema}});
            let messages = json!([{"role": "user", "content": "Describe a simple recipe as JSON."}]);
            let body = json!({"model": "mlxr-small", "messages": messages, "response_format": format,
                "temperature": temperature, "seed": seed});
            let whole = plain.post("/v1/chat/completions", &body);
            let text = whole["choices"][0]["message"]["content"].as_str().expect("a text").to_owned();
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert!(fits(schema, &value), "schema {index} at {temperature}: {text}");
            assert_eq!(whole["choices"][0]["finish_reason"], "stop", "{whole}");
            for daemon in [&plain, &drafted] {
                assert_eq!(streamed(daemon, &body), text, "schema {index} at {temperature}");
            }
            let with_drafts = drafted.post("/v1/chat/completions", &body);
            assert_eq!(with_drafts["choices"][0]["message"]["content"], text.as_str());
            assert_eq!(with_drafts["usage"]["completion_tokens"], whole["usage"]["completion_tokens"]);
            n_saved += 1;
        }
    }
    assert_eq!(n_saved, 15);
    let accepted = drafted.count("vllm:spec_decode_num_accepted_tokens_total");
    assert!(accepted > 20.0, "what a schema forces is drafted and accepted: {accepted}");
    let ollama = json!({"model": "mlxr-small", "prompt": "A cook", "format": schemas()[0], "stream": false});
    let reply = drafted.post("/api/generate", &ollama);
    let value: Value = serde_json::from_str(reply["response"].as_str().expect("a text")).expect("JSON");
    assert!(fits(&schemas()[0], &value), "{reply}");
}

#[test]
fn a_required_tool_is_called_with_valid_arguments() {
    let home = Temp::new("grammar-tools");
    let daemon = Daemon::start_with(&home, &home.0, &["--no-disk", "--kv-memory", "256MiB"]);
    let parameters = object(&json!({"city": {"type": "string", "maxLength": 20}, "days": {"enum": [1, 3, 7]}}));
    let other = object(&json!({"on": {"type": "boolean"}}));
    let tools = json!([
        {"type": "function", "function": {"name": "get_forecast", "parameters": parameters}},
        {"type": "function", "function": {"name": "switch_light", "parameters": other}},
    ]);
    let named = json!({"type": "function", "function": {"name": "switch_light"}});
    for (choice, temperature) in
        [(json!("required"), 0.0), (json!("required"), 1.5), (named.clone(), 0.0), (named, 1.5)]
    {
        let body = json!({"model": "mlxr-small", "messages": [{"role": "user", "content": "Hello there!"}],
            "tools": tools, "tool_choice": choice, "parallel_tool_calls": false, "temperature": temperature, "seed": 5});
        let reply = &daemon.post("/v1/chat/completions", &body)["choices"][0];
        assert_eq!(reply["finish_reason"], "tool_calls", "{reply}");
        let call = &reply["message"]["tool_calls"][0]["function"];
        let arguments: Value = serde_json::from_str(call["arguments"].as_str().expect("a text")).expect("JSON");
        let (is_light, schema) = match call["name"].as_str() {
            Some("switch_light") => (true, &other),
            _ => (false, &parameters),
        };
        assert!(fits(schema, &arguments), "{reply}");
        assert!(is_light || choice == "required", "{reply}");
    }
}

#[test]
fn run_replies_in_a_format_or_by_a_grammar() {
    let home = Temp::new("grammar-run");
    std::fs::write(home.file("schema.json"), schemas()[0].to_string()).expect("a file");
    std::fs::write(home.file("list.gbnf"), "root ::= (\"- \" [a-z ]{1,8} \"\\n\"){2}\n").expect("a file");
    std::fs::write(home.file("bad.json"), "{\"type\": \"thing\"}").expect("a file");
    let ask = "Describe a person";
    let output = succeed(&home, &["run", "mlxr-small", ask, "--format", &home.file("schema.json")]);
    let value: Value = serde_json::from_str(stdout(&output)).expect("JSON");
    assert!(fits(&schemas()[0], &value), "{value}");
    let output = succeed(&home, &["run", "mlxr-small", ask, "--format", "json", "--max-tokens", "300"]);
    assert!(stdout(&output).starts_with('{'), "{}", stdout(&output));
    let output = succeed(&home, &["run", "mlxr-small", ask, "--raw", "--grammar", &home.file("list.gbnf")]);
    let lines: Vec<&str> = stdout(&output).lines().collect();
    assert!(lines.len() == 2 && lines.iter().all(|line| line.starts_with("- ")), "{lines:?}");
    let refused =
        mlx_run(&home, &["run", "mlxr-small", ask, "--format", &home.file("bad.json")]).output().expect("it runs");
    let notes = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && notes.contains("Invalid type: thing"), "{notes}");
}
