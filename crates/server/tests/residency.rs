//! Several models in one memory: which go for which, which stay, and who waits for whom.

mod common;

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::client::{self, Response};
use common::{Server, fake};
use mlxr_server::Config;
use mlxr_server::tenant::Tenants;
use serde_json::{Value, json};

const BOTH: u64 = 2 * (fake::WEIGHTS_BYTES + fake::ARENA_BYTES);

fn server(config: Config) -> Server {
    Server::with(config, fake::Loader::default())
}

fn ask(server: &Server, model: &str) -> Response {
    let body = json!({"model": model, "prompt": "@[ok]@", "raw": true, "stream": false});
    client::post(server.address, "/api/generate", &body)
}

/// Asks and does not wait for the answer's head.
fn ask_and_leave(server: &Server, model: &str) {
    let body = json!({"model": model, "prompt": "@[ok]@", "raw": true}).to_string();
    let head = "POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
    let mut socket = TcpStream::connect(server.address).expect("the server listens");
    write!(socket, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).expect("the server reads");
    wait_until("the load", || server.loader.loads.waiting.load(Ordering::SeqCst) > 0);
}

fn loaded(server: &Server) -> Vec<Value> {
    let ps = client::get(server.address, "/api/ps").json();
    ps["models"].as_array().expect("a list").iter().map(|model| model["name"].clone()).collect()
}

fn loaded_by(server: &Server, key: &str) -> Vec<Value> {
    let key = format!("Bearer {key}");
    let ps = client::open(server.address, "GET", "/api/ps", &[("Authorization", &key)], "").finish().json();
    ps["models"].as_array().expect("a list").iter().map(|model| model["name"].clone()).collect()
}

fn metric(server: &Server, name: &str) -> u64 {
    let text = client::get(server.address, "/metrics").body;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    line.unwrap_or_else(|| panic!("no {name} in {text}"))
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} did not come");
        std::thread::yield_now();
    }
}

#[test]
fn models_share_a_budget_and_the_oldest_goes() {
    let server = server(Config { memory_bytes: BOTH - 1, ..Config::default() });
    for model in ["fake", "bare", "fake"] {
        let answer = ask(&server, model);
        assert_eq!(answer.json()["response"], "ok", "{answer:?}");
        assert_eq!(loaded(&server), [model], "the other one went");
        assert_eq!(metric(&server, "mlxr:memory_bytes"), BOTH / 2);
    }
    assert_eq!(server.loader.n_load.load(Ordering::SeqCst), 3);
}

#[test]
fn the_loader_is_told_when_a_model_was_freed() {
    let server = server(Config::default());
    assert_eq!(ask(&server, "fake").json()["response"], "ok");
    let n_freed = || server.loader.n_freed.load(Ordering::SeqCst);
    assert_eq!((n_freed(), metric(&server, "mlxr:memory_bytes")), (0, BOTH / 2));
    client::post(server.address, "/api/generate", &json!({"model": "fake", "keep_alive": 0}));
    wait_until("the memory", || metric(&server, "mlxr:memory_bytes") == 0);
    assert!(n_freed() > 0, "memory counts as free that was not given back");
    // What runs it, and what the server knows of it.
    wait_until("the rest", || n_freed() == 2);
}

#[test]
fn what_is_in_use_or_pinned_does_not_go() {
    let server = server(Config { memory_bytes: BOTH - 1, ..Config::default() });
    server.loader.gate.close();
    let body = json!({"model": "fake", "prompt": "@[ok]@", "raw": true});
    let used = client::open(server.address, "POST", "/api/generate", &[], &body.to_string());
    wait_until("the model", || loaded(&server) == ["fake"]);
    let refused = ask(&server, "bare");
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.body.contains("models in use take") && refused.header("retry-after").is_some(), "{refused:?}");
    server.loader.gate.open();
    used.finish();
    wait_until("room", || ask(&server, "bare").status == 200);

    let pinned = Config { memory_bytes: BOTH - 1, pinned: vec!["fake:latest".into()], ..Config::default() };
    let server = self::server(pinned);
    wait_until("the pinned model", || loaded(&server) == ["fake"]);
    assert_eq!(ask(&server, "bare").status, 503);
    let body = json!({"model": "fake", "keep_alive": 0});
    let refused = client::post(server.address, "/api/generate", &body);
    assert!(refused.status == 400 && refused.body.contains("is pinned"), "{refused:?}");
    assert_eq!(loaded(&server), ["fake"]);
}

