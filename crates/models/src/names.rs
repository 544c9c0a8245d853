//! Names of tensors: one row of a table for each role, in GGUF and in Hugging Face files.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::Range;

use mlxr_weights::{Checkpoint, Kind};

use crate::names_table::NAMES;

/// What a tensor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the field's own names; one row each in `NAMES`
pub enum Role {
    Embed,
    PosEmbed,
    EmbedNorm,
    OutputNorm,
    Output,
    RopeFreqs,
    RopeLong,
    RopeShort,
    AttnNorm,
    AttnNorm2,
    AttnQkv,
    AttnQ,
    AttnK,
    AttnV,
    AttnOut,
    AttnGate,
    QNorm,
    KNorm,
    Sinks,
    AttnSubNorm,
    PostAttnNorm,
    FfnNorm,
    FfnGate,
    FfnUp,
    FfnGateUp,
    FfnDown,
    FfnSubNorm,
    FfnActScale,
    PostFfnNorm,
    Router,
    SelectBias,
    ExpGate,
    ExpUp,
    ExpGateUp,
    ExpDown,
    ShGate,
    ShUp,
    ShDown,
    ShRouter,
    LatentDown,
    LatentUp,
    QA,
    QANorm,
    QB,
    KvA,
    KvANorm,
    KvB,
    KB,
    VB,
    IndexQ,
    IndexK,
    IndexKNorm,
    IndexWeights,
    SsmIn,
    SsmConv,
    SsmX,
    SsmDt,
    SsmDtBias,
    SsmA,
    SsmD,
    SsmNorm,
    SsmOut,
    SsmDtNorm,
    SsmBNorm,
    SsmCNorm,
    DeltaConvQ,
    DeltaConvK,
    DeltaConvV,
    DeltaDecayA,
    DeltaDecayB,
    DeltaGateA,
    DeltaGateB,
    DeltaAlpha,
    DeltaBeta,
    DeltaBetaAlpha,
    DeltaQkv,
    DeltaGate,
    ShortConv,
    ShortConvIn,
    ShortConvOut,
    NextEmbed,
    NextEmbedNorm,
    NextHiddenNorm,
    NextProject,
    NextNorm,
    NextOutput,
    HeadProject,
    HeadHiddenNorm,
}

/// Where Hugging Face files keep what belongs to no layer.
const ROOTS: &[&str] = &[
    "model.",
    "",
    "transformer.",
    "gpt_neox.",
    "backbone.",
    "language_model.model.",
    "model.language_model.",
    "language_model.",
];

/// Where Hugging Face files keep layers, below a root.
const LAYERS: &[&str] = &["layers.", "h.", "blocks.", "encoder.layers."];

/// Where a checkpoint of EAGLE 3 keeps its only layer.
const ONE_LAYER: &str = "midlayer.";

/// Parts of names of tensors that change nothing: buffers that a model computes, scales of quantized activations and
/// caches.
const HARMLESS: &[&str] = &[
    ".input_scale",
    "_input_scale",
    ".rotary_emb.",
    ".attn_rot_embd",
    ".attn.bias",
    ".attn.masked_bias",
    ".attention.bias",
    ".attention.masked_bias",
    ".attn.attention.bias",
    ".attn.attention.masked_bias",
    ".k_scale",
    ".v_scale",
];

/// What names of parts of a parameter add to its stem without a dot.
const PARTS: &[&str] = &["_bias", "_blocks", "_scales", "_scale", "_scale_inv", "_packed", "_global_scale"];

/// Whether a tensor is a part of one that was used: `STEM.weight`, `STEM.weight.absmax`, `STEM_blocks`.
fn covered(used: &HashSet<String>, name: &str) -> bool {
    let dots = name.char_indices().filter(|(_, c)| *c == '.').map(|(i, _)| &name[..i]);
    let parts = PARTS.iter().filter_map(|part| name.strip_suffix(part));
    std::iter::once(name).chain(dots).chain(parts).any(|stem| used.contains(stem))
}

/// The names of one checkpoint.
pub struct Names {
    stems: HashSet<String>,
    /// Stems that a role was found under.
    used: RefCell<HashSet<String>>,
    gguf: bool,
    root: &'static str,
    layers: String,
    /// Roles that have another stem in this checkpoint's architecture.
    pub(crate) renames: Vec<(Role, Role)>,
    /// Roles that this checkpoint's architecture does not use.
    pub(crate) absent: &'static [Role],
}

impl Names {
    /// Finds out where the checkpoint keeps its layers.
    pub fn new(checkpoint: &Checkpoint) -> Names {
        let gguf = checkpoint.kind == Kind::Gguf;
        let mut stems = HashSet::new();
        for name in checkpoint.names() {
            if let Some((stem, _)) = name.rsplit_once('.') {
                stems.insert(stem.to_owned());
            }
            stems.insert(name.to_owned());
        }
        let (mut root, mut layers) = (ROOTS[0], format!("{}{}", ROOTS[0], LAYERS[0]));
        for (r, l) in ROOTS.iter().flat_map(|r| LAYERS.iter().map(move |l| (*r, *l))) {
            let first = format!("{r}{l}0.");
            if stems.iter().any(|s| s.starts_with(&first)) {
                (root, layers) = (r, format!("{r}{l}"));
                break;
            }
        }
        if stems.iter().any(|stem| stem.starts_with(ONE_LAYER)) {
            (root, layers) = ("", ONE_LAYER.to_owned());
        }
        Names { stems, used: RefCell::default(), gguf, root, layers, renames: Vec::new(), absent: &[] }
    }

