//! GPTQ: columns that come later make up for the rounding of earlier ones.
//!
//! A matrix is encoded block of columns by block of columns. With `H = X^T X` of its inputs and `H^-1 = U^T U`, `U` upper
//! triangular, a block that misses by `D` moves the columns after it by `-D U_bb^-1 U_br`, which is what makes the
//! products with `X` miss least. In the original the block is one column; here it is the format's own block, whose scales
//! and codes an encoder finds together, so that it serves every format.
//!
//! Source: Frantar et al., "GPTQ", arXiv:2210.17323, section 3.

use std::ops::Range;

use crate::Error;

/// Part of the mean of the diagonal that is added to it, so that `H` can be inverted.
const DAMPING: f64 = 0.01;
/// Partial sums of a sum, in which the compiler finds vectors.
const LANES: usize = 8;

/// Encodes a block's columns `[n_row, block]` and writes what they decode to.
pub type Encode<'a, E> = dyn FnMut(Range<usize>, &[f32], &mut [f32]) -> Result<(), E> + 'a;

/// Chooses how a block's columns `[n_row, block]` are rounded, for each row.
pub type Prepare<'a, G, E> = dyn FnMut(Range<usize>, &[f32]) -> Result<Vec<G>, E> + 'a;

/// The triangular factor `U` of a matrix's inputs.
#[derive(Debug)]
pub struct Factor {
    n: usize,
    /// `[n, n]`, zero below the diagonal.
    upper: Vec<f32>,
    /// Mean square of each column, as an importance.
    diagonal: Vec<f32>,
}

