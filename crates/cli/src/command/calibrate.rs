//! What `quant` and `convert` know of a model's activations: a text is run through it first.

use std::path::{Path, PathBuf};

use mlxr_compute::recorder::{Record, Recording};
use mlxr_weights::Checkpoint;
use mlxr_weights::imatrix::Imatrix;

use super::{imatrix, size_text};
use crate::CliError;
use crate::args::{BackendName, FolderArgs, ImatrixArgs, LoadArgs};

/// Most memory for the products of inputs.
const LIMIT_BYTES: usize = 8 << 30;

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Text<'a> {
    /// The text.
    pub file: &'a Path,
    /// Most chunks of it.
    pub chunks: usize,
    /// Threads, unless all.
    pub threads: Option<usize>,
}

/// Runs a text through the model, given as the command line names it, and records the products of the inputs of its
/// matrices, which have so many `columns`.
///
/// # Errors
/// If products would take too much memory, the model does not load, or the text cannot be read.
pub fn record(
    checkpoint: &Checkpoint,
    (model, folder): (&str, &FolderArgs),
    text: Text<'_>,
    columns: impl Iterator<Item = usize>,
) -> Result<(Imatrix, Recording), CliError> {
    // Sums and their factors; matrices that share their input share them, so this is more than it will be.
    let need: usize = columns.map(|n| 2 * 4 * n * n).sum();
    if need > LIMIT_BYTES {
        let (need, limit) = (size_text(need as u64), size_text(LIMIT_BYTES as u64));
        let text = format!("--calibrate needs up to {need} for the products of inputs, and the limit is {limit}");
        return Err(CliError::Usage(text));
    }
    let load = LoadArgs {
        step_tokens: None,
        backend: BackendName::Cpu,
        threads: text.threads,
        isa: None,
        kv_type: None,
        ctx: None,
        kv_memory: None,
        kv_tokens: None,
        draft: None,
        draft_max: 0,
        draft_trees: false,
    };
    let args = ImatrixArgs {
        model: model.to_owned(),
        file: text.file.to_owned(),
        out: PathBuf::new(),
        chunks: Some(text.chunks),
        process_output: false,
        parse_special: false,
        load,
        folder: folder.clone(),
    };
    imatrix::record(checkpoint, &args, Record::Products)
}
