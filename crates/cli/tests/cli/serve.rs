//! The daemon on real models, over its socket.
use std::process::Command;

use crate::common::{Temp, fixtures};
use crate::daemon::Daemon;
use serde_json::{Value, json};

#[test]
fn the_daemon_tells_stories_to_every_client_and_stops_when_asked() {
    let home = Temp::new("serve");
    let Some(fixtures) = fixtures() else { return };
    let mut daemon = Daemon::start(&home, &fixtures.join("stories260k"));
    let story = std::fs::read_to_string(fixtures.join("stories260k/greedy-200.txt")).expect("text");
    let tags: Value = serde_json::from_str(&daemon.ask("GET", "/api/tags", "").1).expect("JSON");
    let names: Vec<&str> =
        tags["models"].as_array().expect("models").iter().filter_map(|m| m["name"].as_str()).collect();
    // Three of the folder, two inside of the program.
    assert_eq!(names.len(), 5, "{names:?}");

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
