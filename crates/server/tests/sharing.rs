//! Several clients at once: they share batches without hearing each other, and one that leaves frees its sequence.

mod common;

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use common::{Server, client, fake};
use mlxr_server::{Config, Job, Prompt};
use serde_json::{Value, json};

fn chat(text: &str) -> Value {
    json!({"model": "fake", "messages": [{"role": "user", "content": text}], "max_tokens": 60, "stream": true})
}

/// The content of a streamed chat.
fn content(body: &str) -> String {
    let chunks = body.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    chunks
        .map(|data| {
            let chunk: Value = serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {data}"));
            chunk["choices"][0]["delta"]["content"].as_str().unwrap_or("").to_owned()
        })
        .collect()
}

/// Waits for what other threads do; the limit is far above what it takes.
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} did not come");
        thread::yield_now();
    }
}

#[test]
fn eight_streams_at_once_say_what_each_says_alone() {
    let prompts: Vec<String> = (0..8)
        .map(|i| if i % 2 == 0 { format!("tell {i}") } else { format!("@[{}]@", "Ünïcödé 🦜 ".repeat(i)) })
        .collect();
    let server = Server::start();
    let path = "/v1/chat/completions";
    let alone: Vec<String> =
        prompts.iter().map(|prompt| content(&client::post(server.address, path, &chat(prompt)).body)).collect();
    let steps_alone = server.loader.gate.steps.load(Ordering::SeqCst);
    server.loader.gate.close();
    // The first step waits at the gate until all are submitted, so that they share the steps after it.
    let streams: Vec<_> = prompts
        .iter()
        .map(|prompt| client::open(server.address, "POST", path, &[], &chat(prompt).to_string()))
        .collect();
    server.loader.gate.open();
    let threads: Vec<_> =
        streams.into_iter().map(|stream| thread::spawn(move || content(&stream.finish().body))).collect();
    let together: Vec<String> = threads.into_iter().map(|thread| thread.join().expect("a client")).collect();
    assert_eq!(together, alone);
    assert!(alone.iter().all(|text| text.len() > 9), "{alone:?}");
    let steps_together = server.loader.gate.steps.load(Ordering::SeqCst) - steps_alone;
    assert!(steps_together * 2 < steps_alone, "{steps_together} steps together, {steps_alone} one after another");
}

/// Runs `leave` on a stream that has begun, and expects its sequence to end long before its 1900 tokens.
fn check_disconnect(path: &str, body: &Value) {
    let server = Server::start();
    let gate = &server.loader.gate;
    gate.close();
    let (address, text) = (server.address, body.to_string());
    gate.allow(8);
    if body["stream"] == json!(true) {
        let mut stream = client::open(address, "POST", path, &[], &text);
        assert_eq!(stream.status, 200);
        assert!(stream.chunk().is_some());
        drop(stream);
    } else {
        use std::io::Write;
        let mut socket = std::net::TcpStream::connect(address).expect("the server listens");
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        socket.write_all(head.as_bytes()).expect("the server reads");
        wait_until("the eighth step", || gate.steps.load(Ordering::SeqCst) >= 8);
        drop(socket);
    }
    // The server hears of it while the model stands still, or within the few steps it is then let through.
    let mut allowed = 8;
    wait_until("the end of the sequence", || {
        let ps = client::get(address, "/api/ps").json();
        assert_eq!(ps["models"][0]["name"], "fake");
        assert_eq!((&ps["models"][0]["backend"], &ps["models"][0]["size_vram"]), (&"fake".into(), &300.into()));
        assert_eq!(ps["models"][0]["size"], fake::WEIGHTS_BYTES + fake::ARENA_BYTES);
        let running = server_running(address);
        if running > 0 && allowed < 1800 {
            gate.allow(1);
            allowed += 1;
            thread::sleep(Duration::from_millis(5));
        }
        running == 0
    });
    assert!(allowed < 1800, "the sequence ran on for {allowed} steps");
    gate.open();
}

fn server_running(address: std::net::SocketAddr) -> u64 {
    client::get(address, "/health").json()["running"].as_u64().expect("health tells how many run")
}

