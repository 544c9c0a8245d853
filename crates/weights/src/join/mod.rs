//! From a stem to a matrix: finds the tensors of an encoding and checks that they fit together.
//!
//! | tensors of a stem `S` | encoding | module |
//! |---|---|---|
//! | `S.weight` or `S` of a float or GGUF block type | blocks | here |

use std::path::{Path, PathBuf};

use mlxr_compute::{Bytes, DType, Encoding, MatrixData};

use crate::OpenError;
use crate::error::{CONVERT, DAMAGED, printable};
use crate::quantization::Quantization;
use crate::tensors::{TensorInfo, Tensors};

/// A matrix or a stack of matrices, in one encoding.
#[derive(Debug)]
pub(crate) struct Joined {
    /// Full name of the tensor that has the weights.
    pub name: String,
    /// `[n_in]`, `[n_out, n_in]` or `[n_expert, n_out, n_in]`, in weights.
    pub shape: Vec<usize>,
    pub encoding: Encoding,
    /// As `encoding` names them; for a stack each part is the experts' parts one after another.
    pub parts: Vec<Bytes>,
}

impl Joined {
    /// The only matrix.
    pub fn into_matrix(self, path: &Path) -> Result<MatrixData, OpenError> {
        let [n_out, n_in] = match self.shape[..] {
            [n_in] => [1, n_in],
            [n_out, n_in] => [n_out, n_in],
            _ => return Err(self.wrong_shape(path, "a matrix of two dimensions")),
        };
        let matrix = MatrixData { name: self.name, n_out, n_in, encoding: self.encoding, parts: self.parts };
        checked(matrix, path)
    }

    /// The matrices of a stack.
    pub fn into_experts(self, path: &Path) -> Result<Vec<MatrixData>, OpenError> {
        let [n_expert, n_out, n_in] = self.shape[..] else {
            return Err(self.wrong_shape(path, "a stack of three dimensions [n_expert, n_out, n_in]"));
        };
        if n_expert == 0 || self.parts.iter().any(|p| !p.len().is_multiple_of(n_expert)) {
            return Err(self.wrong_shape(path, "parts that divide evenly by the experts"));
        }
        let part = |bytes: &Bytes, i: usize| {
            let size = bytes.len() / n_expert;
            bytes.slice(i * size..(i + 1) * size).expect("i < n_expert")
        };
        (0..n_expert)
            .map(|i| {
                let parts = self.parts.iter().map(|p| part(p, i)).collect();
                let name = format!("{}[{i}]", self.name);
                checked(MatrixData { name, n_out, n_in, encoding: self.encoding, parts }, path)
            })
            .collect()
    }

    fn wrong_shape(&self, path: &Path, expected: &str) -> OpenError {
        let found = [format!("shape {:?}", self.shape), expected.to_owned()];
        OpenError::tensor(path, &printable(self.name.as_bytes()), found, DAMAGED)
    }
}

fn checked(matrix: MatrixData, path: &Path) -> Result<MatrixData, OpenError> {
    matrix.check().map_err(|source| OpenError::Matrix { path: PathBuf::from(path), source })?;
    Ok(matrix)
}

/// The matrix or stack of a stem, or `None` when there is no tensor of that stem.
pub(crate) fn find(
    tensors: &Tensors,
    _quantization: Option<&Quantization>,
    stem: &str,
) -> Result<Option<Joined>, OpenError> {
    let Some(weight) = tensors.get(&format!("{stem}.weight")).or_else(|| tensors.get(stem)) else {
        return Ok(None);
    };
    plain(tensors, weight).map(Some)
}

fn plain(tensors: &Tensors, weight: &TensorInfo) -> Result<Joined, OpenError> {
    let dtype = weight.dtype;
    let float = matches!(dtype, DType::F32 | DType::F16 | DType::BF16 | DType::F64);
    if !float && dtype.block() == 1 {
        let found = [format!("weights of type {}", dtype.name()), "a float or block type".to_owned()];
        return Err(OpenError::tensor(tensors.path(weight), &printable(weight.name.as_bytes()), found, CONVERT));
    }
    let (name, shape) = (weight.name.clone(), weight.shape.clone());
    Ok(Joined { name, shape, encoding: Encoding::Blocks(dtype), parts: vec![tensors.bytes(weight)] })
}
