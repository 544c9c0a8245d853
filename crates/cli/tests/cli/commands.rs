//! The commands on the fixtures, by the real binary.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use crate::common::{Temp, fixtures, mlx_run, stdout, succeed};
use serde_json::Value;

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[test]
fn stories_are_told_as_they_are_known_from_gguf_and_safetensors() {
    let Some(fixtures) = fixtures() else { return };
    let home = Temp::new("stories");
    let folder = fixtures.join("stories260k");
    let want = std::fs::read_to_string(folder.join("greedy-200.txt")).expect("the fixture");
    for model in ["stories260K-f32.gguf", "hf"] {
        let model = folder.join(model);
        let args = ["run", text(&model), "--raw", "--temperature", "0", "--max-tokens", "200", "--kv-type", "f32", ""];
        assert_eq!(stdout(&succeed(&home, &args)), want, "{}", model.display());
    }
    // Four bits change what is told, but not how it begins.
    let model = folder.join("mlx-4bit");
    let args = ["run", text(&model), "--raw", "--temperature", "0", "--max-tokens", "20", ""];
    let output = succeed(&home, &args);
    assert!(stdout(&output).starts_with("Once upon a time, there was a little"), "{}", stdout(&output));
}

#[test]
fn the_4_bit_checkpoint_stays_close_to_the_whole_one() {
    let Some(fixtures) = fixtures() else { return };
    let home = Temp::new("close");
    let logits = |model: &str| -> Vec<f32> {
        let (model, out) = (fixtures.join("stories260k").join(model), home.file("logits"));
        succeed(&home, &["logits", "--model", text(&model), "--tokens", "1,403,407,261,378", "--out", &out]);
        read_logits(&out).1
    };
    let (whole, short) = (logits("hf"), logits("mlx-4bit"));
    let error: f64 = whole.iter().zip(&short).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let size: f64 = whole.iter().map(|a| f64::from(*a).powi(2)).sum();
    let nmse = error / size;
    assert!(nmse > 1e-6 && nmse < 0.05, "normalized squared error {nmse}");
}

/// Ids and logits of a file in the fixtures' format.
pub fn read_logits(path: &str) -> (Vec<i32>, Vec<f32>) {
    let bytes = std::fs::read(path).expect("the file was written");
    let word = |i: usize| <[u8; 4]>::try_from(&bytes[i * 4..i * 4 + 4]).expect("four bytes");
    let (n, v) = (i32::from_le_bytes(word(0)) as usize, i32::from_le_bytes(word(1)) as usize);
    assert_eq!(bytes.len(), 8 + n * 4 + n * v * 4, "size of the file");
    let ids = (0..n).map(|i| i32::from_le_bytes(word(2 + i)));
    (ids.collect(), (0..n * v).map(|i| f32::from_le_bytes(word(2 + n + i))).collect())
}

#[test]
fn logits_match_the_golden_ones() {
    let Some(fixtures) = fixtures() else { return };
    let home = Temp::new("logits");
    for name in ["llama-dense", "qwen3moe-moe", "gemma3-dense"] {
        let model = fixtures.join("arch").join(format!("{name}.gguf"));
        let (ids, want) = read_logits(text(&model.with_extension("logits")));
        let tokens: Vec<String> = ids.iter().map(i32::to_string).collect();
        let out = home.file(name);
        succeed(&home, &["logits", "--model", text(&model), "--tokens", &tokens.join(","), "--out", &out]);
        let (got_ids, got) = read_logits(&out);
        assert_eq!(got_ids, ids, "{name}");
        let error: f64 = got.iter().zip(&want).map(|(g, w)| f64::from(g - w).powi(2)).sum();
        let nmse = error / want.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>();
        assert!(nmse < 1e-5, "{name}: normalized squared error {nmse}");
    }
}