#[test]
fn tenants_show_keys_and_have_limits() {
    let file = r#"{"tenants": [{"name": "a", "key": "sk-a", "requests": 1, "models": ["fake"]}, {"name": "b", "key": "sk-b",
        "tokens_per_minute": 10}]}"#;
    let tenants = Tenants::parse(file).expect("tenants");
    let server = server(Config { tenants: Some(tenants), ..Config::default() });
    let ask = |path: &str, key: &str, body: &Value| {
        let key = format!("Bearer {key}");
        client::open(server.address, "POST", path, &[("Authorization", &key)], &body.to_string())
    };
    let body = |model: &str| json!({"model": model, "prompt": "@[ok]@", "stream": true});
    assert_eq!(client::get(server.address, "/health").status, 200, "anyone may ask whether it is well");
    for (path, key, model, status) in [
        ("/v1/completions", "sk-c", "fake", 401),
        ("/api/generate", "sk-c", "fake", 401),
        ("/v1/completions", "sk-a", "bare", 403),
        ("/api/generate", "sk-a", "bare", 403),
        ("/v1/completions", "sk-a", "fake", 200),
        ("/api/generate", "sk-a", "fake", 200),
    ] {
        let answer = ask(path, key, &body(model)).finish();
        assert_eq!(answer.status, status, "{path} {key} {model}: {answer:?}");
    }
    assert_eq!(loaded_by(&server, "sk-a"), ["fake"], "no one loads what he may not use");

    server.loader.gate.close();
    let first = ask("/v1/completions", "sk-a", &body("fake"));
    let second = ask("/v1/completions", "sk-a", &body("fake")).finish();
    assert!(second.status == 429 && second.header("retry-after").is_some(), "{second:?}");
    let other = ask("/v1/completions", "sk-b", &body("fake"));
    server.loader.gate.open();
    assert_eq!([first.finish().status, other.finish().status], [200, 200]);
    wait_until("the end", || ask("/v1/completions", "sk-a", &body("fake")).finish().status == 200);
    // Six bytes asked and two said are eight of ten tokens; the next request is the last.
    assert_eq!(ask("/v1/completions", "sk-b", &body("fake")).finish().status, 200);
    wait_until("the end of the tokens", || ask("/v1/completions", "sk-b", &body("fake")).finish().status == 429);
}

#[test]
fn a_model_that_never_fits_is_told_so() {
    let server = server(Config { memory_bytes: BOTH / 2 - 1, ..Config::default() });
    let refused = ask(&server, "fake");
    assert_eq!(refused.status, 500, "{refused:?}");
    assert!(refused.body.contains("all models together may take"), "{refused:?}");
    assert_eq!(ask(&server, "none").status, 404);
    let server = self::server(Config { memory_bytes: BOTH / 2, ..Config::default() });
    assert_eq!(ask(&server, "broken").status, 500);
    assert_eq!(metric(&server, "mlxr:memory_bytes"), 0, "what did not load takes nothing");
    assert_eq!(ask(&server, "fake").status, 200);
}

#[test]
fn a_load_keeps_no_running_model_waiting_and_outlives_its_client() {
    let server = server(Config { memory_bytes: BOTH, ..Config::default() });
    assert_eq!(ask(&server, "fake").status, 200);
    server.loader.loads.close();
    ask_and_leave(&server, "bare");
    assert_eq!(ask(&server, "fake").json()["response"], "ok", "while the other loads");
    server.loader.loads.open();
    wait_until("the load", || loaded(&server) == ["bare", "fake"]);
    assert_eq!(server.loader.n_load.load(Ordering::SeqCst), 2);
    // Whoever asks for a model that is being loaded does not load it again.
    client::post(server.address, "/api/generate", &json!({"model": "bare", "keep_alive": 0}));
    wait_until("its end", || metric(&server, "mlxr:memory_bytes") == BOTH / 2);
    server.loader.loads.close();
    std::thread::scope(|scope| {
        let asks: Vec<_> = (0..3).map(|_| scope.spawn(|| ask(&server, "bare").status)).collect();
        wait_until("the load", || server.loader.loads.waiting.load(Ordering::SeqCst) > 0);
        server.loader.loads.open();
        assert!(asks.into_iter().all(|ask| ask.join().expect("an answer") == 200));
    });
    assert_eq!(server.loader.n_load.load(Ordering::SeqCst), 3);
}
