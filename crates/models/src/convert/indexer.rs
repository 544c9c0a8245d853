//! The indexer of a sparse attention, which chooses the tokens that a query attends to: its parameters and what a model's
//! configuration says of it. Inference here ends where it begins to choose ([`crate::positions::limited`]), so loading
//! needs none of this; other programs do.
//!
//! Source: arXiv:2512.02556 (DeepSeek-V3.2), section 2; modeling_deepseek_v32.py, modeling_glm_moe_dsa.py.

use mlxr_weights::gguf::{Array, Value};
use serde_json::{Map, Value as Json};

use super::metadata::Writer;
use super::recipe::Target;
use super::tensors::Maker;
use super::{Source, hybrid};
use crate::LoadError;
use crate::config;
use crate::names::Role;

const MATRICES: [Role; 3] = [Role::IndexQ, Role::IndexK, Role::IndexWeights];
/// Numbers that both forms have under their own names.
const COUNTS: [config::Key; 4] = [config::INDEX_HEADS, config::INDEX_D_HEAD, config::INDEX_TOP_K, config::INDEX_BLOCK];
/// What layers are called that choose for themselves, and those that take an earlier one's choice.
const FULL: [&str; 2] = ["shared", "full"];

/// Targets of a layer's indexer.
pub(super) fn targets(maker: &mut Maker<'_>, i: usize) -> Result<(), LoadError> {
    for role in MATRICES {
        maker.matrix(role, i)?;
    }
    maker.norm(Role::IndexKNorm, i)
}

/// Which layers have an indexer; nothing if none has.
fn layers(n_layer: usize, targets: &[Target]) -> Option<Vec<bool>> {
    Some(hybrid::layers(n_layer, targets, |t| t.role == Role::IndexK)).filter(|layers| layers.contains(&true))
}

/// The numbers, and how long a text the model was trained on: an indexer does not end that for others.
fn counts<'a>(source: &'a Source<'_>) -> impl Iterator<Item = (config::Key, usize)> + 'a {
    let keys = COUNTS.into_iter().chain([config::N_CTX]);
    keys.filter_map(|key| Some((key, source.config.count(key).ok()??)))
}

/// As GGUF metadata.
pub(super) fn metadata(writer: &mut Writer<'_>, source: &Source<'_>, targets: &[Target]) {
    let Some(layers) = layers(source.hyper.n_layer, targets) else { return };
    counts(source).for_each(|(key, n)| writer.count(key, n));
    if layers.contains(&false) {
        writer.set(config::INDEX_LAYERS, Value::Array(Array::Bool(layers)));
    }
}

/// As fields of `config.json`.
pub(super) fn json(fields: &mut Map<String, Json>, source: &Source<'_>, targets: &[Target]) {
    let Some(layers) = layers(source.hyper.n_layer, targets) else { return };
    for (key, n) in counts(source) {
        fields.extend(key.fields().map(|name| (name.to_owned(), n.into())));
    }
    if layers.contains(&false) {
        let kinds: Vec<&str> = layers.iter().map(|full| FULL[usize::from(*full)]).collect();
        fields.extend(config::INDEX_LAYERS.fields().map(|name| (name.to_owned(), kinds.clone().into())));
    }
}