    /// The stem of a role that the checkpoint has, or `None`. A stem with `{e}` stands for one of each expert.
    pub fn find(&self, role: Role, i: usize) -> Option<String> {
        let stem = self.candidates(role, i).into_iter().find(|stem| self.has(&stem.replace("{e}", "0")))?;
        self.used.borrow_mut().insert(stem.clone());
        (!self.absent.contains(&role)).then_some(stem)
    }

    /// Where a folder keeps its layers.
    pub(crate) fn layers(&self) -> Option<&str> {
        (!self.gguf).then_some(self.layers.as_str())
    }

    /// Counts a tensor as asked for.
    pub(crate) fn mark(&self, name: &str) {
        self.used.borrow_mut().insert(name.to_owned());
    }

    /// Tensors of these layers that no role has asked for and that may change what a layer computes.
    pub fn unused(&self, checkpoint: &Checkpoint, of: Range<usize>, harmless: &[&str]) -> Vec<String> {
        let layers = if self.gguf { "blk." } else { &self.layers };
        let of_layer = |name: &String| {
            let rest = name.strip_prefix(layers);
            let number = |rest: &str| match layers == ONE_LAYER {
                true => Some(0),
                false => rest.split('.').next()?.parse::<usize>().ok(),
            };
            rest.and_then(number).is_some_and(|i| of.contains(&i))
        };
        self.left(checkpoint, harmless).filter(of_layer).collect()
    }

    /// All tensors that no role has asked for and that may mean something.
    pub fn left(&self, checkpoint: &Checkpoint, harmless: &[&str]) -> impl Iterator<Item = String> {
        let used = self.used.borrow();
        let experts: Vec<&str> = used.iter().filter_map(|s| s.split_once("{e}").map(|(head, _)| head)).collect();
        let known = |name: &str| covered(&used, name) || experts.iter().any(|e| name.starts_with(e));
        let harmless = |name: &str| HARMLESS.iter().chain(harmless).any(|part| name.contains(part));
        let left: Vec<String> = checkpoint.names().filter(|n| !known(n) && !harmless(n)).map(str::to_owned).collect();
        left.into_iter()
    }

    /// Whether there is a tensor of this name or stem.
    pub fn has(&self, stem: &str) -> bool {
        self.stems.contains(stem)
    }

    /// Every stem that a role may have.
    pub fn candidates(&self, role: Role, i: usize) -> Vec<String> {
        let role = self.renames.iter().find(|(from, _)| *from == role).map_or(role, |(_, to)| *to);
        let row = NAMES.iter().find(|row| row.role == role).expect("every role has a row, as a test checks");
        match (self.gguf, row.layer) {
            (true, true) => row.gguf.iter().map(|stem| format!("blk.{i}.{stem}")).collect(),
            (true, false) => row.gguf.iter().map(|stem| (*stem).to_owned()).collect(),
            (false, true) if self.layers == ONE_LAYER => {
                row.hf.iter().map(|stem| format!("{ONE_LAYER}{stem}")).collect()
            }
            (false, true) => row.hf.iter().map(|stem| format!("{}{i}.{stem}", self.layers)).collect(),
            (false, false) => {
                let roots = [self.root, "", "language_model."];
                roots.iter().flat_map(|root| row.hf.iter().map(move |stem| format!("{root}{stem}"))).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_used_tensor_are_used() {
        let used = ["m.layers.0.q_proj", "m.layers.0.mlp.experts.gate_up_proj", "blk.0.attn_norm", "m.layers.0.A_log"];
        let used = used.map(str::to_owned).into();
        for (name, expect) in [
            ("m.layers.0.q_proj.weight", true),
            ("m.layers.0.q_proj.qweight", true),
            ("m.layers.0.q_proj.weight.quant_state.bitsandbytes__nf4", true),
            ("m.layers.0.mlp.experts.gate_up_proj_blocks", true),
            ("m.layers.0.mlp.experts.gate_up_proj_scales", true),
            ("m.layers.0.A_log", true),
            ("m.layers.0.q_proj_2.weight", false),
            ("m.layers.0.q_norm.weight", false),
            ("blk.0.attn_norm_2.weight", false),
        ] {
            assert_eq!(covered(&used, name), expect, "{name}");
        }
    }

    #[test]
    fn every_role_has_one_row() {
        // The enum has no list of its own: its last variant's number is the count.
        assert_eq!(NAMES.len(), Role::HeadHiddenNorm as usize + 1);
        for (i, row) in NAMES.iter().enumerate() {
            assert_eq!(row.role as usize, i, "{:?}", row.role);
        }
    }
}
