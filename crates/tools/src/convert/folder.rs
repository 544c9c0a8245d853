//! A folder of a checkpoint: `config.json`, safetensors, and its side files, as Hugging Face or mlx-lm write them.

use std::fs;
use std::path::Path;

use mlxr_compute::{DType, Encoding, MatrixData, quant};
use mlxr_models::convert::{Form, Plan, Recipe, Target};
use mlxr_models::names::Role;
use mlxr_weights::safetensors::{Entry, Writer};
use mlxr_weights::{AtomicFolder, Checkpoint, Kind};
use serde_json::{Map, Value, json};

use super::calibrated::{Calibration, Factors};
use super::encode::{self, Take, copy, holds};
use super::{Change, Progress, Report};
use crate::ToolError;

/// Bytes of a shard, as Hugging Face's library cuts them.
const SHARD_BYTES: u64 = 5_000_000_000;

/// What matrices become.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scheme {
    /// Plain numbers: of this type, or of the source's own, bf16 where it is quantized.
    Plain(Option<DType>),
    /// MLX's formats: the source's values where MLX has them; other quantized matrices in affine groups of 32 of about
    /// as many bits, the others plain.
    MlxKeep,
    /// MLX's formats: this encoding, or for down and value projections of some layers `high`.
    Mlx {
        /// The usual encoding.
        encoding: Encoding,
        /// The encoding of what matters most (mlx-lm's mixed recipes), if it is another.
        high: Option<Encoding>,
    },
}

/// A tensor with what it becomes.
struct Job<'a> {
    target: &'a Target,
    encoding: Encoding,
}

/// Roles that MLX's own quantizer leaves alone: they are no linear layers or embeddings.
const PLAIN: [Role; 2] = [Role::SsmConv, Role::PosEmbed];

/// Roles that are not rounded: what chooses experts, which some of mlx-lm's classes cannot read quantized.
const ROUTERS: [Role; 2] = [Role::Router, Role::ShRouter];

/// Writes `checkpoint` to the folder `out` by a plan for that form; `files` are side files. MLX's formats are rounded by
/// the calibration, if there is one.
///
/// # Errors
/// If the checkpoint is damaged, `out` exists, or a file cannot be written; then there is no folder.
pub fn write(
    checkpoint: &Checkpoint,
    plan: Plan,
    (out, scheme, n_layer, n_thread): (&Path, Scheme, usize, usize),
    files: &[(String, Vec<u8>)],
    calibration: Option<Calibration<'_>>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Report, ToolError> {
    if out.exists() {
        let error = std::io::Error::new(std::io::ErrorKind::AlreadyExists, "it exists: name a new folder");
        return Err(ToolError::File { path: out.to_owned(), error });
    }
    let folder = AtomicFolder::create(out)?;
    let notes = plan.losses.iter().chain(&plan.left_out).cloned().collect();
    let mut report = Report { notes, ..Report::default() };
    let usual = usual(checkpoint, scheme);
    let jobs = plan.targets.iter().map(|target| job(checkpoint, target, (scheme, usual), n_layer));
    let jobs = jobs.collect::<Result<Vec<Job<'_>>, ToolError>>()?;
    let format = if plan.form == Form::Mlx { "mlx" } else { "pt" };
    let factors = &mut calibration.map(Factors::new);
    tensors(checkpoint, &jobs, (folder.partial(), format, n_thread), factors, (&mut report, progress))?;
    let mut config = plan.config;
    describe(&mut config, &jobs, scheme);
    let text = serde_json::to_vec_pretty(&config).expect("a configuration is JSON");
    let own = [("config.json".to_owned(), text)];
    for (name, bytes) in own.iter().chain(files) {
        let path = folder.partial().join(name);
        fs::write(&path, bytes).map_err(|error| ToolError::File { path: path.clone(), error })?;
    }
    folder.finish()?;
    Ok(report)
}

