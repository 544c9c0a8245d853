//! Quantizes a GGUF file, as llama-quantize does and with its recipes.
//!
//! ```text
//! recipe   which type a recipe gives to a tensor          plan     that for every tensor, with the user's exceptions
//! edit     metadata that is set, layers that are left out
//! encode   the tensors' bytes, by several threads, in order, a few megabytes at a time
//! ```

mod edit;
mod encode;
mod plan;
mod recipe;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mlxr_compute::quant::compensate::Factor;
use mlxr_compute::recorder::Recording;
use mlxr_weights::Checkpoint;
use mlxr_weights::gguf::{self, Metadata, Value, Writer, shard_path};
use mlxr_weights::imatrix::Imatrix;

pub use edit::{Edits, Source, SourceTensor};
pub use plan::{Facts, Options, Planned, choose_types, is_quantized, plan};
pub use recipe::{RECIPES, Recipe};

use crate::ToolError;

/// Version of the block formats, `general.quantization_version`.
const FORMAT_VERSION: u32 = 2;

/// What is known of the inputs of a model's matrices.
#[derive(Debug, Clone, Copy, Default)]
pub struct Inputs<'a> {
    /// An importance matrix, and the file that it comes from.
    pub imatrix: Option<(&'a Imatrix, &'a Path)>,
    /// Products of inputs, with which later columns make up for the rounding of earlier ones (GPTQ).
    pub products: Option<&'a Recording>,
}

/// What guides the encoding of one tensor.
#[derive(Debug, Default)]
struct Guide {
    /// A weight for each column, of each expert.
    importance: Option<Vec<f32>>,
    factor: Option<Arc<Factor>>,
}

/// What to write.
#[derive(Debug, Clone, Copy)]
pub struct Output<'a> {
    /// The file; the name of a set's files begins like it.
    pub path: &'a Path,
    /// Whether a split set becomes one again, file by file.
    pub keep_split: bool,
    /// Threads that encode.
    pub n_thread: usize,
}

/// Writes the tensors of `checkpoint` with the types of `planned`, and `meta` with what tells of them. `progress` hears of
/// the tensors and bytes written.
///
/// # Errors
/// If importance is missing or does not fit, a weight cannot be encoded, or a file cannot be read or written. What was at
/// the output's path is as before then.
pub fn run(
    checkpoint: &Checkpoint,
    (meta, planned): (&Metadata, &[Planned]),
    recipe: &Recipe,
    output: Output<'_>,
    inputs: Inputs<'_>,
    progress: &mut dyn FnMut(&Planned, usize),
) -> Result<(), ToolError> {
    let guides = guides(planned, inputs)?;
    let meta = described(meta, recipe, inputs);
    let mut files: Vec<usize> = planned.iter().filter(|_| output.keep_split).map(|tensor| tensor.file).collect();
    files.sort_unstable();
    files.dedup();
    let mut writers = Vec::new();
    for no in 0..files.len().max(1) {
        let own = |t: &&Planned| files.len() < 2 || t.file == files[no];
        let entry = |t: &Planned| gguf::Entry { name: t.name.clone(), dtype: t.to, shape: t.shape.clone() };
        let entries: Vec<gguf::Entry> = planned.iter().filter(own).map(entry).collect();
        let (path, meta) = shard(output.path, &meta, no, (files.len(), planned.len()));
        writers.push(Writer::create(&path, &meta, &entries)?);
    }
    encode::all(checkpoint, planned, &guides, output.n_thread, &mut |tensor, bytes| {
        let no = files.binary_search(&tensor.file).unwrap_or(0);
        writers[no].push(bytes)?;
        progress(tensor, bytes.len());
        Ok(())
    })?;
    Ok(writers.into_iter().try_for_each(Writer::finish)?)
}

