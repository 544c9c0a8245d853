//! A GGUF file of a checkpoint.

use std::path::Path;

use mlxr_compute::{DType, Encoding, MatrixData};
use mlxr_models::convert::{Plan, Target};
use mlxr_models::names::Role;
use mlxr_weights::Checkpoint;
use mlxr_weights::gguf::{Entry, Value, Writer};

use super::encode::{self, BAND, Take, holds};
use super::{Change, Progress, Report};
use crate::ToolError;

/// Which type matrices get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// The source's own: plain numbers as they are, quantized ones as blocks of equal values where GGUF has such, else
    /// this type.
    Keep(DType),
    /// This one.
    Of(DType),
}

/// Roles whose matrices llama.cpp keeps as f32.
const PLAIN: [Role; 5] = [Role::Router, Role::ShRouter, Role::PosEmbed, Role::SsmConv, Role::IndexWeights];

/// `general.file_type` of a file most of whose bytes have this type. Source: `enum llama_ftype`, llama.cpp `llama.h`.
const FILE_TYPES: [(DType, u32); 10] = [
    (DType::F32, 0),
    (DType::F16, 1),
    (DType::Q4_0, 2),
    (DType::Q4_1, 3),
    (DType::Q8_0, 7),
    (DType::Q5_0, 8),
    (DType::Q5_1, 9),
    (DType::BF16, 32),
    (DType::MXFP4, 38),
    (DType::NVFP4, 39),
];

/// Writes `checkpoint` to `out` by a plan for GGUF. `more` adds what is not the model's: a tokenizer, a template, a name.
///
/// # Errors
/// If the checkpoint is damaged or the file cannot be written; then there is no file.
pub fn write(
    checkpoint: &Checkpoint,
    plan: Plan,
    (out, kind, n_thread): (&Path, Type, usize),
    more: &[(String, Value)],
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Report, ToolError> {
    let Plan { targets, mut metadata, losses, left_out, .. } = plan;
    let mut report = Report::default();
    report.notes.extend(left_out);
    report.notes.extend(losses.into_iter().map(|loss| format!("GGUF cannot say: {loss}")));
    let mut entries = Vec::with_capacity(targets.len());
    let mut bytes_of = Vec::<(DType, u64)>::new();
    for target in &targets {
        let dtype = dtype(checkpoint, target, kind)?;
        let n: usize = target.shape.iter().product();
        let bytes = (n / dtype.block() * dtype.block_bytes()) as u64;
        match bytes_of.iter_mut().find(|(d, _)| *d == dtype) {
            Some((_, sum)) => *sum += bytes,
            None => bytes_of.push((dtype, bytes)),
        }
        report.bytes += bytes;
        report.n_parameter += n as u64;
        entries.push(Entry { name: target.name.clone(), dtype, shape: target.shape.clone() });
    }
    let most = bytes_of.iter().max_by_key(|(_, bytes)| *bytes).map_or(DType::F32, |(dtype, _)| *dtype);
    if let Some((_, number)) = FILE_TYPES.iter().find(|(dtype, _)| *dtype == most) {
        metadata.set("general.file_type", Value::U32(*number));
    }
    metadata.set("general.quantization_version", Value::U32(2));
    for (key, value) in more {
        metadata.set(key, value.clone());
    }
    let mut writer = Writer::create(out, &metadata, &entries)?;
    for (i, (target, entry)) in targets.iter().zip(&entries).enumerate() {
        progress(Progress { n_done: i, n_tensor: targets.len(), name: &target.name });
        for m in 0..target.n_matrix().max(1) {
            let matrix = target.matrix(checkpoint, m)?;
            let change = push(&matrix, entry.dtype, n_thread, &mut writer)?;
            target.release(checkpoint, m);
            if m == 0 {
                report.count(&matrix.encoding.to_string(), entry.dtype.name(), change);
            }
        }
    }
    writer.finish()?;
    Ok(report)
}

/// The type that a target is written as.
fn dtype(checkpoint: &Checkpoint, target: &Target, kind: Type) -> Result<DType, ToolError> {
    if target.n_matrix() == 0 || PLAIN.contains(&target.role) {
        return Ok(DType::F32);
    }
    let n_in = target.shape.last().copied().unwrap_or(1);
    let fits = |dtype: DType| if n_in.is_multiple_of(dtype.block()) { dtype } else { DType::F16 };
    let fallback = match kind {
        Type::Of(dtype) => return Ok(fits(dtype)),
        Type::Keep(fallback) => fits(fallback),
    };
    let mut found = None;
    for m in 0..target.n_matrix() {
        let own = match target.encoding(checkpoint, m)? {
            Encoding::Blocks(DType::F64) => Some(DType::F32),
            Encoding::Blocks(dtype) => Some(dtype),
            Encoding::Fp8 { .. } | Encoding::Bnb4 { .. } => None,
            _ => {
                // Whether blocks have equal values is known by scales and zeros.
                let own = target.matrix(checkpoint, m)?.gguf_type();
                target.release(checkpoint, m);
                own
            }
        };
        match (own, found) {
            (Some(own), None) => found = Some(own),
            (Some(own), Some(before)) if own == before => {}
            _ => return Ok(fallback),
        }
    }
    Ok(found.filter(|dtype| n_in.is_multiple_of(dtype.block())).unwrap_or(fallback))
}

/// Writes a matrix as blocks: exactly where both are quantized alike.
fn push(matrix: &MatrixData, dtype: DType, n_thread: usize, writer: &mut Writer) -> Result<Change, ToolError> {
    let to = Encoding::Blocks(dtype);
    let mut take = |bytes: &[u8]| Ok(writer.push(bytes)?);
    if matrix.encoding == to {
        encode::copy(&matrix.parts[0], &mut take)?;
        return Ok(Change::Exact);
    }
    if !matches!(matrix.encoding, Encoding::Blocks(_)) && matrix.gguf_type() == Some(dtype) {
        repack(matrix, dtype, &mut take)?;
        return Ok(Change::Exact);
    }
    encode::encode(matrix, to, n_thread, &mut take)?;
    Ok(if holds(to, matrix.encoding) { Change::Exact } else { Change::Rounded })
}

/// Hands over blocks of equal values, of the matrix's own type in GGUF, band after band.
fn repack(matrix: &MatrixData, dtype: DType, take: &mut Take<'_>) -> Result<(), ToolError> {
    // GPTQ and AWQ have whole words of 32 rows.
    let n_band = (BAND / matrix.n_in.max(1)).next_multiple_of(32).max(32);
    for first in (0..matrix.n_out).step_by(n_band) {
        let rows = matrix.slice_rows(first..matrix.n_out.min(first + n_band))?;
        let blocks = rows.to_gguf_blocks(dtype).expect("rows of a matrix whose values the type has");
        take(&blocks.parts[0])?;
    }
    Ok(())
}
