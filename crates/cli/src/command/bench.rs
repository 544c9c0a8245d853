//! `mlx-run bench`: rows as llama.cpp's `llama-bench` prints them.

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use mlxr_compute::cpu::Bandwidth;
use mlxr_engine::runner::PAGE_TOKENS;
use mlxr_engine::{Config, Engine};
use mlxr_models::{Arena, LoadOptions, architecture};
use mlxr_tools::bench::{self, Samples, Test};
use mlxr_tools::clients::{self, Client};
use mlxr_weights::{Checkpoint, Summary};
use serde::Serialize;

use super::show::count_text;
use super::{bench_compare, print_table, size_text};
use crate::CliError;
use crate::args::BenchArgs;
use crate::backend::{self, BackendChoice};
use crate::load;

/// Most tokens of a test, of all its sequences together.
const MAX_TOKENS: usize = 1 << 24;

/// One row. Field names are llama-bench's where it has them.
#[derive(Debug, Serialize)]
struct Row {
    build_version: &'static str,
    cpu_info: String,
    backends: &'static str,
    isa: String,
    model_filename: String,
    model_type: String,
    model_size: u64,
    model_n_params: u64,
    n_batch: usize,
    n_ubatch: usize,
    n_threads: usize,
    type_k: &'static str,
    type_v: &'static str,
    /// llama-bench's name of the test, or `clients`, whose tokens are those of all.
    test: String,
    n_prompt: usize,
    n_gen: usize,
    n_depth: usize,
    /// Sequences decoded at once; `avg_ts` counts the tokens of all.
    n_seq: usize,
    /// Seconds since 1970.
    test_time: u64,
    #[serde(flatten)]
    samples: Samples,
    /// Memory reads measured right after the test with as many threads, 10^9 bytes a second.
    mem_read_gbs: f64,
}

/// Runs the tests and prints their rows.
///
/// # Errors
/// If the model does not load or is too small for a test.
pub fn run(args: &BenchArgs) -> Result<(), CliError> {
    let (model, checkpoint) = load::open(&args.model, &args.folder)?;
    let tests = Test::combine(&args.n_prompt, &args.n_gen, &args.n_depth, &args.batch);
    check(args, &tests)?;
    if let Some(peer) = &args.compare {
        return bench_compare::run(args, peer, &model.path);
    }
    let client_pages = |c: &Client| (c.n_prompt + c.n_gen).div_ceil(PAGE_TOKENS) + 1;
    let all_clients = args.clients.iter().map(client_pages).sum();
    let n_page = tests.iter().map(Test::n_page).chain([all_clients]).max().unwrap_or(1);
    let n_ctx = tests.iter().map(Test::n_token).chain(args.clients.iter().map(|c| c.n_prompt + c.n_gen)).max();
    let n_slot = tests.iter().map(|test| test.n_seq).chain([args.clients.len()]).max().unwrap_or(1);
    let arena = Arena::Tokens(n_page * PAGE_TOKENS);
    let options = LoadOptions { n_ctx, arena, n_slot, kv_type: args.kv_type.kv_type() };
    let summary = checkpoint.summary()?;
    let all = [backend::n_thread(None)?];
    let mut rows = Vec::new();
    for n_thread in if args.threads.is_empty() { &all } else { args.threads.as_slice() } {
        let mut choice = BackendChoice::new(args.backend, Some(*n_thread), args.isa.as_deref())?;
        let (mut runner, used) = backend::load(&checkpoint, &choice, &options, &mut |_| ())?;
        choice.name = used;
        let bandwidth = Bandwidth::new(choice.n_thread)?;
        for test in &tests {
            eprintln!("{}, {n_thread} threads", test.name());
            let samples = bench::run(runner.as_mut(), test, args.repetitions)?;
            let tokens = [test.n_prompt, test.n_gen, test.n_depth, test.n_seq];
            let timed = Timed { test: test.name(), tokens, samples, bytes_a_second: bandwidth.measure()? };
            rows.push(row(args, (&checkpoint, &summary), &choice, timed));
        }
        if !args.clients.is_empty() {
            eprintln!("{} clients, {n_thread} threads", args.clients.len());
            // Random texts repeat nothing that could be drafted.
            let config = Config { max_draft: 0, ..Config::default() };
            let engine = Engine::spawn(runner, config)?;
            let samples = clients::run(&engine, &args.clients, args.repetitions);
            // Its thread must have ended before the process does: a GPU's driver goes first, under what the thread still frees.
            engine.shutdown();
            let samples = samples?;
            let sum = |n: fn(&Client) -> usize| args.clients.iter().map(n).sum::<usize>();
            let tokens = [sum(|c| c.n_prompt), sum(|c| c.n_gen), 0, args.clients.len()];
            let timed = Timed { test: "clients".to_owned(), tokens, samples, bytes_a_second: bandwidth.measure()? };
            rows.push(row(args, (&checkpoint, &summary), &choice, timed));
        }
    }
    if args.json {
        let text = serde_json::to_string_pretty(&rows).expect("rows are JSON");
        return Ok(writeln!(io::stdout().lock(), "{text}")?);
    }
    writeln!(io::stdout(), "{}", model.path.display())?;
    Ok(print_table(&table(&rows))?)
}