#[test]
fn a_client_that_leaves_frees_its_sequence() {
    let messages = json!([{"role": "user", "content": "go on"}]);
    let streamed = json!({"model": "fake", "messages": messages, "max_tokens": 1900, "stream": true});
    let whole = json!({"model": "fake", "messages": messages, "max_tokens": 1900});
    check_disconnect("/v1/chat/completions", &streamed);
    check_disconnect("/v1/chat/completions", &whole);
    check_disconnect(
        "/v1/completions",
        &json!({"model": "fake", "prompt": "go on", "max_tokens": 1900, "stream": true}),
    );
    check_disconnect("/api/chat", &json!({"model": "fake", "messages": messages, "stream": true}));
    check_disconnect("/api/generate", &json!({"model": "fake", "prompt": "go on", "stream": false}));
}

#[test]
fn requests_over_a_limit_are_refused() {
    let config = Config { body_bytes: 2000, header_bytes: 1000, max_models: 1, ..Config::default() };
    let server = Server::with(config, fake::Loader::default());
    let big = json!({"model": "fake", "messages": [{"role": "user", "content": "x".repeat(3000)}]});
    for (path, field) in [("/v1/chat/completions", "/error/message"), ("/api/chat", "/error")] {
        let refused = client::post(server.address, path, &big);
        assert_eq!(refused.status, 413, "{refused:?}");
        let message = refused.json().pointer(field).cloned();
        assert_eq!(message, Some(json!("the request's body is over the limit of 2000 bytes")), "{path}");
        let header = "y".repeat(1001);
        let refused = client::open(server.address, "GET", path, &[("X-Long", header.as_str())], "").finish();
        assert_eq!(refused.status, 431, "{refused:?}");
        let refused = client::open(server.address, "GET", "/health", &[("X-Long", &"y".repeat(1 << 20))], "").finish();
        assert_eq!(refused.status, 431, "{refused:?}");
    }
    let many: Vec<Value> = (0..8193).map(|_| json!({"role": "user", "content": ""})).collect();
    let wide = Server::start();
    let refused = client::post(wide.address, "/v1/chat/completions", &json!({"model": "fake", "messages": many}));
    assert_eq!((refused.status, refused.json()["error"]["param"].clone()), (400, json!("messages")));
}

#[test]
fn a_full_queue_is_told() {
    let engine = mlxr_engine::Config { max_running: 1, max_queue: 1, ..mlxr_engine::Config::default() };
    let server = Server::with(Config { engine, ..Config::default() }, fake::Loader::default());
    let body = json!({"model": "fake", "messages": [{"role": "user", "content": "@[a]@"}], "n": 6});
    server.loader.gate.close();
    server.loader.gate.allow(1);
    let refused = client::post(server.address, "/v1/chat/completions", &body);
    server.loader.gate.open();
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(refused.json()["error"]["type"], "unavailable_error");
    assert!(refused.header("retry-after").is_some_and(|seconds| seconds.parse::<u64>().is_ok_and(|s| s >= 1)));
}

#[test]
fn a_client_with_too_many_requests_is_told() {
    let engine = mlxr_engine::Config { max_client: 2, ..mlxr_engine::Config::default() };
    let server = Server::with(Config { engine, ..Config::default() }, fake::Loader::default());
    let body = |user: &str, n: usize| json!({"model": "fake", "messages": [{"role": "user", "content": "@[a]@"}], "n": n, "user": user});
    let refused = client::post(server.address, "/v1/chat/completions", &body("a", 3));
    assert_eq!(refused.status, 429, "{refused:?}");
    assert_eq!(refused.json()["error"]["type"], "rate_limit_error");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(client::post(server.address, "/v1/chat/completions", &body("a", 2)).status, 200);
}

#[test]
fn metrics_have_the_names_of_vllm() {
    let server = Server::start();
    let body = json!({"model": "fake", "messages": [{"role": "user", "content": "@[hello]@"}]});
    let answer = client::post(server.address, "/v1/chat/completions", &body);
    assert!(answer.header("x-request-id").is_some_and(|id| id.starts_with("req-")), "{answer:?}");
    let text = client::get(server.address, "/metrics").body;
    let label = "{model_name=\"fake\",engine=\"0\"}";
    for line in [
        format!("vllm:num_requests_running{label} 0"),
        format!("vllm:generation_tokens_total{label} 6"),
        format!("vllm:e2e_request_latency_seconds_count{label} 1"),
        "vllm:request_success_total{model_name=\"fake\",engine=\"0\",finished_reason=\"stop\"} 1".to_owned(),
        "vllm:time_to_first_token_seconds_bucket{model_name=\"fake\",engine=\"0\",le=\"+Inf\"} 1".to_owned(),
        "# TYPE vllm:inter_token_latency_seconds histogram".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "no `{line}` in\n{text}");
    }
}

