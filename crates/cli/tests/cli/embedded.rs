//! The models inside the program: chat, tool calls, long replies, drafts. Greedy replies, so they are the same anywhere.

use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::commands::read_logits;
use crate::common::{Temp, fixtures, mlx_run, stdout, succeed};
use crate::daemon::Daemon;

/// Logits after every token of `tokens`, [n_tok][n_vocab].
fn logits(home: &Temp, model: &str, tokens: &[u32]) -> Vec<Vec<f32>> {
    let (ids, out) = (tokens.iter().map(u32::to_string).collect::<Vec<_>>(), home.file(model));
    succeed(home, &["logits", "--model", model, "--tokens", &ids.join(","), "--out", &out]);
    let numbers = read_logits(&out).1;
    numbers.chunks(numbers.len() / tokens.len()).map(<[f32]>::to_vec).collect()
}

fn tokenize(home: &Temp, text: &str) -> Vec<u32> {
    let output = succeed(home, &["tokenize", "--model", "mlxr-small", "--parse-special", "--json", text]);
    serde_json::from_str(stdout(&output)).expect("one array")
}

/// Index of the largest.
fn best(row: &[f32]) -> usize {
    (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).expect("a vocabulary")
}

#[test]
fn run_alone_chats_with_the_model_inside_and_says_so() {
    let home = Temp::new("embedded-run");
    let mut child = mlx_run(&home, &["run", "--temperature", "0"]);
    let child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("the binary runs");
    child.stdin.take().expect("a pipe").write_all(b"What is the capital of France?\n").expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success());
    assert_eq!(stdout(&output), "The capital of France is Paris.\n");
    let notes = String::from_utf8_lossy(&output.stderr);
    assert!(notes.starts_with("mlxr-small: ") && notes.contains("a larger one: mlx-run run FILE.gguf"), "{notes}");
    assert_eq!(notes.lines().count(), 1, "{notes}");

    let listed = succeed(&home, &["list"]);
    let shown = succeed(&home, &["show", "mlxr-draft"]);
    assert!(stdout(&listed).contains("mlxr-small") && stdout(&listed).contains("built in"), "{}", stdout(&listed));
    assert!(stdout(&shown).contains("8192 tokens"), "{}", stdout(&shown));
    // A model of the folder is preferred to one inside of the program that has its name.
    std::fs::write(home.file("mlxr-small.gguf"), b"GGUF").expect("a file");
    let hidden = mlx_run(&home, &["show", "mlxr-small", "--models", &home.file("")]).output().expect("the binary runs");
    assert_eq!(hidden.status.code(), Some(1), "the damaged file is opened");
    let prompt = mlx_run(&home, &["run", "How are you?"]).stdin(Stdio::null()).output().expect("the binary runs");
    let notes = String::from_utf8_lossy(&prompt.stderr);
    assert!(prompt.status.code() == Some(2) && notes.contains("a prompt comes after the model"), "{notes}");
}

/// A function whose parameters are all required: name, type and description of each.
fn function(name: &str, description: &str, parameters: &[[&str; 3]]) -> Value {
    let property = |[name, kind, about]: &[&str; 3]| ((*name).to_owned(), json!({"type": kind, "description": about}));
    let properties: serde_json::Map<_, _> = parameters.iter().map(property).collect();
    let required: Vec<&str> = parameters.iter().map(|parameter| parameter[0]).collect();
    let parameters = json!({"type": "object", "properties": properties, "required": required});
    json!({"type": "function", "function": {"name": name, "description": description, "parameters": parameters}})
}

#[test]
fn tools_are_called_with_the_right_arguments_and_their_results_are_told() {
    let home = Temp::new("embedded-tools");
    let daemon = Daemon::start(&home, &home.0);
    let listed = daemon.ask("GET", "/v1/models", "").1;
    assert!(listed.contains("mlxr-small") && listed.contains("mlxr-draft"), "{listed}");
    let time = ["time", "string", "Time as HH:MM"];
    let tools = [
        function("get_weather", "Get the current weather of a city", &[["city", "string", "Name of the city"]]),
        function("create_reminder", "Create a reminder", &[["title", "string", "What to remind of"], time]),
        function("set_timer", "Start a timer", &[["minutes", "integer", "Length in minutes"]]),
    ];
    // Question, function, arguments; no function for small talk.
    let rows = [
        ("What is the weather in Lisbon?", Some(("get_weather", json!({"city": "Lisbon"})))),
        ("Remind me of the dentist at 15:30", Some(("create_reminder", json!({"title": "dentist", "time": "15:30"})))),
        ("Set a timer for 25 minutes", Some(("set_timer", json!({"minutes": 25})))),
        ("Hello, who are you?", None),
    ];
    for (question, want) in rows {
        let messages = json!([{"role": "user", "content": question}]);
        let body = json!({"model": "mlxr-small", "messages": messages, "tools": tools, "temperature": 0});
        let choice = &daemon.post("/v1/chat/completions", &body)["choices"][0];
        let Some((name, arguments)) = want else {
            assert!(choice["message"]["tool_calls"].is_null(), "{choice}");
            continue;
        };
        let call = &choice["message"]["tool_calls"][0]["function"];
        assert_eq!(call["name"], name, "{choice}");
        let text = call["arguments"].as_str().expect("JSON in text");
        assert_eq!(serde_json::from_str::<Value>(text).expect("JSON"), arguments, "{choice}");
        assert_eq!(choice["finish_reason"], "tool_calls");
    }
    let call = json!({"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": "{\"city\": \"Lisbon\"}"}});
    let messages = json!([
        {"role": "user", "content": "What is the weather in Lisbon?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "{\"temperature\": 17, \"condition\": \"sunny\"}"},
    ]);
    let body = json!({"model": "mlxr-small", "messages": messages, "tools": tools, "temperature": 0});
    let told = daemon.post("/v1/chat/completions", &body)["choices"][0]["message"]["content"].to_string();
    assert!(told.contains("17") && told.contains("sunny"), "{told}");
}

