//! `mlx-run bench --compare`: this program and llama.cpp's `llama-bench` by turns.

use std::io::{self, Write};
use std::path::Path;

use mlxr_tools::compare::{self, Comparison, Program, median};

use super::print_table;
use crate::CliError;
use crate::args::BenchArgs;
use crate::backend;

/// Arguments that make a variant of the peer: llama.cpp is faster with flash attention in some tests and without in
/// others. Quantized values it reads by flash attention only.
const VARIANTS: [[&str; 2]; 2] = [["-fa", "1"], ["-fa", "0"]];

/// Runs the comparison with `peer`, `llama.cpp=PATH`, and prints a row for each test.
///
/// # Errors
/// If the peer is given in another form, or a program fails.
pub fn run(args: &BenchArgs, peer: &str, model: &Path) -> Result<(), CliError> {
    let Some(path) = peer.strip_prefix("llama.cpp=").filter(|path| !path.is_empty()) else {
        let message = format!("--compare {peer}: give llama.cpp=PATH, where PATH is the program llama-bench");
        return Err(CliError::Usage(message));
    };
    let tests = tests(args, model)?;
    let mut own = vec!["bench".to_owned(), "--json".to_owned(), "--backend".to_owned(), args.backend.text().to_owned()];
    own.extend(args.isa.iter().flat_map(|isa| ["--isa".to_owned(), isa.clone()]));
    own.extend(["--kv-type".to_owned(), args.kv_type.text().to_owned()]);
    own.extend(tests.iter().cloned());
    let ours = Program { name: "mlx-run".to_owned(), path: std::env::current_exe()?, args: own };
    let (kv_type, n_variant) = match args.kv_type.text() {
        "q8" => ("q8_0", 1),
        "q4" => ("q4_0", 1),
        kv_type => (kv_type, VARIANTS.len()),
    };
    let peers: Vec<_> = VARIANTS[..n_variant]
        .iter()
        .map(|variant| {
            let fixed = ["-o", "json", "-ctk", kv_type, "-ctv", kv_type];
            let args = fixed.iter().chain(variant).map(|arg| (*arg).to_owned()).chain(tests.iter().cloned()).collect();
            Program { name: format!("llama.cpp {}", variant.join(" ")), path: path.into(), args }
        })
        .collect();
    let n_run = args.repetitions * (1 + peers.len());
    let mut at = 0;
    let rows = compare::run(&ours, &peers, args.repetitions, &mut |program| {
        at += 1;
        eprintln!("{at}/{n_run} {}", program.name);
    })?;
    if args.json {
        let text = serde_json::to_string_pretty(&rows).expect("rows are JSON");
        return Ok(writeln!(io::stdout().lock(), "{text}")?);
    }
    writeln!(io::stdout(), "{}, {} pairs", model.display(), args.repetitions)?;
    Ok(print_table(&table(&rows))?)
}

/// The arguments that both programs take.
fn tests(args: &BenchArgs, model: &Path) -> Result<Vec<String>, CliError> {
    let join = |numbers: &[usize]| numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let all = [backend::n_thread(None)?];
    let threads = if args.threads.is_empty() { &all } else { args.threads.as_slice() };
    let lists = [("-p", &args.n_prompt[..]), ("-n", &args.n_gen), ("-d", &args.n_depth), ("-t", threads), ("-r", &[1])];
    let mut out = vec!["-m".to_owned(), model.display().to_string()];
    out.extend(lists.iter().flat_map(|(name, numbers)| [(*name).to_owned(), join(numbers)]));
    Ok(out)
}

fn table(rows: &[Comparison]) -> Vec<Vec<String>> {
    let head =
        ["test", "threads", "mlx-run tokens/s", "peer tokens/s", "peer", "ratio of medians", "ratio, pair by pair"];
    let spread = |ts: &[f64]| {
        let (min, max) = ts.iter().fold((f64::INFINITY, 0.0), |(min, max), x| (x.min(min), x.max(max)));
        format!("{:.1} ({min:.1}-{max:.1})", median(ts))
    };
    let mut table = vec![head.map(str::to_owned).to_vec()];
    table.extend(rows.iter().map(|row| {
        vec![
            row.test.clone(),
            row.n_threads.to_string(),
            spread(&row.ours_ts),
            spread(&row.peer_ts),
            row.peer.clone(),
            format!("{:.2}", row.ratio),
            format!("{:.2}-{:.2}", row.ratio_min, row.ratio_max),
        ]
    }));
    table
}