fn check(args: &BenchArgs, tests: &[Test]) -> Result<(), CliError> {
    if tests.is_empty() && args.clients.is_empty() {
        return Err(CliError::Usage("nothing to measure: give -p or -n a number above 0, or --clients".into()));
    }
    if args.batch.contains(&0) || args.repetitions == 0 {
        return Err(CliError::Usage("-b and -r must be at least 1".into()));
    }
    let large = tests.iter().find(|test| test.n_token().saturating_mul(test.n_seq) > MAX_TOKENS);
    match large {
        Some(test) => Err(CliError::Usage(format!("{}: more than {MAX_TOKENS} tokens", test.name()))),
        None => Ok(()),
    }
}

/// What was measured.
struct Timed {
    test: String,
    /// Of prompts, generated, stored before, and sequences.
    tokens: [usize; 4],
    samples: Samples,
    bytes_a_second: f64,
}

fn row(args: &BenchArgs, (checkpoint, summary): (&Checkpoint, &Summary), choice: &BackendChoice, timed: Timed) -> Row {
    let Timed { test, tokens: [n_prompt, n_gen, n_depth, n_seq], samples, bytes_a_second } = timed;
    // `llama 1.1 B q4_K`: architecture, size, and the type that most bytes have.
    let most = summary.types.first().map_or("", |row| row.name.as_str());
    let model_type = format!("{} {} {most}", architecture(checkpoint), count_text(summary.n_parameter));
    Row {
        build_version: env!("CARGO_PKG_VERSION"),
        cpu_info: cpu_info(),
        backends: choice.name.text(),
        isa: backend::isa_text(choice),
        model_filename: checkpoint.path().display().to_string(),
        model_type,
        model_size: summary.bytes,
        model_n_params: summary.n_parameter,
        n_batch: bench::STEP_TOKENS,
        n_ubatch: bench::STEP_TOKENS,
        n_threads: choice.n_thread,
        type_k: args.kv_type.text(),
        type_v: args.kv_type.text(),
        test,
        n_prompt,
        n_gen,
        n_depth,
        n_seq,
        test_time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
        samples,
        mem_read_gbs: bytes_a_second / 1e9,
    }
}

/// The processor's name where the system tells it in a file.
fn cpu_info() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("model name"));
    let name = line.and_then(|line| line.split_once(':')).map(|(_, name)| name.trim().to_owned());
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

fn table(rows: &[Row]) -> Vec<Vec<String>> {
    let head = ["model", "size", "backend", "isa", "threads", "test", "tokens/s", "memory GB/s"];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    table.extend(rows.iter().map(|row| {
        vec![
            row.model_type.clone(),
            size_text(row.model_size),
            row.backends.to_owned(),
            row.isa.clone(),
            row.n_threads.to_string(),
            row.test.clone(),
            format!("{:.2} ± {:.2}", row.samples.avg_ts, row.samples.stddev_ts),
            format!("{:.1}", row.mem_read_gbs),
        ]
    }));
    table
}
