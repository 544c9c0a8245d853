//! A tensor to be written, and how it is made.

use mlxr_compute::{DType, Encoding, MatrixData};
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
    /// A factor on all weights.
    pub scale: f32,
}

impl Part {
    /// A whole matrix.
    pub fn whole(stem: &str) -> Part {
        Part { stem: stem.to_owned(), expert: None, transposed: false, rows: None, scale: 1.0 }
    }

    fn matrix(&self, checkpoint: &Checkpoint) -> Result<MatrixData, LoadError> {
        let missing = || LoadError::Convert {
            path: checkpoint.path().display().to_string(),
            text: format!("no tensor `{}`: the file is incomplete", self.stem),
        };
        let mut matrix = match self.expert {
            None => checkpoint.matrix(&self.stem)?.ok_or_else(missing)?,
            Some(e) => {
                let all = match checkpoint.experts(&self.stem) {
                    // A file of one head may drop the dimension of heads.
                    Err(_) if e == 0 => checkpoint.matrix(&self.stem)?.map(|matrix| vec![matrix]),
                    all => all?,
                };
                all.and_then(|all| all.into_iter().nth(e)).ok_or_else(missing)?
            }
        };
        if self.transposed {
            matrix = transpose(&matrix)?;
        }
        if let Some(rows) = &self.rows {
            matrix = matrix.take_rows(rows)?;
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
    /// How many matrices there are; 0 for numbers.
    #[must_use]
    pub fn n_matrix(&self) -> usize {
        match &self.recipe {
            Recipe::Matrix(_) => 1,
            Recipe::Stack(stack) => stack.len(),
            Recipe::Numbers(_) => 0,
        }
    }

    /// One of its matrices.
    ///
    /// # Errors
    /// If a tensor of the source is damaged or missing.
    pub fn matrix(&self, checkpoint: &Checkpoint, i: usize) -> Result<MatrixData, LoadError> {
        let parts = match &self.recipe {
            Recipe::Matrix(parts) => parts,
            Recipe::Stack(stack) => &stack[i],
            Recipe::Numbers(numbers) => {
                let n_in = *self.shape.last().unwrap_or(&1);
                return plain(&self.name, [numbers.len() / n_in.max(1), n_in], numbers);
            }
        };
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
