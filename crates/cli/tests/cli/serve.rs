//! The daemon on real models, over its socket.
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use crate::common::{Temp, fixtures};
use serde_json::{Value, json};

/// A daemon that is stopped in the end.
struct Daemon {
    child: Child,
    address: String,
    // Kept open: the daemon may write to it.
    _stderr: BufReader<std::process::ChildStderr>,
}

impl Daemon {
    /// Serves the stories on a free port.
    fn start(home: &Temp) -> Option<Daemon> {
        let models = fixtures()?.join("stories260k");
        let mut command = Command::new(env!("CARGO_BIN_EXE_mlxrd"));
        command
            .env_clear()
            .env("HOME", &home.0)
            .args(["--host", "127.0.0.1:0", "--threads", "2", "--models"])
            .arg(models);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the daemon starts");
        let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut line = String::new();
        stderr.read_line(&mut line).expect("it says where it listens");
        let address = line.trim().strip_prefix("listening on http://").unwrap_or_else(|| panic!("{line}")).to_owned();
        Some(Daemon { child, address, _stderr: stderr })
    }

    /// Status and body of a request.
    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        (status, answer.split_once("\r\n\r\n").expect("a body").1.to_owned())
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let (status, text) = self.ask("POST", path, &body.to_string());
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // A test that succeeded has waited for it already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_daemon_tells_stories_to_every_client_and_stops_when_asked() {
    let home = Temp::new("serve");
    let Some(mut daemon) = Daemon::start(&home) else { return };
    let story = std::fs::read_to_string(fixtures().expect("checked").join("stories260k/greedy-200.txt")).expect("text");
    let tags: Value = serde_json::from_str(&daemon.ask("GET", "/api/tags", "").1).expect("JSON");
    let names: Vec<&str> =
        tags["models"].as_array().expect("models").iter().filter_map(|m| m["name"].as_str()).collect();
    assert_eq!(names.len(), 3, "{names:?}");

    for model in ["stories260K-f32", "hf"] {
        let options = json!({"temperature": 0, "num_predict": 60});
        let body = json!({"model": model, "prompt": "", "raw": true, "stream": false, "options": options});
        // An empty prompt of Ollama's only loads a model; OpenAI's is continued.
        let loaded = daemon.post("/api/generate", &body);
        assert_eq!(loaded["done"], true, "{loaded}");
        let body = json!({"model": model, "prompt": "", "temperature": 0, "max_tokens": 60});
        let text = daemon.post("/v1/completions", &body)["choices"][0]["text"].as_str().expect("text").to_owned();
        assert!(text.len() > 50 && story.starts_with(&text), "{model}: {text:?}");
    }

    let messages = json!([{"role": "user", "content": "Hello"}]);
    let chat = daemon.post("/v1/chat/completions", &json!({"model": "hf", "messages": messages, "max_tokens": 5}));
    assert_eq!(chat["usage"]["completion_tokens"], 5, "{chat}");
    let shown = daemon.post("/api/show", &json!({"model": "hf"}));
    assert_eq!(shown["details"]["context_length"], 512, "{shown}");

    // A client cannot reach files outside of the model folder by their paths.
    for name in ["/etc/passwd", "../vocab/ggml-vocab-gpt-2.gguf", "nothing"] {
        let body = json!({"model": name, "prompt": "x"}).to_string();
        assert_eq!(daemon.ask("POST", "/v1/completions", &body).0, 404, "{name}");
    }

    let stopped = Command::new("kill").args(["-TERM", &daemon.child.id().to_string()]).status().expect("kill");
    assert!(stopped.success());
    assert_eq!(daemon.child.wait().expect("it ends").code(), Some(0));
}
