//! This program and a peer's `llama-bench` by turns on one file.
//!
//! Machines are shared and noisy: a figure of one run says little beside a figure of another. So the two programs run in
//! pairs, each as a process of its own that loads, warms up and times every test once, and what counts is the ratio of
//! the medians. A peer may have several variants (flash attention off and on); the one with the better median counts.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::ToolError;
use crate::bench::Test;

/// A program that prints rows in llama-bench's JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Shown in the result: `llama.cpp -fa 1`.
    pub name: String,
    /// Executable.
    pub path: PathBuf,
    /// Arguments, which make it run each test once.
    pub args: Vec<String>,
}

/// One test of both programs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// llama-bench's name of the test.
    pub test: String,
    /// Threads of both.
    pub n_threads: usize,
    /// Tokens a second of this program, a pair each.
    pub ours_ts: Vec<f64>,
    /// Tokens a second of the peer, a pair each.
    pub peer_ts: Vec<f64>,
    /// Variant of the peer that counts.
    pub peer: String,
    /// Median of ours over median of the peer's.
    pub ratio: f64,
    /// Smallest ratio of a pair.
    pub ratio_min: f64,
    /// Largest ratio of a pair.
    pub ratio_max: f64,
}

/// What is read of a row.
#[derive(Debug, Clone, Deserialize)]
struct Row {
    n_prompt: usize,
    n_gen: usize,
    #[serde(default)]
    n_depth: usize,
    n_threads: usize,
    avg_ts: f64,
}

impl Row {
    fn key(&self) -> (usize, Test) {
        (self.n_threads, Test { n_prompt: self.n_prompt, n_gen: self.n_gen, n_depth: self.n_depth, n_seq: 1 })
    }
}

/// Runs `ours` and each of `peers` by turns, `n_pair` times; `before(program)` is told what runs next.
///
/// # Errors
/// If a program cannot be started, fails, or prints other rows than the first run of `ours` did.
///
/// # Panics
/// If there are no peers.
pub fn run(
    ours: &Program,
    peers: &[Program],
    n_pair: usize,
    before: &mut dyn FnMut(&Program),
) -> Result<Vec<Comparison>, ToolError> {
    assert!(!peers.is_empty(), "a comparison needs a peer");
    let mut runs: Vec<Vec<Vec<Row>>> = vec![Vec::new(); 1 + peers.len()];
    for _ in 0..n_pair.max(1) {
        for (program, runs) in std::iter::once(ours).chain(peers).zip(&mut runs) {
            before(program);
            runs.push(rows(program)?);
        }
    }
    let names: Vec<&str> = std::iter::once(ours).chain(peers).map(|program| program.name.as_str()).collect();
    compare(&names, &runs)
}

fn rows(program: &Program) -> Result<Vec<Row>, ToolError> {
    let fail = |message: String| ToolError::Peer { program: program.path.clone(), message };
    let run = Command::new(&program.path).args(&program.args).stdin(Stdio::null()).output();
    let run = run.map_err(|error| fail(format!("it cannot be started ({error}); give the path of an executable")))?;
    if !run.status.success() {
        let stderr = String::from_utf8_lossy(&run.stderr);
        let last = stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing on standard error");
        return Err(fail(format!("it ended with {}: {last}", run.status)));
    }
    serde_json::from_slice(&run.stdout).map_err(|error| fail(format!("it printed no rows in JSON ({error})")))
}

/// `runs[program][pair]`, ours first.
fn compare(names: &[&str], runs: &[Vec<Vec<Row>>]) -> Result<Vec<Comparison>, ToolError> {
    let keys = runs[0].first().map(|rows| rows.iter().map(Row::key).collect::<Vec<_>>()).unwrap_or_default();
    let mut out = Vec::with_capacity(keys.len());
    for (n_threads, test) in keys {
        let samples = |program: usize| -> Result<Vec<f64>, ToolError> {
            let find = |rows: &Vec<Row>| rows.iter().find(|row| row.key() == (n_threads, test)).map(|row| row.avg_ts);
            runs[program].iter().map(find).collect::<Option<Vec<f64>>>().ok_or_else(|| ToolError::Peer {
                program: names[program].into(),
                message: format!("no row for {} with {n_threads} threads in what it printed", test.name()),
            })
        };
        let ours_ts = samples(0)?;
        let peers = (1..runs.len()).map(|i| Ok((i, samples(i)?))).collect::<Result<Vec<_>, ToolError>>()?;
        let best = peers.into_iter().max_by(|a, b| median(&a.1).total_cmp(&median(&b.1)));
        let Some((best, peer_ts)) = best else { break };
        let ratios: Vec<f64> = ours_ts.iter().zip(&peer_ts).map(|(ours, peer)| ours / peer).collect();
        out.push(Comparison {
            test: test.name(),
            n_threads,
            peer: names[best].to_owned(),
            ratio: median(&ours_ts) / median(&peer_ts),
            ratio_min: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            ratio_max: ratios.iter().copied().fold(0.0, f64::max),
            ours_ts,
            peer_ts,
        });
    }
    Ok(out)
}

/// The middle value; the mean of the two middle ones of an even number.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n.is_multiple_of(2) => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(n_prompt: usize, avg_ts: f64) -> Row {
        Row { n_prompt, n_gen: 0, n_depth: 0, n_threads: 2, avg_ts }
    }

    #[test]
    fn the_better_variant_counts_and_pairs_give_the_spread() {
        let one = |values: [f64; 3]| values.map(|ts| vec![row(512, ts)]).to_vec();
        let runs = [one([30.0, 10.0, 20.0]), one([4.0, 4.0, 4.0]), one([5.0, 10.0, 4.0])];
        let got = compare(&["ours", "fa 0", "fa 1"], &runs).expect("all rows are there");
        assert_eq!(got.len(), 1);
        let got = &got[0];
        assert_eq!((got.test.as_str(), got.peer.as_str(), got.ratio), ("pp512", "fa 1", 4.0));
        assert_eq!((got.ratio_min, got.ratio_max), (1.0, 6.0));
    }

    #[test]
    fn a_row_that_the_peer_lacks_is_named() {
        let error = compare(&["ours", "peer"], &[vec![vec![row(512, 1.0)]], vec![vec![row(64, 1.0)]]]);
        let text = error.expect_err("no row for 512").to_string();
        assert!(text.contains("peer") && text.contains("pp512 with 2 threads"), "{text}");
    }

    #[test]
    fn medians() {
        for (values, want) in [(&[3.0, 1.0, 2.0][..], 2.0), (&[4.0, 1.0], 2.5), (&[7.0], 7.0)] {
            assert_eq!(median(values), want);
        }
    }

    #[test]
    fn a_program_that_is_missing_fails_or_prints_something_else_is_an_error() {
        let program = |path: &str, args: &[&str]| Program {
            name: path.to_owned(),
            path: path.into(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        };
        let cases = [
            (program("no-such-program-here", &[]), "cannot be started"),
            (program("sh", &["-c", "echo oh no >&2; exit 3"]), "oh no"),
            (program("sh", &["-c", "echo hello"]), "no rows in JSON"),
        ];
        for (program, want) in cases {
            let text = rows(&program).expect_err("no rows").to_string();
            assert!(text.contains(want) && text.contains(&program.name), "{text}");
        }
    }
}
