//! A tensor to be written, and how it is made.

use mlxr_compute::{Bytes, DType, Encoding, MatrixData};
use mlxr_weights::Checkpoint;

use crate::LoadError;
use crate::load::transpose;
use crate::names::Role;

/// Rows of one matrix of the source.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Its stem.
    pub stem: String,
    /// Which of a stack.
    pub expert: Option<usize>,
    /// Whether it is stored `[n_in, n_out]`.
    pub transposed: bool,
    /// Which rows, in order; `None` for all.
    pub rows: Option<Vec<usize>>,
    /// The columns in another order; `None` for the source's.
    pub columns: Option<Vec<usize>>,
    /// A factor on all weights.
    pub scale: f32,
}

impl Part {
    /// A whole matrix.
    pub fn whole(stem: &str) -> Part {
        Part { stem: stem.to_owned(), expert: None, transposed: false, rows: None, columns: None, scale: 1.0 }
    }

    /// The matrix as it is stored.
    fn stored(&self, checkpoint: &Checkpoint) -> Result<MatrixData, LoadError> {
        let missing = || LoadError::Convert {
            path: checkpoint.path().display().to_string(),
            text: format!("no tensor `{}`: the file is incomplete", self.stem),
        };
        Ok(match self.expert {
            None => checkpoint.matrix(&self.stem)?.ok_or_else(missing)?,
            Some(e) => {
                let all = match checkpoint.experts(&self.stem) {
                    // A file of one head may drop the dimension of heads.
                    Err(_) if e == 0 => checkpoint.matrix(&self.stem)?.map(|matrix| vec![matrix]),
                    all => all?,
                };
                all.and_then(|all| all.into_iter().nth(e)).ok_or_else(missing)?
            }
        })
    }

    /// Whether the matrix is written as it is stored.
    fn is_whole(&self) -> bool {
        !self.transposed && self.rows.is_none() && self.columns.is_none() && self.scale == 1.0
    }

    fn matrix(&self, checkpoint: &Checkpoint) -> Result<MatrixData, LoadError> {
        let mut matrix = self.stored(checkpoint)?;
        if self.transposed {
            matrix = transpose(&matrix)?;
        }
        if let Some(rows) = &self.rows {
            matrix = matrix.take_rows(rows)?;
        }
        if let Some(columns) = &self.columns {
            matrix = take_columns(&matrix, columns)?;
        }
        if self.scale != 1.0 {
            let mut weights = decode(&matrix);
            weights.iter_mut().for_each(|w| *w *= self.scale);
            matrix = plain(&matrix.name, [matrix.n_out, matrix.n_in], &weights)?;
        }
        Ok(matrix)
    }
}

/// What a tensor is made of.
#[derive(Debug, Clone, PartialEq)]
pub enum Recipe {
    /// A matrix: the parts' rows, one part after another.
    Matrix(Vec<Part>),
    /// A stack of matrices of equal shape.
    Stack(Vec<Vec<Part>>),
    /// These numbers.
    Numbers(Vec<f32>),
}

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// Its full name, where it is not quantized.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Its shape, outermost first.
    pub shape: Vec<usize>,
    /// What it is made of.
    pub recipe: Recipe,
    /// The order in which the rows of its matrices are written, where it is another.
    pub order: Option<Vec<usize>>,
    /// Whether its matrices are written `[n_in, n_out]`.
    pub transposed: bool,
}

impl Target {
    /// Inputs of a matrix, as wide as its rows unless it is written transposed.
    pub(super) fn n_in(&self) -> usize {
        let from_end = if self.transposed { 2 } else { 1 };
        self.shape.len().checked_sub(from_end).map_or(0, |i| self.shape[i])
    }

    /// How many matrices there are; 0 for numbers.
    #[must_use]
    pub fn n_matrix(&self) -> usize {
        match &self.recipe {
            Recipe::Matrix(_) => 1,
            Recipe::Stack(stack) => stack.len(),
            Recipe::Numbers(_) => 0,
        }
    }