/// The type of a model's small parameters: that of its activations, so that MLX does not compute in a wider one.
fn usual(checkpoint: &Checkpoint, scheme: Scheme) -> DType {
    let of_matrices = checkpoint.tensors().iter().filter(|t| t.shape.len() > 1).map(|t| t.dtype);
    let own = of_matrices.clone().find(|dtype| matches!(dtype, DType::F16 | DType::BF16 | DType::F32));
    match scheme {
        Scheme::Plain(Some(asked)) => asked,
        Scheme::Mlx { encoding: Encoding::MlxAffine { scale, .. }, .. } => scale,
        Scheme::MlxKeep if checkpoint.kind == Kind::Gguf && of_matrices.clone().any(|d| d.block() > 1) => DType::F16,
        _ => own.unwrap_or(DType::BF16),
    }
}

/// Whether a type has all of these numbers exactly.
fn has(dtype: DType, numbers: &[f32]) -> bool {
    let (mut bytes, mut back) = (Vec::new(), vec![0.0; numbers.len()]);
    if quant::encode(dtype, numbers, None, &mut bytes).is_err() {
        return false;
    }
    quant::decode(dtype, &bytes, &mut back);
    back == numbers
}

/// What a target becomes.
fn job<'a>(
    checkpoint: &Checkpoint,
    target: &'a Target,
    (scheme, usual): (Scheme, DType),
    n_layer: usize,
) -> Result<Job<'a>, ToolError> {
    if let Recipe::Numbers(numbers) = &target.recipe {
        let dtype = if has(usual, numbers) { usual } else { DType::F32 };
        return Ok(Job { target, encoding: Encoding::Blocks(dtype) });
    }
    let (n_in, encoding) = (target.shape.last().copied().unwrap_or(1), target.encoding(checkpoint, 0)?);
    let (stored, bits) = target.stored(checkpoint, 0)?;
    let quantized = !matches!(stored, Encoding::Blocks(dtype) if dtype.block() == 1);
    let plain = match encoding {
        Encoding::Blocks(dtype @ (DType::F32 | DType::F16 | DType::BF16)) if !quantized => dtype,
        _ => DType::BF16,
    };
    let linear = target.name.ends_with(".weight") && !target.transposed && !PLAIN.contains(&target.role);
    let fits = |encoding: Encoding| match encoding {
        Encoding::MlxAffine { group, .. } => n_in.is_multiple_of(usize::from(group)),
        Encoding::MlxFloat(kind) => n_in.is_multiple_of(kind.group()),
        _ => true,
    };
    let encoding = match scheme {
        Scheme::Plain(asked) => Encoding::Blocks(asked.unwrap_or(plain)),
        Scheme::MlxKeep => {
            let mut exact = None;
            for m in (0..target.n_matrix()).filter(|_| linear && quantized) {
                // A few rows tell the format: as many as GPTQ and AWQ have in whole words.
                let matrix = target.matrix(checkpoint, m)?;
                let rows = matrix.slice_rows(0..matrix.n_out.min(32))?;
                let own = as_mlx(&rows).map(|(rows, _)| rows.encoding);
                target.release(checkpoint, m);
                exact = if m == 0 { own } else { exact.filter(|_| own == exact) };
            }
            let bits = [2, 3, 4, 5, 6].into_iter().find(|b| f64::from(*b) >= bits.floor()).unwrap_or(8);
            let near = Encoding::MlxAffine { bits, group: 32, scale: DType::F16 };
            let near = Some(near).filter(|near| quantized && linear && fits(*near));
            exact.or(near).unwrap_or(Encoding::Blocks(plain))
        }
        Scheme::Mlx { encoding, high } => {
            let chosen = high.filter(|_| matters(target, n_layer)).unwrap_or(encoding);
            if linear && fits(chosen) && !ROUTERS.contains(&target.role) { chosen } else { Encoding::Blocks(plain) }
        }
    };
    Ok(Job { target, encoding })
}

/// Whether mlx-lm's mixed recipes give a tensor more bits: logits, and down and value projections of the first and the
/// last eighth of layers and of every third between. Source: mlx-lm `convert.py`, `mixed_quant_predicate_builder`.
fn matters(target: &Target, n_layer: usize) -> bool {
    if target.role == Role::Output {
        return true;
    }
    let layer = target.name.split('.').find_map(|part| part.parse::<usize>().ok()).unwrap_or(0);
    let eighth = n_layer / 8;
    let chosen = layer < eighth || layer >= 7 * n_layer / 8 || (layer.saturating_sub(eighth)) % 3 == 2;
    chosen && matches!(target.role, Role::FfnDown | Role::ExpDown | Role::AttnV)
}