/// The metadata of the result.
fn described(meta: &Metadata, recipe: &Recipe, inputs: Inputs<'_>) -> Metadata {
    let mut meta = meta.clone();
    meta.set("general.quantization_version", Value::U32(FORMAT_VERSION));
    if recipe.dtype.is_some() {
        meta.set("general.file_type", Value::U32(recipe.file_type));
    }
    for key in [SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS] {
        meta.remove(key);
    }
    if let Some((imatrix, path)) = inputs.imatrix {
        meta.set("quantize.imatrix.file", Value::Str(path.display().to_string()));
        if let Some(dataset) = imatrix.datasets.last() {
            meta.set("quantize.imatrix.dataset", Value::Str(dataset.clone()));
        }
        meta.set("quantize.imatrix.entries_count", Value::U32(imatrix.entries.len() as u32));
        meta.set("quantize.imatrix.chunks_count", Value::U32(imatrix.chunk_count));
    }
    meta
}

const SPLIT_NO: &str = "split.no";
const SPLIT_COUNT: &str = "split.count";
const SPLIT_TENSORS: &str = "split.tensors.count";

/// Path and metadata of file `no` of a set; the first has all of the metadata. One file alone is no set.
fn shard(path: &Path, meta: &Metadata, no: usize, (n_file, n_tensor): (usize, usize)) -> (PathBuf, Metadata) {
    if n_file < 2 {
        return (path.to_owned(), meta.clone());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let prefix = name.strip_suffix(".gguf").unwrap_or(&name);
    let path = shard_path(path.parent().unwrap_or(Path::new("")), prefix, no, n_file);
    let mut meta = if no == 0 { meta.clone() } else { Metadata::new(&path) };
    meta.set(SPLIT_NO, Value::U16(no as u16));
    meta.set(SPLIT_COUNT, Value::U16(n_file as u16));
    meta.set(SPLIT_TENSORS, Value::I32(n_tensor as i32));
    (path, meta)
}

/// Importance and factor of each tensor.
fn guides(planned: &[Planned], inputs: Inputs<'_>) -> Result<Vec<Guide>, ToolError> {
    // Matrices that share their input share its factor. The products stay, so that an address means one of them only.
    let (mut factors, mut kept) = (BTreeMap::new(), Vec::new());
    let mut guides = Vec::with_capacity(planned.len());
    for tensor in planned {
        let mut guide = Guide { importance: importance(tensor, inputs)?, factor: None };
        let compensated = tensor.from != tensor.to && tensor.to.block() > 1 && tensor.shape.len() == 2;
        let products = inputs.products.filter(|_| compensated).and_then(|recording| recording.products(&tensor.source));
        if let Some(products) = products.filter(|products| products.len() == tensor.n_in() * tensor.n_in()) {
            let key = Arc::as_ptr(&products);
            if let Entry::Vacant(place) = factors.entry(key) {
                let factor = Factor::new(tensor.n_in(), &products);
                let factor = factor.map_err(|error| ToolError::Encode { tensor: tensor.name.clone(), error })?;
                place.insert(Arc::new(factor));
                kept.push(products);
            }
            guide.factor = factors.get(&key).cloned();
        }
        guides.push(guide);
    }
    Ok(guides)
}

/// The importance of a tensor's columns, for each of its experts: as long as a row, times the experts.
fn importance(tensor: &Planned, inputs: Inputs<'_>) -> Result<Option<Vec<f32>>, ToolError> {
    let found = inputs.imatrix.filter(|_| tensor.from != tensor.to);
    let Some((sums, path)) = found.and_then(|(imatrix, path)| Some((imatrix.entries.get(&tensor.source)?, path)))
    else {
        if tensor.needs_importance {
            return Err(ToolError::NoImportance { tensor: tensor.name.clone(), dtype: tensor.to.name() });
        }
        return Ok(None);
    };
    let outer = &tensor.shape[..tensor.shape.len() - 2];
    let expected = tensor.n_in() * outer.iter().product::<usize>();
    let means = sums.means();
    if means.len() == expected {
        return Ok(Some(means));
    }
    // The embeddings are looked up, not multiplied: an entry of theirs is the output matrix's.
    if plan::is_embedding(&tensor.name) {
        return Ok(None);
    }
    let (path, tensor) = (path.to_owned(), tensor.name.clone());
    Err(ToolError::Importance { path, tensor, found: means.len(), expected })
}