#[test]
fn vocabularies_give_the_known_ids() {
    let Some(fixtures) = fixtures() else { return };
    let home = Temp::new("tokenize");
    for name in ["llama-spm", "llama-bpe", "bert-bge"] {
        let model = fixtures.join("vocab").join(format!("ggml-vocab-{name}.gguf"));
        let (input, output) = (format!("{}.inp", text(&model)), format!("{}.out", text(&model)));
        let separator = r"\n__ggml_vocab_test__\n";
        let args = ["tokenize", "--model", text(&model), "--file", &input, "--separator", separator, "--json"];
        let got = succeed(&home, &args);
        let got: Vec<Vec<u32>> = stdout(&got).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let want = std::fs::read_to_string(output).expect("the fixture");
        let ids = |line: &str| line.split_whitespace().map(|id| id.parse().expect("an id")).collect::<Vec<u32>>();
        assert_eq!(got, want.lines().map(ids).collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn special_tokens_are_added_and_parsed_only_when_asked() {
    let Some(fixtures) = fixtures() else { return };
    let home = Temp::new("special");
    let model = fixtures.join("stories260k/stories260K-f32.gguf");
    let ids = |more: &[&str]| -> Vec<u32> {
        let mut args = vec!["tokenize", "--model", text(&model), "--json", "</s>Once"];
        args.extend(more);
        serde_json::from_str(stdout(&succeed(&home, &args))).expect("one array")
    };
    let plain = ids(&[]);
    assert!(!plain.contains(&1) && !plain.contains(&2), "{plain:?}");
    assert_eq!(ids(&["--parse-special"])[0], 2);
    assert_eq!(ids(&["--add-special"]), [&[1], plain.as_slice()].concat());
}

#[test]
fn bench_rows_have_the_names_of_llama_bench() {
    let Some(fixtures) = fixtures() else { return };
    let home = Temp::new("bench");
    let model = fixtures.join("stories260k/stories260K-f32.gguf");
    let args = [
        "bench",
        "--model",
        text(&model),
        "-p",
        "16",
        "-n",
        "4",
        "-d",
        "0,8",
        "-t",
        "1",
        "-r",
        "2",
        "-b",
        "1,3",
        "--json",
    ];
    let output = succeed(&home, &args);
    let rows: Vec<Value> = serde_json::from_str(stdout(&output)).expect("a JSON list");
    let column = |name: &str| rows.iter().map(|row| row[name].as_u64().expect(name)).collect::<Vec<_>>();
    assert_eq!(column("n_prompt"), [16, 0, 0, 16, 0, 0]);
    assert_eq!(column("n_gen"), [0, 4, 4, 0, 4, 4]);
    assert_eq!(column("n_depth"), [0, 0, 0, 8, 8, 8]);
    assert_eq!(column("n_seq"), [1, 1, 3, 1, 1, 3]);
    assert_eq!(column("n_threads"), [1; 6]);
    for row in &rows {
        for name in ["avg_ts", "stddev_ts", "avg_ns", "stddev_ns", "mem_read_gbs", "model_size", "model_n_params"] {
            assert!(row[name].as_f64().is_some_and(|value| value >= 0.0), "{name}: {row}");
        }
        assert_eq!(row["samples_ts"].as_array().map(Vec::len), Some(2));
        assert_eq!(row["samples_ns"].as_array().map(Vec::len), Some(2));
    }
    let table = succeed(&home, &["bench", "-m", text(&model), "-p", "0", "-n", "2", "-t", "1", "-r", "1"]);
    assert!(stdout(&table).contains("tg2"), "{}", stdout(&table));
}

/// The peer is a script that prints a row as llama-bench does, slower with `-fa 0`.
#[cfg(unix)]
#[test]
fn bench_compares_with_a_peer_by_turns() {
    use std::os::unix::fs::PermissionsExt;
    let Some(fixtures) = fixtures() else { return };
    let home = Temp::new("compare");
    let model = fixtures.join("stories260k/stories260K-f32.gguf");
    let peer = home.0.join("peer");
    let script = r#"#!/bin/sh
case "$*" in *"-fa 0"*) ts=1;; *) ts=2;; esac
echo "[{\"n_prompt\": 8, \"n_gen\": 0, \"n_depth\": 0, \"n_threads\": 1, \"avg_ts\": $ts}]"
"#;
    std::fs::write(&peer, script).expect("a script");
    std::fs::set_permissions(&peer, std::fs::Permissions::from_mode(0o755)).expect("an executable script");
    let compare = format!("llama.cpp={}", text(&peer));
    let args =
        ["bench", "-m", text(&model), "-p", "8", "-n", "0", "-t", "1", "-r", "2", "--json", "--compare", &compare];
    let rows: Vec<Value> = serde_json::from_str(stdout(&succeed(&home, &args))).expect("a JSON list");
    assert_eq!(rows.len(), 1);
    assert_eq!((&rows[0]["test"], &rows[0]["peer"]), (&"pp8".into(), &"llama.cpp -fa 1".into()));
    assert_eq!(rows[0]["peer_ts"], serde_json::json!([2.0, 2.0]));
    let ours: Vec<f64> = serde_json::from_value(rows[0]["ours_ts"].clone()).expect("numbers");
    assert!(ours.len() == 2 && ours.iter().all(|ts| *ts > 0.0), "{ours:?}");
}

#[test]
fn a_prompt_is_answered_once_with_what_is_piped() {
    let Some(fixtures) = fixtures() else { return };
    let home = Temp::new("once");
    let model = fixtures.join("stories260k/hf");
    let args = ["run", text(&model), "--temperature", "0", "--max-tokens", "8", "--verbose", "Once"];
    let alone = succeed(&home, &args);
    assert!(stdout(&alone).ends_with('\n') && stdout(&alone).len() > 1);
    let report = String::from_utf8_lossy(&alone.stderr);
    for word in ["prompt:", "first text:", "generated:   8 tokens", "tokens/s"] {
        assert!(report.contains(word), "{report}");
    }
    let mut child = mlx_run(&home, &args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.as_mut().expect("the binary runs");
    child.stdin.take().expect("a pipe").write_all(b"upon a time").expect("it reads");
    let mut piped = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().expect("a pipe"), &mut piped).expect("text");
    assert!(child.wait().expect("it ends").success());
    let n_prompt = |report: &str| -> usize {
        let line = report.lines().find_map(|line| line.strip_prefix("prompt:")).expect("a report");
        line.split_whitespace().next().expect("a number").parse().expect("a number")
    };
    assert!(n_prompt(&piped) > n_prompt(&report) + 2, "{piped}\n{report}");
}

#[test]
fn models_are_found_by_name_and_described() {
    let Some(fixtures) = fixtures() else { return };
    let home = Temp::new("list");
    let models = fixtures.join("stories260k");
    let listed = succeed(&home, &["list", "--models", text(&models)]);
    for name in ["stories260K-f32", "hf", "mlx-4bit"] {
        assert!(stdout(&listed).contains(name), "{}", stdout(&listed));
    }
    let shown = succeed(&home, &["show", "STORIES260k-F32", "--models", text(&models)]);
    // 5 layers, 4 heads of 8 numbers of keys and of values.
    let words =
        ["architecture", "llama", "512 tokens", "f32", "640 b of keys and values a token", "runs on", "tokens a step"];
    for word in words {
        assert!(stdout(&shown).to_lowercase().contains(word), "{word}: {}", stdout(&shown));
    }
    let tensors = succeed(&home, &["show", "hf", "--models", text(&models), "--tensors"]);
    assert!(stdout(&tensors).contains("model.embed_tokens.weight"));
    let rendered = succeed(&home, &["template", "--model", text(&models.join("hf")), "--system", "Be kind.", "Hello"]);
    assert_eq!(stdout(&rendered), "system: Be kind.\nuser: Hello\nassistant:");
}

#[test]
fn errors_name_what_is_wrong_and_leave_standard_output_alone() {
    let home = Temp::new("errors");
    std::fs::write(home.file("broken.gguf"), b"GGUF").expect("a file");
    let broken = home.file("broken.gguf");
    let rows: &[(&[&str], i32, &str)] = &[
        (&["run", "nothing", "hi"], 1, "no model `nothing`"),
        (&["show", &broken], 1, "broken.gguf"),
        (&["run", &broken, "hi", "--backend", "gpu"], 2, "invalid value 'gpu'"),
        (&["logits", "--model", "x"], 2, "--tokens"),
        (&["bench", "--model", &broken, "-p", "0", "-n", "0"], 1, "broken.gguf"),
        (&["frobnicate"], 2, "unrecognized subcommand"),
    ];
    for (args, code, want) in rows {
        let output = mlx_run(&home, args).output().expect("the binary runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{args:?}: {stderr}");
        assert!(stderr.contains(want), "{args:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn settings_out_of_range_are_refused_before_anything_is_said() {
    let Some(fixtures) = fixtures() else { return };
    let home = Temp::new("settings");
    let model = fixtures.join("stories260k/hf");
    let rows: &[(&[&str], &str)] = &[
        (&["--top-p", "2"], "`top_p` is 2, expected a number from 0 to 1"),
        (&["--temperature", "hot"], "temperature is `hot`, expected a number"),
        (&["--threads", "0"], "--threads is 0"),
        (&["--isa", "mmx"], "no instruction set `mmx`"),
    ];
    for (more, want) in rows {
        let mut args = vec!["run", text(&model), "hi"];
        args.extend(*more);
        let output = mlx_run(&home, &args).output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(2), "{more:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(want), "{:?}", output.stderr);
    }
}

#[test]
fn the_help_lists_every_command() {
    let home = Temp::new("help");
    let help = succeed(&home, &["--help"]);
    let help = stdout(&help);
    for command in ["run", "serve", "list", "show", "tokenize", "template", "bench", "logits"] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(&format!("{command} "))), "{command}: {help}");
        succeed(&home, &[command, "--help"]);
    }
    let run = succeed(&home, &["run", "--help"]);
    let flags =
        ["--raw", "--temperature <T>", "--top-k <K>", "--dry-multiplier <X>", "--mirostat <0|1|2>", "--seed <N>"];
    for flag in flags {
        assert!(stdout(&run).contains(flag), "{flag}");
    }
}
