//! A weight matrix as it lies in a file.

use std::fmt;

use crate::{Bytes, DType, Error};

/// How the parts of a [`MatrixData`] mean weights. Each variant names its parts in order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Encoding {
    /// Parts: `weights`. Plain numbers or GGUF blocks, row after row.
    Blocks(DType),
    /// MLX affine: `w = scale * q + bias`, `q` packed little endian into `u32` along a row.
    /// Parts: `weights` u32 `[n_out, n_in * bits / 32]`, `scales`, `biases` of type `scale` `[n_out, n_in / group]`.
    /// Source: MLX `mlx/ops.cpp` `affine_quantize`.
    MlxAffine {
        /// Bits a weight: 2, 3, 4, 5, 6 or 8.
        bits: u8,
        /// Weights that share a scale: 32, 64 or 128.
        group: u16,
        /// Type of scales and biases: F16, BF16 or F32.
        scale: DType,
    },
    /// MLX `mxfp4`, `mxfp8`, `nvfp4`. Parts: `weights` u32, `scales` u8 `[n_out, n_in / group]`.
    MlxFloat(MlxFloat),
    /// GPTQ: `w = scale * (q - zero)`. Parts: `qweight` i32 `[n_in * bits / 32, n_out]`, `qzeros` i32
    /// `[n_group, n_out * bits / 32]`, `scales` `[n_group, n_out]`, `g_idx` i32 `[n_in]` (empty: `i / group`).
    Gptq {
        /// Bits a weight: 2, 3, 4 or 8.
        bits: u8,
        /// Input weights that share a scale.
        group: u32,
        /// Whether the stored zero is one less than the zero (`checkpoint_format` other than `gptq_v2`).
        zero_plus_one: bool,
        /// Type of the scales: F16, BF16 or F32.
        scale: DType,
    },
    /// AWQ GEMM, 4 bits. Parts: `qweight` i32 `[n_in, n_out / 8]` (nibbles in the order 0 2 4 6 1 3 5 7), `qzeros`
    /// i32 `[n_in / group, n_out / 8]`, `scales` `[n_in / group, n_out]`.
    Awq {
        /// Input weights that share a scale.
        group: u32,
        /// Type of the scales: F16, BF16 or F32.
        scale: DType,
    },
    /// bitsandbytes NF4 or FP4. Parts: `weights` u8 (high nibble first), `absmax`, `quant_map` f32 `[16]`, and for
    /// nested absmax `nested_absmax` f32, `nested_quant_map` f32 `[256]`; else the last two are empty.
    Bnb4 {
        /// Weights that share a scale.
        block: u32,
        /// Absmax values that share a scale, 0 when absmax is f32.
        nested_block: u32,
        /// Offset added to the decoded nested absmax.
        nested_offset: f32,
    },
    /// FP8. Parts: `weights` of `dtype` `[n_out, n_in]`, `scales` f32 or BF16 as `scale`
    /// `[ceil(n_out / rows), ceil(n_in / cols)]`; a weight is multiplied by the scale of its tile.
    Fp8 {
        /// F8E4M3 or F8E5M2.
        dtype: DType,
        /// Rows of a scale's tile (`u32::MAX`: all).
        rows: u32,
        /// Columns of a scale's tile (`u32::MAX`: all).
        cols: u32,
        /// Type of the scales.
        scale: DType,
    },
}

/// MLX's float formats. Source: MLX `mlx/backend/cpu/quantized.cpp` @ 0.32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlxFloat {
    /// e2m1, group 32, E8M0 scale.
    Mxfp4,
    /// e4m3, group 32, E8M0 scale.
    Mxfp8,
    /// e2m1, group 16, E4M3 scale.
    Nvfp4,
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Encoding::Blocks(dtype) => write!(f, "{}", dtype.name()),
            Encoding::MlxAffine { bits, group, .. } => write!(f, "mlx {bits}-bit g{group}"),
            Encoding::MlxFloat(kind) => write!(f, "mlx {}", format!("{kind:?}").to_lowercase()),
            Encoding::Gptq { bits, group, .. } => write!(f, "gptq {bits}-bit g{group}"),
            Encoding::Awq { group, .. } => write!(f, "awq 4-bit g{group}"),
            Encoding::Bnb4 { block, .. } => write!(f, "bnb 4-bit b{block}"),
            Encoding::Fp8 { dtype, .. } => write!(f, "{}", dtype.name()),
        }
    }
}

/// A weight matrix `[n_out, n_in]`: an output is the dot product of a row with the input.
///
/// Built by `weights`, which has checked that the parts have the sizes that shape and encoding need;
/// [`MatrixData::check`] is that check.
#[derive(Debug, Clone)]
pub struct MatrixData {
    /// Name in the file, for messages.
    pub name: String,
    /// Rows.
    pub n_out: usize,
    /// Columns.
    pub n_in: usize,
    /// How the parts mean weights.
    pub encoding: Encoding,
    /// The parts that `encoding` names.
    pub parts: Vec<Bytes>,
}

impl MatrixData {
    /// A matrix of plain numbers or GGUF blocks.
    ///
    /// # Errors
    /// If the bytes do not fit the shape.
    pub fn blocks(name: &str, [n_out, n_in]: [usize; 2], dtype: DType, bytes: Bytes) -> Result<MatrixData, Error> {
        let encoding = Encoding::Blocks(dtype);
        let matrix = MatrixData { name: name.to_owned(), n_out, n_in, encoding, parts: vec![bytes] };
        matrix.check()?;
        Ok(matrix)
    }

    /// Bytes of all parts.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|p| p.len()).sum()
    }
}

impl MatrixData {
    /// Whether every part has the size that shape and encoding need.
    ///
    /// # Errors
    /// Names the tensor and the part, with the size found and the size needed.
    pub fn check(&self) -> Result<(), Error> {
        crate::quant::parts::check(self)
    }

    fn same(&self, what: &str, found: usize, expected: usize) -> Result<(), Error> {
        if found == expected {
            return Ok(());
        }
        Err(Error::Shape {
            tensor: self.name.clone(),
            found: format!("{found} {what}"),
            expected: format!("{expected} like the matrices it is joined with"),
        })
    }
}

/// All rows and the columns of matrices that are stacked along rows.
///
/// # Errors
/// If they differ in columns, or [`MatrixData::check`] fails.
pub fn stacked(parts: &[MatrixData]) -> Result<[usize; 2], Error> {
    let n_in = parts.first().map_or(0, |part| part.n_in);
    for part in parts {
        part.check()?;
        part.same("columns", part.n_in, n_in)?;
    }
    Ok([parts.iter().map(|part| part.n_out).sum(), n_in])
}

/// The rows of each and the columns of matrices side by side, which are those of experts or heads.
///
/// # Errors
/// If they differ in shape, or [`MatrixData::check`] fails.
pub fn side_by_side(parts: &[MatrixData]) -> Result<[usize; 2], Error> {
    let [_, n_in] = stacked(parts)?;
    let n_out = parts.first().map_or(0, |part| part.n_out);
    parts.iter().try_for_each(|part| part.same("rows", part.n_out, n_out))?;
    Ok([n_out, n_in])
}
