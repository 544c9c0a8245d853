//! Whether a backend computes what [`crate::scalar`] defines: every operation over many shapes, types and batches.
//!
//! ```no_run
//! use mlxr_compute::{conformance, scalar::Scalar};
//! conformance::run(&mut Scalar, &conformance::Options::default()).assert_clean();
//! ```
//!
//! A comparison has two limits. `max` bounds the error of each number by the largest magnitude of its row in the
//! definition's result (or by the tensor's root mean square, where a row is small throughout); `nmse` bounds the sum of squared errors by the sum of squares, over the whole tensor.
//!
//! | limit | `max` | `nmse` | for |
//! |---|---|---|---|
//! | [`EXACT`] | 0 | 0 | what only moves numbers |
//! | [`F32`] | 2e-5 | 1e-11 | sums and functions in f32 |
//! | [`STORED`] | 1e-4 | 1e-9 | attention over stored keys and values (rounding to the store's type is defined) |
//! | [`ROUNDED`] | 0.02 | 4e-5 | products with bf16 weights: activations may be rounded to bf16 |
//! | [`QUANTIZED`] | 0.15 | 4e-3 | products whose weights have 8 bits or fewer: activations may be rounded to 8 bits, of 128 at once |

mod attention;
mod linear;
mod moe;
mod random;
mod recurrent;
mod rows;
mod state;
mod weights;

use std::fmt;

pub use random::Random;
pub use weights::{Sample, matrix as random_matrix};

use crate::scalar::{Scalar, Tensor};
use crate::{Backend, Error, MatrixData};

/// How far a result may be from its definition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit {
    /// Error of a number, relative to the largest magnitude of its row.
    pub max: f32,
    /// Squared error of all, relative to the sum of squares.
    pub nmse: f64,
}

/// Only moves numbers.
pub const EXACT: Limit = Limit { max: 0.0, nmse: 0.0 };
/// Computes in f32.
pub const F32: Limit = Limit { max: 2e-5, nmse: 1e-11 };
/// Reads what was stored.
pub const STORED: Limit = Limit { max: 1e-4, nmse: 1e-9 };
/// May round activations to bf16.
pub const ROUNDED: Limit = Limit { max: 0.02, nmse: 4e-5 };
/// May round activations to 8 bits.
pub const QUANTIZED: Limit = Limit { max: 0.15, nmse: 4e-3 };

/// How to run the suite.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Where the random numbers begin; printed with every failure.
    pub seed: u64,
    /// Factor on `max` (its square on `nmse`) of every limit but [`EXACT`] and [`QUANTIZED`]; 1 for f32 backends.
    pub slack: f32,
    /// Run only the operations whose name contains this.
    pub only: String,
}

impl Default for Options {
    fn default() -> Options {
        Options { seed: 1, slack: 1.0, only: String::new() }
    }
}

/// What the suite found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Comparisons made, by operation.
    pub cases: Vec<(&'static str, usize)>,
    /// Comparisons over their limit.
    pub failures: Vec<String>,
    /// Encodings that the backend refused.
    pub refused: Vec<String>,
}

impl Report {
    /// Panics with the failures, if there are any.
    pub fn assert_clean(&self) {
        assert!(self.failures.is_empty(), "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (op, n) in &self.cases {
            writeln!(f, "{op}: {n} comparisons")?;
        }
        self.refused.iter().try_for_each(|r| writeln!(f, "refused: {r}"))?;
        self.failures.iter().try_for_each(|failure| writeln!(f, "FAILED {failure}"))
    }
}