/// The tensors that a target is written as: names, types and shapes.
fn entries(job: &Job<'_>) -> Vec<Entry> {
    let (target, shape) = (job.target, &job.target.shape);
    let entry = |name: String, dtype: DType, last: usize| {
        let mut shape = shape.clone();
        if let Some(end) = shape.last_mut() {
            *end = last;
        }
        Entry { name, dtype, shape }
    };
    let n_in = shape.last().copied().unwrap_or(1);
    let stem = target.name.strip_suffix(".weight").unwrap_or(&target.name);
    match job.encoding {
        Encoding::MlxAffine { bits, group, scale } => {
            let n_group = n_in / usize::from(group);
            vec![
                entry(target.name.clone(), DType::U32, n_in * usize::from(bits) / 32),
                entry(format!("{stem}.scales"), scale, n_group),
                entry(format!("{stem}.biases"), scale, n_group),
            ]
        }
        Encoding::MlxFloat(kind) => vec![
            entry(target.name.clone(), DType::U32, n_in * kind.bits() / 32),
            entry(format!("{stem}.scales"), DType::U8, n_in / kind.group()),
        ],
        Encoding::Blocks(dtype) => vec![entry(target.name.clone(), dtype, n_in)],
        _ => Vec::new(),
    }
}

/// Writes all tensors, in shards where there are many bytes.
fn tensors(
    checkpoint: &Checkpoint,
    jobs: &[Job<'_>],
    (folder, format, n_thread): (&Path, &str, usize),
    factors: &mut Option<Factors<'_>>,
    (report, progress): (&mut Report, &mut dyn FnMut(Progress<'_>)),
) -> Result<(), ToolError> {
    let bytes = |entry: &Entry| entry.shape.iter().product::<usize>() as u64 * entry.dtype.block_bytes() as u64;
    let mut shards: Vec<(u64, Vec<&Job<'_>>)> = vec![(0, Vec::new())];
    for job in jobs {
        let n: u64 = entries(job).iter().map(bytes).sum();
        let full = shards.last().is_none_or(|(sum, jobs)| !jobs.is_empty() && sum + n > SHARD_BYTES);
        if full {
            shards.push((0, Vec::new()));
        }
        let (sum, list) = shards.last_mut().expect("there is one");
        *sum += n;
        list.push(job);
        report.bytes += n;
        report.n_parameter += job.target.shape.iter().product::<usize>() as u64;
    }
    let mut map = Map::new();
    let mut n_done = 0;
    for (s, (_, list)) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => "model.safetensors".to_owned(),
            n => format!("model-{:05}-of-{n:05}.safetensors", s + 1),
        };
        let all: Vec<Entry> = list.iter().flat_map(|job| entries(job)).collect();
        let mut writer = Writer::create(&folder.join(&name), &[("format", format)], &all)?;
        for job in list {
            progress(Progress { n_done, n_tensor: jobs.len(), name: &job.target.name });
            push(checkpoint, job, (&mut writer, n_thread), factors, report)?;
            n_done += 1;
        }
        writer.finish()?;
        map.extend(all.into_iter().map(|entry| (entry.name, name.clone().into())));
    }
    if shards.len() > 1 {
        let index = json!({"metadata": {"total_size": report.bytes}, "weight_map": map});
        let path = folder.join("model.safetensors.index.json");
        fs::write(&path, index.to_string()).map_err(|error| ToolError::File { path: path.clone(), error })?;
    }
    Ok(())
}

/// Writes a target's tensors.
fn push(
    checkpoint: &Checkpoint,
    job: &Job<'_>,
    (writer, n_thread): (&mut Writer, usize),
    factors: &mut Option<Factors<'_>>,
    report: &mut Report,
) -> Result<(), ToolError> {
    let mut rest: [Vec<u8>; 2] = Default::default();
    for m in 0..job.target.n_matrix().max(1) {
        let matrix = job.target.matrix(checkpoint, m)?;
        let quantized = matches!(job.encoding, Encoding::MlxAffine { .. } | Encoding::MlxFloat(_));
        let calibrated = match factors.as_mut().filter(|_| quantized && matrix.encoding != job.encoding) {
            Some(factors) => {
                let factor = factors.of(job.target, matrix.n_in)?;
                factor.map(|factor| factors.encode(&matrix, job.encoding, &factor)).transpose()?
            }
            None => None,
        };
        let (parts, change) = match calibrated {
            Some(parts) => {
                let mut parts = parts.into_iter();
                writer.push(&parts.next().unwrap_or_default())?;
                ([(); 2].map(|()| parts.next().unwrap_or_default()), Change::Calibrated)
            }
            None => encode(&matrix, job.encoding, n_thread, &mut |bytes| Ok(writer.push(bytes)?))?,
        };
        rest.iter_mut().zip(parts).for_each(|(rest, part)| rest.extend(part));
        job.target.release(checkpoint, m);
        if m == 0 {
            let own = if job.target.n_matrix() == 0 { job.encoding } else { matrix.encoding };
            report.count(&own.to_string(), &job.encoding.to_string(), change);
        }
    }
    for part in &rest {
        writer.push(part)?;
    }
    Ok(())
}

/// The matrix in an MLX format of its codes, if there is one; scales may be rounded to f16.
fn as_mlx(matrix: &MatrixData) -> Option<(MatrixData, Change)> {
    let packed = matrix.to_mlx(DType::F16)?;
    Some((packed, if matrix.rounds_in_mlx() { Change::Rounded } else { Change::Exact }))
}

/// Hands over the first part of the matrix in another encoding; the others come back.
fn encode(
    matrix: &MatrixData,
    to: Encoding,
    n_thread: usize,
    take: &mut Take<'_>,
) -> Result<([Vec<u8>; 2], Change), ToolError> {
    let same = (matrix.encoding == to).then(|| (matrix.clone(), Change::Exact));
    if let Some((packed, change)) = same.or_else(|| as_mlx(matrix).filter(|(m, _)| m.encoding == to)) {
        copy(&packed.parts[0], take)?;
        let part = |p: usize| packed.parts.get(p).map_or_else(Vec::new, |part| part.to_vec());
        return Ok(([part(1), part(2)], change));
    }
    let rest = encode::encode(matrix, to, n_thread, take)?;
    Ok((rest, if holds(to, matrix.encoding) { Change::Exact } else { Change::Rounded }))
}

/// Adds MLX's quantization block: the usual mode, and every module that has another.
fn describe(config: &mut Value, jobs: &[Job<'_>], scheme: Scheme) {
    let mode = |encoding: Encoding| match encoding {
        Encoding::MlxAffine { bits, group, .. } => Some(json!({"group_size": group, "bits": bits, "mode": "affine"})),
        Encoding::MlxFloat(kind) => {
            let name = format!("{kind:?}").to_lowercase();
            Some(json!({"group_size": kind.group(), "bits": kind.bits(), "mode": name}))
        }
        _ => None,
    };
    let usual = match scheme {
        Scheme::Mlx { encoding, .. } => Some(encoding),
        Scheme::MlxKeep => jobs.iter().map(|job| job.encoding).find(|encoding| mode(*encoding).is_some()),
        Scheme::Plain(_) => None,
    };
    let (Some(Value::Object(mut block)), Some(fields)) = (usual.and_then(mode), config.as_object_mut()) else { return };
    for job in jobs.iter().filter(|job| job.target.n_matrix() > 0 && Some(job.encoding) != usual) {
        if let Some(stem) = job.target.name.strip_suffix(".weight") {
            block.insert(stem.to_owned(), mode(job.encoding).unwrap_or(Value::Bool(false)));
        }
    }
    fields.insert("quantization".into(), block.clone().into());
    fields.insert("quantization_config".into(), block.into());
}
