//! Every route against recorded exchanges: `exchanges/*.http` holds a request, a line of dashes, and the answer.
//!
//! What differs from run to run (identifiers, times) is written as `*`. `MLXR_BLESS=1` writes the answers anew; read
//! the difference before you commit it.

mod common;

use std::path::Path;

use common::client::{self, Response};
use serde_json::Value;

const LINE: &str = "\n----\n";

/// Names of values that differ from run to run.
const VOLATILE: [&str; 9] = [
    "cached_tokens",
    "created",
    "created_at",
    "expires_at",
    "timings",
    "total_duration",
    "load_duration",
    "prompt_eval_duration",
    "eval_duration",
];

const HEADERS: [&str; 4] =
    ["content-type", "access-control-allow-origin", "access-control-allow-methods", "access-control-allow-headers"];

fn mask(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(mask),
        Value::Object(map) => {
            for (name, value) in map.iter_mut() {
                if name == "token_logprobs" || name == "top_logprobs" {
                    round_all(value);
                }
                let is_id = name == "id" && value.as_str().is_some_and(|id| id != "fake" && id.len() >= 9);
                if let (true, Some(number)) = (name == "logprob", value.as_f64()) {
                    *value = round(number);
                } else if is_id || VOLATILE.contains(&name.as_str()) {
                    *value = "*".into();
                } else {
                    mask(value);
                }
            }
        }
        _ => {}
    }
}

/// Mathematical functions differ in their last digits from system to system.
fn round(number: f64) -> Value {
    ((number * 1e4).round() / 1e4 + 0.0).into()
}

/// Rounds the numbers in lists and maps of logprobs.
fn round_all(value: &mut Value) {
    match value {
        Value::Number(number) => *value = round(number.as_f64().unwrap_or(0.0)),
        Value::Array(items) => items.iter_mut().filter(|item| !item["logprob"].is_number()).for_each(round_all),
        Value::Object(map) => map.values_mut().for_each(round_all),
        _ => {}
    }
}

fn mask_line(line: &str) -> String {
    let (prefix, json) = line.strip_prefix("data: ").map_or(("", line), |json| ("data: ", json));
    match serde_json::from_str::<Value>(json) {
        Ok(mut value) => {
            mask(&mut value);
            format!("{prefix}{value}")
        }
        Err(_) => line.to_owned(),
    }
}

fn show(response: &Response) -> String {
    let mut out = format!("{}\n", response.status);
    for name in HEADERS {
        if let Some(value) = response.header(name) {
            out.push_str(&format!("{name}: {value}\n"));
        }
    }
    out.push('\n');
    out.push_str(&response.body.lines().map(mask_line).collect::<Vec<_>>().join("\n"));
    out
}

fn exchange(request: &str) -> String {
    let server = common::Server::start();
    let (head, body) = request.split_once("\n\n").unwrap_or((request.trim_end(), ""));
    let mut lines = head.lines();
    let (method, path) = lines.next().and_then(|line| line.split_once(' ')).expect("`METHOD path`");
    let headers: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(": ")).collect();
    show(&client::open(server.address, method, path, &headers, body.trim_end()).finish())
}

#[test]
fn every_route_answers_as_recorded() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/exchanges");
    let mut paths: Vec<_> =
        folder.read_dir().expect("the folder").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(paths.len() > 100, "only {} exchanges", paths.len());
    let bless = std::env::var_os("MLXR_BLESS").is_some();
    let mut differ = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("a recorded exchange");
        let (request, recorded) = text.split_once(LINE).unwrap_or((text.as_str(), ""));
        let found = exchange(request);
        if bless {
            std::fs::write(&path, format!("{}{LINE}{}\n", request.trim_end(), found.trim_end())).expect("to write");
        } else if found.trim_end() != recorded.trim_end() {
            differ.push(format!("{}\nrecorded:\n{recorded}\nfound:\n{found}\n", path.display()));
        }
    }
    assert!(differ.is_empty(), "{} exchanges differ:\n{}", differ.len(), differ.join("\n"));
}