    /// What one of its matrices is made of; nothing for numbers.
    fn parts(&self, i: usize) -> &[Part] {
        match &self.recipe {
            Recipe::Matrix(parts) => parts,
            Recipe::Stack(stack) => &stack[i],
            Recipe::Numbers(_) => &[],
        }
    }

    /// The encoding of one of its matrices in the source, and how many bits a weight has there.
    ///
    /// # Errors
    /// If a tensor of the source is damaged or missing.
    pub fn stored(&self, checkpoint: &Checkpoint, i: usize) -> Result<(Encoding, f64), LoadError> {
        let Some(part) = self.parts(i).first() else { return Ok((Encoding::Blocks(DType::F32), 32.0)) };
        let matrix = part.stored(checkpoint)?;
        Ok((matrix.encoding, matrix.bytes() as f64 * 8.0 / (matrix.n_out * matrix.n_in).max(1) as f64))
    }

    /// The encoding of one of its matrices as [`Target::matrix`] makes it.
    ///
    /// # Errors
    /// If a tensor of the source is damaged or missing.
    pub fn encoding(&self, checkpoint: &Checkpoint, i: usize) -> Result<Encoding, LoadError> {
        match self.parts(i) {
            [part] if part.is_whole() && self.order.is_none() && !self.transposed => {
                Ok(part.stored(checkpoint)?.encoding)
            }
            _ => Ok(self.matrix(checkpoint, i)?.encoding),
        }
    }

    /// Says that the tensors that one of its matrices is made of will hardly be read again.
    pub fn release(&self, checkpoint: &Checkpoint, i: usize) {
        for matrix in self.parts(i).iter().filter_map(|part| part.stored(checkpoint).ok()) {
            matrix.parts.iter().for_each(Bytes::release);
        }
    }

    /// One of its matrices.
    ///
    /// # Errors
    /// If a tensor of the source is damaged or missing.
    pub fn matrix(&self, checkpoint: &Checkpoint, i: usize) -> Result<MatrixData, LoadError> {
        if let Recipe::Numbers(numbers) = &self.recipe {
            let n_in = *self.shape.last().unwrap_or(&1);
            return plain(&self.name, [numbers.len() / n_in.max(1), n_in], numbers);
        }
        let parts = self.parts(i);
        let matrices = parts.iter().map(|part| part.matrix(checkpoint)).collect::<Result<Vec<_>, _>>()?;
        let mut matrix = concat(&self.name, matrices)?;
        if let Some(order) = &self.order {
            matrix = matrix.take_rows(order)?;
        }
        if self.transposed { transpose(&matrix) } else { Ok(matrix) }
    }
}

/// Whether rows of the encoding lie one after another in every part, so that parts can be joined.
fn joins(encoding: Encoding) -> bool {
    matches!(encoding, Encoding::Blocks(_) | Encoding::MlxAffine { .. } | Encoding::MlxFloat(_))
}

/// Weights that share a scale, in encodings whose columns lie in order.
fn group(encoding: Encoding) -> usize {
    match encoding {
        Encoding::Blocks(dtype) => dtype.block(),
        Encoding::MlxAffine { group, .. } => usize::from(group),
        Encoding::MlxFloat(kind) => kind.group(),
        Encoding::Gptq { .. } | Encoding::Awq { .. } | Encoding::Bnb4 { .. } | Encoding::Fp8 { .. } => usize::MAX,
    }
}

/// The greatest number of which every run of consecutive columns begins at a multiple and has a multiple.
fn run(columns: &[usize]) -> usize {
    let gcd = |mut a: usize, mut b: usize| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let runs = columns.chunk_by(|a, b| a + 1 == *b);
    runs.fold(0, |n, run| gcd(gcd(n, run[0]), run.len()))
}

