//! Quantizes a GGUF file, as llama-quantize does and with its recipes.
//!
//! ```text
//! recipe   which type a recipe gives to a tensor          plan     that for every tensor, with the user's exceptions
//! encode   the tensors' bytes, by several threads, in order, a few megabytes at a time
//! ```

mod encode;
mod plan;
mod recipe;

use std::path::Path;

use mlxr_weights::Checkpoint;
use mlxr_weights::gguf::{Entry, Value, Writer};
use mlxr_weights::imatrix::Imatrix;

pub use plan::{Facts, Options, Planned, choose_types, is_quantized, plan};
pub use recipe::{RECIPES, Recipe};

use crate::ToolError;

/// Version of the block formats, `general.quantization_version`.
const FORMAT_VERSION: u32 = 2;

/// An importance matrix, and the file that it comes from.
pub type Source<'a> = (&'a Imatrix, &'a Path);

/// Writes `checkpoint` with the types of `planned` to `out`. `progress` hears of the tensors and bytes written.
///
/// # Errors
/// If importance is missing or does not fit, a weight cannot be encoded, or a file cannot be read or written. `out` is
/// as before then.
pub fn run(
    checkpoint: &Checkpoint,
    planned: &[Planned],
    recipe: &Recipe,
    (out, n_thread): (&Path, usize),
    imatrix: Option<Source<'_>>,
    progress: &mut dyn FnMut(&Planned, usize),
) -> Result<(), ToolError> {
    let importance = importance(planned, imatrix)?;
    let mut meta = checkpoint.meta().clone();
    meta.set("general.quantization_version", Value::U32(FORMAT_VERSION));
    if recipe.dtype.is_some() {
        meta.set("general.file_type", Value::U32(recipe.file_type));
    }
    for key in ["split.no", "split.count", "split.tensors.count"] {
        meta.remove(key);
    }
    if let Some((imatrix, path)) = imatrix {
        meta.set("quantize.imatrix.file", Value::Str(path.display().to_string()));
        if let Some(dataset) = imatrix.datasets.last() {
            meta.set("quantize.imatrix.dataset", Value::Str(dataset.clone()));
        }
        meta.set("quantize.imatrix.entries_count", Value::U32(imatrix.entries.len() as u32));
        meta.set("quantize.imatrix.chunks_count", Value::U32(imatrix.chunk_count));
    }
    let entries: Vec<Entry> =
        planned.iter().map(|t| Entry { name: t.name.clone(), dtype: t.to, shape: t.shape.clone() }).collect();
    let mut writer = Writer::create(out, &meta, &entries)?;
    encode::all(checkpoint, planned, &importance, n_thread, &mut |tensor, bytes| {
        writer.push(bytes)?;
        progress(tensor, bytes.len());
        Ok(())
    })?;
    Ok(writer.finish()?)
}

/// The importance of each tensor's columns, for each of its experts: as long as a row, times the experts.
fn importance(planned: &[Planned], imatrix: Option<Source<'_>>) -> Result<Vec<Option<Vec<f32>>>, ToolError> {
    let of = |tensor: &Planned| {
        let encoded = tensor.from != tensor.to;
        let found =
            imatrix.filter(|_| encoded).and_then(|(imatrix, path)| Some((imatrix.entries.get(&tensor.name)?, path)));
        let Some((sums, path)) = found else {
            if tensor.needs_importance {
                return Err(ToolError::NoImportance { tensor: tensor.name.clone(), dtype: tensor.to.name() });
            }
            return Ok(None);
        };
        let outer = &tensor.shape[..tensor.shape.len() - 2];
        let need = tensor.n_in() * outer.iter().product::<usize>();
        let means = sums.means();
        if means.len() != need {
            // The embeddings are looked up, not multiplied: an entry of theirs is the output matrix's.
            return if plan::is_embedding(&tensor.name) {
                Ok(None)
            } else {
                Err(ToolError::Importance {
                    path: path.to_owned(),
                    tensor: tensor.name.clone(),
                    found: means.len(),
                    expected: need,
                })
            };
        }
        Ok(Some(means))
    };
    planned.iter().map(of).collect()
}
