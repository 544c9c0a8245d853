//! Changes to a model besides its types: metadata that is set, layers that are left out.
//!
//! What is left out of the tensors is left out of lists with a value for each layer, too; layers after it move up.

use std::collections::BTreeSet;

use mlxr_compute::DType;
use mlxr_weights::Checkpoint;
use mlxr_weights::gguf::{Metadata, Value};

use crate::ToolError;

/// What is changed.
#[derive(Debug, Default)]
pub struct Edits {
    /// Metadata to set, after all else.
    pub set: Vec<(String, Value)>,
    /// Layers to leave out.
    pub prune: BTreeSet<usize>,
}

/// A model as it is to be written, before types are chosen.
#[derive(Debug)]
pub struct Source {
    /// Its metadata.
    pub meta: Metadata,
    /// Its tensors, in the order of the file.
    pub tensors: Vec<SourceTensor>,
}

/// A tensor of a [`Source`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTensor {
    /// Name in the result.
    pub name: String,
    /// Name in the checkpoint.
    pub source: String,
    /// Which of the checkpoint's files has it.
    pub file: usize,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Its type.
    pub dtype: DType,
}

impl Source {
    /// A GGUF file's metadata and tensors, changed.
    ///
    /// # Errors
    /// If a layer to leave out is none of the model's or all are, or the metadata lacks the number of layers then.
    pub fn new(checkpoint: &Checkpoint, edits: &Edits) -> Result<Source, ToolError> {
        let mut meta = checkpoint.meta().clone();
        prune(&mut meta, &edits.prune)?;
        for (key, value) in &edits.set {
            meta.set(key, value.clone());
        }
        let renamed = |name: &str| -> Option<String> {
            let Some((layer, rest)) = layer_and_rest(name) else { return Some(name.to_owned()) };
            let before = edits.prune.range(..layer).count();
            (!edits.prune.contains(&layer)).then(|| format!("{LAYER}{}{rest}", layer - before))
        };
        let tensor = |t: &mlxr_weights::TensorInfo| {
            let (name, source) = (renamed(&t.name)?, t.name.clone());
            Some(SourceTensor { name, source, file: t.file, shape: t.shape.clone(), dtype: t.dtype })
        };
        Ok(Source { meta, tensors: checkpoint.tensors().iter().filter_map(tensor).collect() })
    }
}

/// How names of a layer's tensors begin.
const LAYER: &str = "blk.";

/// The layer in `blk.N.`, and what follows the number.
pub(super) fn layer_and_rest(name: &str) -> Option<(usize, &str)> {
    let (digits, _) = name.strip_prefix(LAYER)?.split_once('.')?;
    Some((digits.parse().ok()?, &name[LAYER.len() + digits.len()..]))
}

/// Takes layers out of the metadata: their number, and lists with a value for each.
fn prune(meta: &mut Metadata, layers: &BTreeSet<usize>) -> Result<(), ToolError> {
    let Some(last) = layers.last() else { return Ok(()) };
    let arch: &str = meta.need("general.architecture")?;
    let count = format!("{arch}.block_count");
    let n_layer: u32 = meta.need(&count)?;
    let (prefix, n) = (format!("{arch}."), n_layer as usize);
    if *last >= n || layers.len() == n {
        return Err(ToolError::Prune { layer: *last, n_layer: n });
    }
    let of_layers: Vec<(String, Value)> = meta
        .iter()
        .filter(|(key, _)| key.starts_with(&prefix))
        .filter_map(|(key, value)| {
            let Value::Array(array) = value else { return None };
            let kept = || Value::Array(array.select(|i| !layers.contains(&i)));
            (array.len() == n).then(|| (key.to_owned(), kept()))
        })
        .collect();
    for (key, value) in of_layers {
        meta.set(&key, value);
    }
    meta.set(&count, Value::U32(n_layer - layers.len() as u32));
    Ok(())
}