/// The matrix with its columns in another order. Values stay as they are; so does the encoding where whole groups move.
fn take_columns(matrix: &MatrixData, columns: &[usize]) -> Result<MatrixData, LoadError> {
    let (n_in, n) = (matrix.n_in, run(columns));
    if columns.len() != n_in || columns.iter().any(|c| *c >= n_in) {
        let (found, expected) = (format!("{n_in} columns"), format!("{}", columns.len()));
        let tensor = matrix.name.clone();
        return Err(mlxr_compute::Error::Shape { tensor, found, expected }.into());
    }
    if !joins(matrix.encoding) || !n.is_multiple_of(group(matrix.encoding)) {
        let mut weights = vec![0.0; matrix.n_out * n_in];
        let mut row = vec![0.0; n_in];
        for (r, out) in weights.chunks_exact_mut(n_in).enumerate() {
            matrix.decode_rows(r, 1, &mut row);
            out.iter_mut().zip(columns).for_each(|(out, c)| *out = row[*c]);
        }
        return plain(&matrix.name, [matrix.n_out, n_in], &weights);
    }
    let part = |bytes: &Bytes| -> Bytes {
        let size = bytes.len() / matrix.n_out / (n_in / n);
        let rows = bytes.chunks_exact(bytes.len() / matrix.n_out);
        let runs = rows.flat_map(|row| columns.iter().step_by(n).map(|c| &row[c / n * size..][..size]));
        runs.flatten().copied().collect::<Vec<u8>>().into()
    };
    let parts = matrix.parts.iter().map(part).collect();
    Ok(MatrixData { parts, ..matrix.clone() })
}

fn concat(name: &str, mut matrices: Vec<MatrixData>) -> Result<MatrixData, LoadError> {
    if matrices.len() == 1 {
        return Ok(matrices.swap_remove(0));
    }
    let (encoding, n_in) = (matrices[0].encoding, matrices[0].n_in);
    let n_out = matrices.iter().map(|m| m.n_out).sum();
    if matrices.iter().all(|m| m.encoding == encoding && m.n_in == n_in) && joins(encoding) {
        let part = |p: usize| matrices.iter().flat_map(|m| m.parts[p].iter().copied()).collect::<Vec<u8>>().into();
        let parts = (0..matrices[0].parts.len()).map(part).collect();
        return Ok(MatrixData { name: name.to_owned(), n_out, n_in, encoding, parts });
    }
    let weights: Vec<f32> = matrices.iter().flat_map(decode).collect();
    plain(name, [n_out, n_in], &weights)
}

fn decode(matrix: &MatrixData) -> Vec<f32> {
    let mut weights = vec![0.0; matrix.n_out * matrix.n_in];
    matrix.decode_rows(0, matrix.n_out, &mut weights);
    weights
}

fn plain(name: &str, shape: [usize; 2], weights: &[f32]) -> Result<MatrixData, LoadError> {
    let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
    Ok(MatrixData::blocks(name, shape, DType::F32, bytes.into())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_move_with_their_blocks_or_are_decoded() {
        let weights: Vec<f32> = (0..256).map(|i| (i * 37 % 97) as f32 - 40.0).collect();
        let matrix = plain("m", [2, 128], &weights).expect("it fits");
        let q8 = matrix.to_blocks(DType::Q8_0).expect("whole blocks");
        let heads = |n: usize| (0..128 / n).rev().flat_map(|h| h * n..(h + 1) * n).collect::<Vec<usize>>();
        for (from, n, kept) in [(&matrix, 3, true), (&q8, 64, true), (&q8, 32, true), (&q8, 16, false)] {
            let columns = if n == 3 { (0..128).rev().collect() } else { heads(n) };
            let got = take_columns(from, &columns).expect("a permutation");
            assert_eq!(got.encoding == from.encoding, kept, "runs of {n}");
            let (got, before) = (decode(&got), decode(from));
            for (r, c) in (0..2).flat_map(|r| (0..128).map(move |c| (r, c))) {
                assert_eq!(got[r * 128 + c], before[r * 128 + columns[c]], "runs of {n}, row {r}, column {c}");
            }
        }
    }
}