impl Factor {
    /// From the sums of products of inputs, `[n, n]`, of which the part on and above the diagonal is read.
    ///
    /// # Errors
    /// If they are not finite.
    ///
    /// # Panics
    /// If `products` has not `n * n` numbers.
    pub fn new(n: usize, products: &[f32]) -> Result<Factor, Error> {
        assert_eq!(products.len(), n * n, "products of {n} columns");
        let diagonal: Vec<f32> = (0..n).map(|i| products[i * n + i]).collect();
        let mean = diagonal.iter().map(|d| f64::from(*d)).sum::<f64>() / n.max(1) as f64;
        let damping = if mean > 0.0 { DAMPING * mean } else { 1.0 };
        // With rows and columns in reverse, the lower factor is U's inverse, in reverse.
        let mut lower = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..=i {
                let (a, b) = (n - 1 - i, n - 1 - j);
                let own = f64::from(products[a.min(b) * n + a.max(b)]) + if i == j { damping } else { 0.0 };
                let rest = own - dot(&lower[i * n..][..j], &lower[j * n..][..j]);
                lower[i * n + j] = if i == j { rest.sqrt() } else { rest / lower[j * n + j] };
            }
            let pivot = lower[i * n + i];
            if !(pivot.is_finite() && pivot > 0.0) {
                let found = format!("products of inputs whose factor is {pivot} at column {}", n - 1 - i);
                return Err(Error::Encode { dtype: "GPTQ", found, expected: "finite products of inputs" });
            }
        }
        Ok(Factor { n, upper: inverse_in_reverse(n, &lower), diagonal })
    }

    /// The sums of squares of each column: an importance for the encoder of a block.
    pub fn importance(&self) -> &[f32] {
        &self.diagonal
    }

    /// Encodes the rows of `weights` `[n_row, n]` by blocks of columns. `encode` gets a block's columns and its weights
    /// `[n_row, block]`, and writes what they decode to. `weights` end as what was encoded.
    ///
    /// # Errors
    /// Of `encode`.
    pub fn run<E>(&self, weights: &mut [f32], block: usize, encode: &mut Encode<'_, E>) -> Result<(), E> {
        let (n, n_row) = (self.n, weights.len() / self.n);
        let (mut columns, mut decoded) = (vec![0.0; n_row * block], vec![0.0; n_row * block]);
        for start in (0..n).step_by(block) {
            let range = start..(start + block).min(n);
            for (row, out) in weights.chunks_exact(n).zip(columns.chunks_exact_mut(block)) {
                out[..range.len()].copy_from_slice(&row[range.clone()]);
            }
            encode(range.clone(), &columns, &mut decoded)?;
            for (r, row) in weights.chunks_exact_mut(n).enumerate() {
                let (wanted, found) = (&mut columns[r * block..][..block], &decoded[r * block..][..block]);
                wanted.iter_mut().zip(found).for_each(|(w, f)| *w -= f);
                self.spread(&range, wanted, row);
                row[range.clone()].copy_from_slice(found);
            }
        }
        Ok(())
    }

    /// As [`Factor::run`], but a block's columns are rounded one after another, each of them moved for those before it.
    /// `prepare` gets a block's columns `[n_row, block]` and chooses for each row what `round` rounds its numbers with.
    ///
    /// # Errors
    /// Of `prepare`.
    pub fn run_columns<G, E>(
        &self,
        weights: &mut [f32],
        block: usize,
        prepare: &mut Prepare<'_, G, E>,
        round: &dyn Fn(&G, f32) -> f32,
    ) -> Result<(), E> {
        let (n, n_row) = (self.n, weights.len() / self.n);
        let mut columns = vec![0.0; n_row * block];
        for start in (0..n).step_by(block) {
            let range = start..(start + block).min(n);
            for (row, out) in weights.chunks_exact(n).zip(columns.chunks_exact_mut(block)) {
                out[..range.len()].copy_from_slice(&row[range.clone()]);
            }
            let grids = prepare(range.clone(), &columns)?;
            for (row, grid) in weights.chunks_exact_mut(n).zip(&grids) {
                for column in range.clone() {
                    let of_column = &self.upper[column * n..][..n];
                    let found = round(grid, row[column]);
                    let error = (row[column] - found) / of_column[column];
                    row[column] = found;
                    for (w, u) in row[column + 1..].iter_mut().zip(&of_column[column + 1..]) {
                        *w -= error * u;
                    }
                }
            }
        }
        Ok(())
    }

    /// Moves the columns after `range` for its misses, which are overwritten.
    fn spread(&self, range: &Range<usize>, misses: &mut [f32], row: &mut [f32]) {
        for (i, column) in range.clone().enumerate() {
            let of_column = &self.upper[column * self.n..][..self.n];
            let error = misses[i] / of_column[column];
            for (miss, u) in misses[i + 1..].iter_mut().zip(&of_column[column + 1..range.end]) {
                *miss -= error * u;
            }
            for (w, u) in row[range.end..].iter_mut().zip(&of_column[range.end..]) {
                *w -= error * u;
            }
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0.0; LANES];
    for (a, b) in a.0.iter().zip(b.0) {
        for l in 0..LANES {
            lanes[l] += a[l] * b[l];
        }
    }
    lanes.iter().sum::<f64>() + a.1.iter().zip(b.1).map(|(a, b)| a * b).sum::<f64>()
}