/// Runs the suite.
pub fn run<B: Backend>(backend: &mut B, options: &Options) -> Report {
    let checks: [(&'static str, Check<B>); 20] = [
        ("linears", linear::linears),
        ("gate_up", linear::gate_up),
        ("head_linear", linear::head_linear),
        ("embed", linear::embed),
        ("norm", rows::norm),
        ("rope", rows::rope),
        ("act", rows::act),
        ("arithmetic", rows::arithmetic),
        ("moving", rows::moving),
        ("best", rows::best),
        ("maxima", rows::maxima),
        ("attention", attention::heads),
        ("attention_features", attention::features),
        ("attention_long", attention::long),
        ("attend", attention::attend),
        ("conv", recurrent::conv),
        ("ssm_scan", recurrent::ssm_scan),
        ("delta_scan", recurrent::delta_scan),
        ("moe", moe::moe),
        ("pages", state::pages),
    ];
    let mut report = Report::default();
    for (op, check) in checks.into_iter().filter(|(op, _)| op.contains(&options.only)) {
        // Each operation begins at a seed of its own, so that a failure repeats when run alone.
        let random = Random::new(options.seed ^ op.bytes().fold(0, |h: u64, b| h.wrapping_mul(31) + u64::from(b)));
        let mut bench = Bench { backend, random, options, op, n: 0, report: &mut report };
        check(&mut bench);
        let n = bench.n;
        report.cases.push((op, n));
    }
    report
}

/// What compares one operation.
type Check<B> = fn(&mut Bench<'_, B>);

/// The backend beside the definition.
struct Bench<'a, B: Backend> {
    backend: &'a mut B,
    random: Random,
    options: &'a Options,
    op: &'static str,
    n: usize,
    report: &'a mut Report,
}

/// The same numbers for both.
struct Both<B: Backend> {
    scalar: Tensor,
    other: B::Tensor,
}

impl<B: Backend> Bench<'_, B> {
    /// Normally distributed numbers.
    fn tensor(&mut self, shape: [usize; 2]) -> Both<B> {
        let data = self.random.normals(shape[0] * shape[1]);
        self.given(shape, &data)
    }

    /// A tensor, or nothing.
    fn maybe(&mut self, some: bool, shape: [usize; 2]) -> Option<Both<B>> {
        some.then(|| self.tensor(shape))
    }

    fn given(&mut self, shape: [usize; 2], data: &[f32]) -> Both<B> {
        Both { scalar: Scalar.tensor(shape, data), other: self.backend.tensor(shape, data) }
    }

    /// A copy of a tensor, for operations that consume it.
    fn copy(&mut self, x: &Both<B>) -> Both<B> {
        self.given(x.scalar.shape, &x.scalar.data)
    }

    /// Both matrices, or `None`, noted in the report, if the backend refuses the encoding.
    fn matrices(
        &mut self,
        data: &[MatrixData],
        load: impl Fn(&mut Scalar, &[MatrixData]) -> Result<<Scalar as Backend>::Matrix, Error>,
        load_other: impl Fn(&mut B, &[MatrixData]) -> Result<B::Matrix, Error>,
    ) -> Option<(<Scalar as Backend>::Matrix, B::Matrix)> {
        let both = load(&mut Scalar, data).and_then(|m| Ok((m, load_other(self.backend, data)?)));
        match both {
            Ok(both) => Some(both),
            Err(Error::Unsupported { encoding, backend, .. }) => {
                let refused = format!("{encoding} by {backend}");
                if !self.report.refused.contains(&refused) {
                    self.report.refused.push(refused);
                }
                None
            }
            Err(error) => {
                self.fail(format!("loading {:?}: {error}", data.first().map(|m| m.encoding)));
                None
            }
        }
    }

    fn matrix(&mut self, parts: &[MatrixData]) -> Option<(<Scalar as Backend>::Matrix, B::Matrix)> {
        self.matrices(parts, |b, d| b.matrix(d), |b, d| b.matrix(d))
    }

    fn experts(&mut self, experts: &[MatrixData]) -> Option<(<Scalar as Backend>::Matrix, B::Matrix)> {
        self.matrices(experts, |b, d| b.experts(d), |b, d| b.experts(d))
    }

    fn fail(&mut self, what: String) {
        self.report.failures.push(format!("{}, seed {}: {what}", self.op, self.options.seed));
    }

    /// Notes a failure when `got` is further from `want` than `limit` allows.
    fn compare(&mut self, case: fmt::Arguments<'_>, limit: Limit, want: &Tensor, got: &B::Tensor) {
        self.n += 1;
        let shape = self.backend.shape(got);
        if shape != want.shape {
            return self.fail(format!("{case}: shape {shape:?}, expected {:?}", want.shape));
        }
        let mut numbers = Vec::new();
        if let Err(error) = self.backend.read(got, &mut numbers) {
            return self.fail(format!("{case}: {error}"));
        }
        if numbers.len() != want.data.len() {
            return self.fail(format!("{case}: {} numbers read, expected {}", numbers.len(), want.data.len()));
        }
        let slack = if limit == EXACT || limit == QUANTIZED { 1.0 } else { self.options.slack };
        let limit = Limit { max: limit.max * slack, nmse: limit.nmse * f64::from(slack) * f64::from(slack) };
        if let Some(text) = difference(want, &numbers, limit) {
            self.fail(format!("{case}: {text}"));
        }
    }
}

/// What is wrong with `got`, if anything.
fn difference(want: &Tensor, got: &[f32], limit: Limit) -> Option<String> {
    let n_col = want.shape[1].max(1);
    let squares = want.data.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>();
    let typical = (squares / want.data.len().max(1) as f64).sqrt() as f32;
    let mut error = 0.0;
    for (i, (want, got)) in want.data.chunks(n_col).zip(got.chunks(n_col)).enumerate() {
        let magnitude = want.iter().fold(typical, |m, x| m.max(x.abs()));
        for (j, (&w, &g)) in want.iter().zip(got).enumerate() {
            let off = (w - g).abs();
            // Not `>`: a NaN must fail.
            if !(off <= limit.max * magnitude || w == g) {
                return Some(format!("[{i}, {j}] is {g}, expected {w}; magnitude {magnitude}, limit {limit:?}"));
            }
            error += f64::from(w - g).powi(2);
        }
    }
    (error > limit.nmse * squares).then(|| format!("nmse {:e}, limit {:e}", error / squares, limit.nmse))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_number_a_nan_and_a_drift_are_found() {
        let want = Scalar.tensor([2, 2], &[1.0, -2.0, 100.0, 0.0]);
        let limit = Limit { max: 0.1, nmse: 1e-3 };
        for (got, found) in [
            ([1.0, -2.0, 100.0, 0.0], None),
            ([1.1, -2.0, 101.0, 9.0], Some("nmse")),
            ([1.0, -9.0, 100.0, 0.0], Some("[0, 1] is -9")),
            ([1.0, -2.0, f32::NAN, 0.0], Some("[1, 0] is NaN")),
            ([1.0, -2.0, f32::INFINITY, 0.0], Some("[1, 0] is inf")),
        ] {
            let text = difference(&want, &got, limit);
            assert_eq!(text.is_some(), found.is_some(), "{got:?}: {text:?}");
            assert!(text.unwrap_or_default().starts_with(found.unwrap_or_default()));
        }
    }
}