#[test]
fn a_stuck_model_is_told() {
    let config = Config { stuck_after: Duration::ZERO, ..Config::default() };
    let server = Server::with(config, fake::Loader::default());
    assert_eq!(client::get(server.address, "/health").status, 200);
    server.loader.gate.close();
    let body = json!({"model": "fake", "messages": [{"role": "user", "content": "@[hello]@"}], "stream": true});
    let stream = client::open(server.address, "POST", "/v1/chat/completions", &[], &body.to_string());
    wait_until("the step that does not end", || client::get(server.address, "/health").status == 503);
    server.loader.gate.open();
    stream.finish();
    wait_until("the end", || client::get(server.address, "/health").status == 200);
}

#[test]
fn models_are_loaded_once_and_make_room() {
    let server = Server::with(Config { max_models: 1, ..Config::default() }, fake::Loader::default());
    let ask = |model: &str| {
        let body = json!({"model": model, "prompt": "@[ok]@", "raw": true, "stream": false});
        client::post(server.address, "/api/generate", &body)
    };
    for _ in 0..3 {
        assert_eq!(ask("fake").json()["response"], "ok");
    }
    assert_eq!(server.loader.n_load.load(Ordering::SeqCst), 1);
    assert_eq!(ask("bare").json()["response"], "ok");
    let names = |server: &Server| {
        let ps = client::get(server.address, "/api/ps").json();
        ps["models"].as_array().expect("a list").iter().map(|model| model["name"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&server), ["bare"]);
    client::post(server.address, "/api/generate", &json!({"model": "bare", "keep_alive": 0}));
    assert_eq!(names(&server), Vec::<Value>::new());
    let body = json!({"model": "fake", "prompt": "@[ok]@", "keep_alive": "1ms", "stream": false});
    assert_eq!(client::post(server.address, "/api/generate", &body).json()["response"], "ok");
    wait_until("the end of the keep-alive time", || names(&server).is_empty());
}

#[test]
fn a_model_that_fails_is_loaded_anew() {
    let server = Server::start();
    let poison = json!({"model": "bare", "prompt": [1, 2, 263]});
    let failed = client::post(server.address, "/v1/completions", &poison);
    assert_eq!(failed.status, 500, "{failed:?}");
    assert!(failed.body.contains("met its poison"), "{failed:?}");
    let body = json!({"model": "bare", "prompt": "@[ok]@"});
    let mut answer = client::post(server.address, "/v1/completions", &body);
    // The engine says that it failed before it is known to be dead.
    wait_until("the new model", || {
        if answer.status != 200 {
            answer = client::post(server.address, "/v1/completions", &body);
        }
        answer.status == 200
    });
    assert_eq!(answer.json()["choices"][0]["text"], "ok");
    assert_eq!(server.loader.n_load.load(Ordering::SeqCst), 2);
}

#[test]
fn a_job_runs_without_a_server_too() {
    use mlxr_server::{Event, Generation, Model, ModelLoader};
    let loaded = fake::Loader::default().load("fake", 0).expect("the fake model");
    let model = Model::start(loaded, mlxr_engine::Config::default(), None, Instant::now()).expect("an engine");
    let job = Job::new("fake", Prompt::Text("@[héllo]@".into()));
    let mut generation = Generation::start(&std::sync::Arc::new(model), &job).expect("a generation");
    let mut text = String::new();
    while let Some(event) = generation.next_blocking() {
        if let Event::Grown { deltas, .. } = event.expect("the model runs") {
            for delta in deltas {
                let mlxr_text::chat::Delta::Content(piece) = delta else { panic!("{delta:?}") };
                text.push_str(&piece);
            }
        }
    }
    assert_eq!(text, "héllo");
}