/// The inverse of a lower triangular matrix, rows and columns in reverse: upper triangular.
fn inverse_in_reverse(n: usize, lower: &[f64]) -> Vec<f32> {
    let mut upper = vec![0.0f32; n * n];
    // Row j of the inverse's transpose is column j of the inverse: contiguous for the dot products.
    let mut column = vec![0.0; n];
    for j in 0..n {
        column[j] = 1.0 / lower[j * n + j];
        for i in j + 1..n {
            let sum = dot(&lower[i * n + j..i * n + i], &column[j..i]);
            column[i] = -sum / lower[i * n + i];
        }
        for i in j..n {
            upper[(n - 1 - i) * n + (n - 1 - j)] = column[i] as f32;
        }
    }
    upper
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::Random;
    use crate::{DType, quant};

    /// Inputs whose columns share a few hidden numbers, as activations do.
    fn inputs(random: &mut Random, n_row: usize, n: usize) -> Vec<f32> {
        let mix: Vec<f32> = (0..8 * n).map(|_| random.normal()).collect();
        let mut x = Vec::new();
        for _ in 0..n_row {
            let hidden: Vec<f32> = (0..8).map(|_| random.normal()).collect();
            let of = |j: usize| (0..8).map(|k| hidden[k] * mix[k * n + j]).sum::<f32>();
            x.extend((0..n).map(|j| of(j) + 0.3 * random.normal()));
        }
        x
    }

    fn products(x: &[f32], n: usize) -> Vec<f32> {
        let mut out = vec![0.0; n * n];
        for row in x.chunks_exact(n) {
            for i in 0..n {
                for j in 0..n {
                    out[i * n + j] += row[i] * row[j];
                }
            }
        }
        out
    }

    #[test]
    fn the_factor_is_that_of_the_inverse() {
        let (n, mut random) = (24, Random::new(3));
        let x = inputs(&mut random, 100, n);
        let h = products(&x, n);
        let factor = Factor::new(n, &h).expect("finite");
        let mean = (0..n).map(|i| f64::from(h[i * n + i])).sum::<f64>() / n as f64;
        for i in 0..n {
            for j in 0..n {
                // H (U^T U) = 1
                let of = |k: usize| {
                    let inverse: f64 =
                        (0..n).map(|m| f64::from(factor.upper[m * n + k] * factor.upper[m * n + j])).sum();
                    (f64::from(h[i * n + k]) + if i == k { DAMPING * mean } else { 0.0 }) * inverse
                };
                let sum: f64 = (0..n).map(of).sum();
                assert!((sum - f64::from(i == j)).abs() < 1e-3, "{i} {j}: {sum}");
            }
        }
    }

    #[test]
    fn products_with_inputs_miss_less() {
        let (n, n_row, mut random) = (256, 16, Random::new(4));
        let x = inputs(&mut random, 600, n);
        let factor = Factor::new(n, &products(&x, n)).expect("finite");
        let weights: Vec<f32> = (0..n * n_row).map(|_| 0.05 * random.normal()).collect();
        let miss = |found: &[f32]| -> f64 {
            let mut sum = 0.0;
            for row in x.chunks_exact(n) {
                for (w, f) in weights.chunks_exact(n).zip(found.chunks_exact(n)) {
                    let dot: f32 = row.iter().zip(w.iter().zip(f)).map(|(x, (w, f))| x * (w - f)).sum();
                    sum += f64::from(dot * dot);
                }
            }
            sum
        };
        for (dtype, least_gain) in [(DType::Q4_0, 3.0), (DType::Q4_1, 3.0), (DType::Q8_0, 3.0)] {
            let round = |weights: &[f32], out: &mut [f32]| {
                let mut bytes = Vec::new();
                quant::encode(dtype, weights, None, &mut bytes).expect("finite");
                quant::decode(dtype, &bytes, out);
            };
            let mut plain = vec![0.0; weights.len()];
            round(&weights, &mut plain);
            let mut compensated = weights.clone();
            let mut encode = |_: Range<usize>, weights: &[f32], out: &mut [f32]| -> Result<(), Error> {
                round(weights, out);
                Ok(())
            };
            factor.run(&mut compensated, 32, &mut encode).expect("encoded");
            let gain = miss(&plain) / miss(&compensated);
            eprintln!("{}: squared miss without / with compensation {gain:.2}", dtype.name());
            assert!(gain > least_gain, "{}: {gain}", dtype.name());
        }
    }

    #[test]
    fn products_that_are_not_finite_are_refused() {
        let error = Factor::new(2, &[1.0, f32::NAN, 0.0, 1.0]).expect_err("not finite").to_string();
        assert!(error.contains("finite products"), "{error}");
        assert!(Factor::new(2, &[0.0; 4]).is_ok(), "inputs that are all zero");
    }
}
