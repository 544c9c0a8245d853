//! From a stem to a matrix: finds the tensors of an encoding and checks that they fit together.
//!
//! | tensors of a stem `S` | encoding | module |
//! |---|---|---|
//! | `S.weight` or `S` of a float or GGUF block type | blocks | here |
//! | `S.weight` u32, `S.scales`, `S.biases` | MLX | `packed` |
//! | `S_blocks`, `S_scales` u8 | mxfp4 of gpt-oss | `packed` |
//! | `S.qweight`, `S.qzeros`, `S.scales`, `S.g_idx` | GPTQ, AWQ | `transposed` |
//! | `S.weight` u8, `S.weight.absmax`, `S.weight.quant_map`, ... | bitsandbytes | `bnb` |
//! | `S.weight` or `S` f8, `.._scale_inv`, `.._scale` or `S.scale` | FP8 | `fp8` |
//! | `S.weight_packed` u8, `S.weight_scale` | mxfp4 of compressed-tensors | `packed` |
//! | `S.weight_packed` i32 or `S.weight` i8, `S.weight_scale` or `S.SCB` | integers | `integers` |

mod bnb;
mod fp8;
mod integers;
mod packed;
mod transposed;

use std::path::{Path, PathBuf};

use mlxr_compute::{Bytes, DType, Encoding, MatrixData};

use crate::OpenError;
use crate::error::{CONVERT, DAMAGED, printable};
use crate::quantization::{Quantization, Scheme};
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

/// The tensors of one stem.
pub(super) struct Stem<'a> {
    tensors: &'a Tensors,
    quantization: Option<&'a Quantization>,
    name: &'a str,
}

impl<'a> Stem<'a> {
    /// The tensor of this stem that ends in `suffix`.
    fn part(&self, suffix: &str) -> Option<&'a TensorInfo> {
        self.tensors.get(&format!("{}{suffix}", self.name))
    }

    /// A tensor that goes with `weight`.
    fn need(&self, weight: &TensorInfo, suffix: &str) -> Result<&'a TensorInfo, OpenError> {
        self.part(suffix).ok_or_else(|| {
            let expected = format!("a tensor `{}{suffix}` with it", printable(self.name.as_bytes()));
            self.error(weight, "no such tensor".to_owned(), expected)
        })
    }

    /// Checks the type of a part.
    fn typed(&self, tensor: &TensorInfo, dtypes: &[DType]) -> Result<DType, OpenError> {
        if dtypes.contains(&tensor.dtype) {
            return Ok(tensor.dtype);
        }
        let names: Vec<&str> = dtypes.iter().map(|d| d.name()).collect();
        Err(self.error(tensor, format!("type {}", tensor.dtype.name()), names.join(" or ")))
    }

    /// Checks the shape of a part.
    fn shaped(&self, tensor: &TensorInfo, shape: &[usize], why: &str) -> Result<(), OpenError> {
        if tensor.shape == shape {
            return Ok(());
        }
        Err(self.error(tensor, format!("shape {:?}", tensor.shape), format!("{shape:?}, as {why} needs")))
    }

    fn bytes(&self, tensor: &TensorInfo) -> Bytes {
        self.tensors.bytes(tensor)
    }

    fn error(&self, tensor: &TensorInfo, found: String, expected: String) -> OpenError {
        let path = self.tensors.path(tensor);
        OpenError::tensor(path, &printable(tensor.name.as_bytes()), [found, expected], DAMAGED)
    }

    fn unsupported(&self, tensor: &TensorInfo, found: String, expected: &str) -> OpenError {
        let path = self.tensors.path(tensor);
        OpenError::tensor(path, &printable(tensor.name.as_bytes()), [found, expected.to_owned()], CONVERT)
    }

    /// What the configuration says; nothing in a GGUF.
    fn scheme(&self) -> &'a Scheme {
        self.quantization.map_or(&Scheme::Plain, |q| &q.scheme)
    }

    /// The error for tensors of an encoding that `config.json` does not announce.
    fn unannounced(&self, tensor: &TensorInfo, expected: &str) -> OpenError {
        let Some(quantization) = self.quantization else {
            return self.unsupported(tensor, format!("type {}", tensor.dtype.name()), "a float or block type");
        };
        let found = format!("{}, and a tensor `{}`", self.scheme().name(), printable(tensor.name.as_bytes()));
        OpenError::key(&quantization.path, "quantization_config", [found, expected.to_owned()], DAMAGED)
    }
}

const FLOATS: [DType; 3] = [DType::F16, DType::BF16, DType::F32];

/// The matrix or stack of a stem, or `None` when there is no tensor of that stem.
pub(crate) fn find(
    tensors: &Tensors,
    quantization: Option<&Quantization>,
    name: &str,
) -> Result<Option<Joined>, OpenError> {
    let stem = Stem { tensors, quantization, name };
    if let Some(qweight) = stem.part(".qweight") {
        return transposed::join(&stem, qweight).map(Some);
    }
    if let Some(blocks) = stem.part("_blocks") {
        return packed::mxfp4(&stem, blocks).map(Some);
    }
    if let Some(weight) = stem.part(".weight_packed") {
        return compressed(&stem, weight).map(Some);
    }
    let Some(weight) = stem.part(".weight").or_else(|| stem.part("")) else { return Ok(None) };
    match weight.dtype {
        DType::U32 if quantization.is_some() => packed::mlx(&stem, weight),
        DType::U8 if stem.part(".weight.absmax").is_some() => bnb::join(&stem, weight),
        DType::F8E4M3 | DType::F8E5M2 => fp8::join(&stem, weight),
        DType::I8 if matches!(stem.scheme(), Scheme::Bnb | Scheme::Compressed) => integers::signed_bytes(&stem, weight),
        _ => plain(&stem, weight),
    }
    .map(Some)
}

/// `S.weight_packed` of compressed-tensors: integers, or MXFP4.
fn compressed(stem: &Stem<'_>, weight: &TensorInfo) -> Result<Joined, OpenError> {
    match stem.scheme() {
        Scheme::Compressed if weight.dtype == DType::U8 => packed::mxfp4_pairs(stem, weight),
        Scheme::Compressed => integers::packed(stem, weight),
        _ => Err(stem.unannounced(weight, "compressed-tensors")),
    }
}

fn plain(stem: &Stem<'_>, weight: &TensorInfo) -> Result<Joined, OpenError> {
    let dtype = weight.dtype;
    if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16 | DType::F64) && dtype.block() == 1 {
        return Err(stem.unannounced(weight, "a quantization that explains its type"));
    }
    let (name, shape) = (weight.name.clone(), weight.shape.clone());
    Ok(Joined { name, shape, encoding: Encoding::Blocks(dtype), parts: vec![stem.bytes(weight)] })
}