#[test]
fn a_long_reply_is_finite_and_the_same_alone_and_in_a_batch() {
    const N_TOKEN: usize = 1000;
    let home = Temp::new("embedded-long");
    let daemon = Daemon::start(&home, &home.0);
    // Without its end tokens the model goes on to the limit.
    let endless = json!({"0": -100, "2": -100});
    let ask = |prompt: &str| {
        let body = json!({"model": "mlxr-small", "prompt": prompt, "temperature": 0, "max_tokens": N_TOKEN,
                          "logit_bias": endless, "logprobs": 1});
        let choice = daemon.post("/v1/completions", &body)["choices"][0].clone();
        let logprobs = choice["logprobs"]["token_logprobs"].as_array().expect("a list").clone();
        (choice["text"].as_str().expect("text").to_owned(), logprobs)
    };
    let prompts =
        ["Chapter 1\n\nIt was a cold morning when", "The first rule of grammar is", "On the shore of the lake"];
    let (alone, logprobs) = ask(prompts[0]);
    assert_eq!(logprobs.len(), N_TOKEN);
    // JSON has no NaN: a number that is not finite would be null.
    assert!(logprobs.iter().all(|logprob| logprob.as_f64().is_some_and(|p| p <= 0.0)), "{logprobs:?}");
    let together: Vec<_> = std::thread::scope(|scope| {
        let threads = prompts.map(|prompt| scope.spawn(move || ask(prompt)));
        threads.map(|thread| thread.join().expect("an answer")).into()
    });
    assert_eq!(together[0].0, alone);
    assert!(together[1].0 != alone && together[2].0 != alone);
}

#[test]
fn drafts_of_any_model_leave_the_text_as_it_is() {
    let Some(fixtures) = fixtures() else { return };
    let stories = fixtures.join("stories260k/stories260K-f32.gguf");
    let home = Temp::new("embedded-drafts");
    // One of its own vocabulary, and one whose vocabulary has 512 tokens of another kind.
    let flags = [["--draft-max", "0"], ["--draft", "mlxr-draft"], ["--draft", stories.to_str().expect("text")]];
    let texts = flags.map(|flags| {
        let daemon = Daemon::start_with(&home, &home.0, &[&flags[..], &["--no-disk", "--kv-memory", "64MiB"]].concat());
        let ask = |temperature: f32| {
            let body = json!({"model": "mlxr-small", "prompt": "Once upon a time, there was a little girl named",
                              "temperature": temperature, "seed": 7, "max_tokens": 150});
            daemon.post("/v1/completions", &body)["choices"][0]["text"].to_string()
        };
        let texts = [0.0, 0.8].map(ask);
        let n_draft = daemon.count("vllm:spec_decode_num_draft_tokens_total");
        assert_eq!(n_draft > 0.0, flags[1] != "0", "{flags:?}: {n_draft} tokens were drafted");
        texts
    });
    assert!(texts[0][0].len() > 200, "{}", texts[0][0]);
    assert_eq!([&texts[1], &texts[2]], [&texts[0]; 2]);
}

#[test]
fn the_draft_model_mostly_agrees() {
    let home = Temp::new("embedded-draft");
    // What the model says by itself: there a draft is accepted when both would say the same.
    let rows = ["Tell me a story about a dragon.", "Who are you?", "Why is the sky blue?", "What can you do?"];
    let (mut n_token, mut n_agree) = (0, 0);
    for question in rows {
        let rendered = succeed(&home, &["template", "--model", "mlxr-small", question]);
        let reply = succeed(&home, &["run", "mlxr-small", question, "--temperature", "0", "--kv-type", "f32"]);
        let prompt = tokenize(&home, stdout(&rendered));
        let tokens = tokenize(&home, &format!("{}{}<|im_end|>", stdout(&rendered), stdout(&reply).trim_end()));
        assert_eq!(tokens[..prompt.len()], prompt);
        let (main, draft) = (logits(&home, "mlxr-small", &tokens), logits(&home, "mlxr-draft", &tokens));
        assert!(main != draft, "the draft model is another one");
        for t in prompt.len() - 1..tokens.len() - 1 {
            assert_eq!(best(&main[t]), tokens[t + 1] as usize, "{question}: token {t} of the greedy reply");
            n_agree += usize::from(best(&draft[t]) == best(&main[t]));
            n_token += 1;
        }
    }
    let share = n_agree as f64 / f64::from(n_token);
    assert!(n_token > 100 && share > 0.7, "the draft model agrees on {share:.3} of {n_token} tokens");
}
