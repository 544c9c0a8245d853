//! Names of tensors: one row of a table for each role, in GGUF and in Hugging Face files.

use std::cell::RefCell;
use std::collections::HashSet;

use mlxr_weights::{Checkpoint, Kind};

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
    QA,
    QANorm,
    QB,
    KvA,
    KvANorm,
    KvB,
    KB,
    VB,
    SsmIn,
    SsmConv,
    SsmX,
    SsmDt,
    SsmA,
    SsmD,
    SsmNorm,
    SsmOut,
}

/// One role: its stem in GGUF (below `blk.N.` for roles of a layer) and its stems in Hugging Face files, below one of
/// [`LAYERS`] or [`ROOTS`]. `{e}` stands for the number of an expert.
struct NameRow {
    role: Role,
    layer: bool,
    gguf: &'static str,
    hf: &'static [&'static str],
}

const fn root(role: Role, gguf: &'static str, hf: &'static [&'static str]) -> NameRow {
    NameRow { role, layer: false, gguf, hf }
}

const fn layer(role: Role, gguf: &'static str, hf: &'static [&'static str]) -> NameRow {
    NameRow { role, layer: true, gguf, hf }
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

const NAMES: &[NameRow] = &[
    root(
        Role::Embed,
        "token_embd",
        &["embed_tokens", "wte", "embed_in", "word_embeddings", "embeddings", "embedding", "tok_embeddings"],
    ),
    root(Role::PosEmbed, "position_embd", &["wpe"]),
    root(Role::EmbedNorm, "token_embd_norm", &["word_embeddings_layernorm"]),
    root(Role::OutputNorm, "output_norm", &["norm", "ln_f", "final_layer_norm", "norm_f", "final_layernorm"]),
    root(Role::Output, "output", &["lm_head", "embed_out", "output"]),
    root(Role::RopeFreqs, "rope_freqs", &[]),
    root(Role::RopeLong, "rope_factors_long", &[]),
    root(Role::RopeShort, "rope_factors_short", &[]),
    layer(Role::AttnNorm, "attn_norm", &["input_layernorm", "ln_1", "ln_attn", "attention_norm", "norm", "input_norm"]),
    layer(Role::AttnNorm2, "attn_norm_2", &[]),
    layer(
        Role::AttnQkv,
        "attn_qkv",
        &[
            "self_attn.qkv_proj",
            "attn.c_attn",
            "attention.query_key_value",
            "self_attention.query_key_value",
            "attention.wqkv",
        ],
    ),
    layer(Role::AttnQ, "attn_q", &["self_attn.q_proj", "attn.q_proj", "attention.wq", "attn.attention.q_proj"]),
    layer(Role::AttnK, "attn_k", &["self_attn.k_proj", "attn.k_proj", "attention.wk", "attn.attention.k_proj"]),
    layer(Role::AttnV, "attn_v", &["self_attn.v_proj", "attn.v_proj", "attention.wv", "attn.attention.v_proj"]),
    layer(
        Role::AttnOut,
        "attn_output",
        &[
            "self_attn.o_proj",
            "self_attn.dense",
            "attn.c_proj",
            "attention.dense",
            "self_attention.dense",
            "attention.wo",
            "self_attn.out_proj",
            "attn.attention.out_proj",
        ],
    ),
    layer(
        Role::QNorm,
        "attn_q_norm",
        &["self_attn.q_norm", "self_attn.q_layernorm", "self_attn.query_layernorm", "self_attn.q_layernorm.norms.{e}"],
    ),
    layer(
        Role::KNorm,
        "attn_k_norm",
        &["self_attn.k_norm", "self_attn.k_layernorm", "self_attn.key_layernorm", "self_attn.k_layernorm.norms.{e}"],
    ),
    layer(Role::Sinks, "attn_sinks", &["self_attn.sinks"]),
    layer(Role::AttnSubNorm, "attn_sub_norm", &["self_attn.attn_sub_norm"]),
    layer(Role::PostAttnNorm, "post_attention_norm", &["post_self_attn_layernorm", "post_attention_layernorm"]),
    layer(
        Role::FfnNorm,
        "ffn_norm",
        &["pre_feedforward_layernorm", "post_attention_layernorm", "ln_2", "ln_mlp", "ffn_norm"],
    ),
    layer(Role::FfnGate, "ffn_gate", &["mlp.gate_proj", "feed_forward.w1", "mlp.c_fc_0", "feed_forward.gate_proj"]),
    layer(
        Role::FfnUp,
        "ffn_up",
        &[
            "mlp.up_proj",
            "mlp.fc1",
            "mlp.c_fc",
            "mlp.dense_h_to_4h",
            "feed_forward.w3",
            "mlp.c_fc_1",
            "feed_forward.up_proj",
        ],
    ),
    layer(Role::FfnGateUp, "", &["mlp.gate_up_proj", "shared_mlp.input_linear"]),
    layer(
        Role::FfnDown,
        "ffn_down",
        &["mlp.down_proj", "mlp.fc2", "mlp.c_proj", "mlp.dense_4h_to_h", "feed_forward.w2", "feed_forward.down_proj"],
    ),
    layer(Role::FfnSubNorm, "ffn_sub_norm", &["mlp.ffn_sub_norm"]),
    layer(Role::PostFfnNorm, "post_ffw_norm", &["post_feedforward_layernorm", "post_mlp_layernorm"]),
    layer(
        Role::Router,
        "ffn_gate_inp",
        &[
            "mlp.gate",
            "block_sparse_moe.gate",
            "mlp.router",
            "block_sparse_moe.router.layer",
            "feed_forward.router",
            "mlp.gate.wg",
        ],
    ),
    layer(
        Role::SelectBias,
        "exp_probs_b",
        &["mlp.gate.e_score_correction_bias", "mlp.moe_statics.e_score_correction_bias"],
    ),
    layer(
        Role::ExpGate,
        "ffn_gate_exps",
        &[
            "mlp.switch_mlp.gate_proj",
            "block_sparse_moe.switch_mlp.gate_proj",
            "mlp.experts.gate_proj",
            "mlp.experts.{e}.gate_proj",
            "block_sparse_moe.experts.{e}.w1",
        ],
    ),
    layer(
        Role::ExpUp,
        "ffn_up_exps",
        &[
            "mlp.switch_mlp.up_proj",
            "block_sparse_moe.switch_mlp.up_proj",
            "mlp.experts.up_proj",
            "mlp.experts.{e}.up_proj",
            "block_sparse_moe.experts.{e}.w3",
        ],
    ),
    layer(
        Role::ExpGateUp,
        "ffn_gate_up_exps",
        &["mlp.experts.gate_up_proj", "block_sparse_moe.input_linear", "feed_forward.experts.gate_up_proj"],
    ),
    layer(
        Role::ExpDown,
        "ffn_down_exps",
        &[
            "mlp.switch_mlp.down_proj",
            "block_sparse_moe.switch_mlp.down_proj",
            "mlp.experts.down_proj",
            "mlp.experts.{e}.down_proj",
            "block_sparse_moe.experts.{e}.w2",
            "block_sparse_moe.output_linear",
            "feed_forward.experts.down_proj",
        ],
    ),
    layer(
        Role::ShGate,
        "ffn_gate_shexp",
        &[
            "mlp.shared_expert.gate_proj",
            "mlp.shared_experts.gate_proj",
            "mlp.shared_mlp.gate_proj",
            "feed_forward.shared_expert.gate_proj",
        ],
    ),
    layer(
        Role::ShUp,
        "ffn_up_shexp",
        &[
            "mlp.shared_expert.up_proj",
            "mlp.shared_experts.up_proj",
            "mlp.shared_mlp.up_proj",
            "feed_forward.shared_expert.up_proj",
        ],
    ),
    layer(
        Role::ShDown,
        "ffn_down_shexp",
        &[
            "mlp.shared_expert.down_proj",
            "mlp.shared_experts.down_proj",
            "mlp.shared_mlp.down_proj",
            "feed_forward.shared_expert.down_proj",
            "shared_mlp.output_linear",
        ],
    ),
    layer(Role::ShRouter, "ffn_gate_inp_shexp", &["mlp.shared_expert_gate"]),
    layer(Role::QA, "attn_q_a", &["self_attn.q_a_proj"]),
    layer(Role::QANorm, "attn_q_a_norm", &["self_attn.q_a_layernorm"]),
    layer(Role::QB, "attn_q_b", &["self_attn.q_b_proj"]),
    layer(Role::KvA, "attn_kv_a_mqa", &["self_attn.kv_a_proj_with_mqa"]),
    layer(Role::KvANorm, "attn_kv_a_norm", &["self_attn.kv_a_layernorm"]),
    layer(Role::KvB, "attn_kv_b", &["self_attn.kv_b_proj"]),
    layer(Role::KB, "attn_k_b", &["self_attn.embed_q"]),
    layer(Role::VB, "attn_v_b", &["self_attn.unembed_out"]),
    layer(Role::SsmIn, "ssm_in", &["mixer.in_proj"]),
    layer(Role::SsmConv, "ssm_conv1d", &["mixer.conv1d"]),
    layer(Role::SsmX, "ssm_x", &["mixer.x_proj"]),
    layer(Role::SsmDt, "ssm_dt", &["mixer.dt_proj", "mixer.dt"]),
    layer(Role::SsmA, "ssm_a", &["mixer.A_log"]),
    layer(Role::SsmD, "ssm_d", &["mixer.D"]),
    layer(Role::SsmNorm, "ssm_norm", &["mixer.norm"]),
    layer(Role::SsmOut, "ssm_out", &["mixer.out_proj"]),
];

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
        Names { stems, used: RefCell::default(), gguf, root, layers, renames: Vec::new() }
    }

    /// The stem of a role that the checkpoint has, or `None`. A stem with `{e}` stands for one of each expert.
    pub fn find(&self, role: Role, i: usize) -> Option<String> {
        let stem = self.candidates(role, i).into_iter().find(|stem| self.has(&stem.replace("{e}", "0")))?;
        self.used.borrow_mut().insert(stem.clone());
        Some(stem)
    }

    /// Tensors of layers that no role has asked for.
    pub fn unused(&self, checkpoint: &Checkpoint) -> Vec<String> {
        let used = self.used.borrow();
        let experts: Vec<&str> = used.iter().filter_map(|s| s.split_once("{e}").map(|(head, _)| head)).collect();
        let known = |name: &str| {
            let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
            let bias = name.strip_suffix("_bias").unwrap_or(name);
            [stem, name, bias].iter().any(|s| used.contains(*s)) || experts.iter().any(|e| name.starts_with(e))
        };
        let layers = if self.gguf { "blk." } else { &self.layers };
        checkpoint.names().filter(|n| n.starts_with(layers) && !known(n)).map(str::to_owned).collect()
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
            (true, _) if row.gguf.is_empty() => Vec::new(),
            (true, true) => vec![format!("blk.{i}.{}", row.gguf)],
            (true, false) => vec![row.gguf.to_owned()],
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
    fn every_role_has_one_row() {
        // The enum has no list of its own: its last variant's number is the count.
        assert_eq!(NAMES.len(), Role::SsmOut as usize + 1);
        for (i, row) in NAMES.iter().enumerate() {
            assert_eq!(row.role as usize, i, "{:?}", row.role);
        }
    }
}
