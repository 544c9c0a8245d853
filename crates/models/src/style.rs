//! How families of Hugging Face files name their tensors: which of a role's stems in [`crate::names`], and where.

use crate::names::Role;
use crate::names_table::stems;

/// How a family of Hugging Face files names its tensors: where, and which of a role's stems: the first that is listed
/// here. A role none of whose stems is listed has its own first; fused projections only where they are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    root: &'static str,
    layers: &'static str,
    stems: &'static [&'static str],
    /// What goes before them in MLX folders, where mlx-lm renames: in models without and with experts.
    mlx: [&'static [&'static str]; 2],
}

/// The style of LLaMA's descendants, from which others inherit.
pub const LLAMA: Style =
    Style { root: "model.", layers: "layers.", stems: &["post_attention_layernorm"], mlx: [&[], &[]] };
/// Mixtral, PhiMoE.
pub const MIXTRAL: Style = Style {
    stems: &[
        "post_attention_layernorm",
        "block_sparse_moe.gate",
        "block_sparse_moe.experts.{e}.w1",
        "block_sparse_moe.experts.{e}.w2",
        "block_sparse_moe.experts.{e}.w3",
        "block_sparse_moe.switch_mlp.gate_proj",
        "block_sparse_moe.switch_mlp.up_proj",
        "block_sparse_moe.switch_mlp.down_proj",
    ],
    ..LLAMA
};
/// Gemma 2 and 3: a norm before and after each block.
pub const GEMMA2: Style = Style { stems: &["pre_feedforward_layernorm", "post_attention_layernorm"], ..LLAMA };
/// OLMo 2, EXAONE 4: a norm after each block.
pub const POST: Style = Style { stems: &["post_attention_layernorm", "post_feedforward_layernorm"], ..LLAMA };
/// Phi 3, GLM, GLM 4: fused projections where the file has them.
pub const PHI3: Style =
    Style { stems: &["post_attention_layernorm", "self_attn.qkv_proj", "mlp.gate_up_proj"], ..LLAMA };
/// GLM and GLM 4: gate and up in one matrix.
pub const GLM: Style = Style { stems: &["post_attention_layernorm", "mlp.gate_up_proj"], ..LLAMA };
/// GLM 4: norms after each block too.
pub const GLM4: Style = Style {
    stems: &["post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm", "mlp.gate_up_proj"],
    ..LLAMA
};
/// MiniMax M2.
pub const MINIMAX: Style = Style {
    stems: &[
        "post_attention_layernorm",
        "block_sparse_moe.gate",
        "block_sparse_moe.e_score_correction_bias",
        "block_sparse_moe.experts.{e}.w1",
        "block_sparse_moe.experts.{e}.w2",
        "block_sparse_moe.experts.{e}.w3",
        "block_sparse_moe.switch_mlp.gate_proj",
        "block_sparse_moe.switch_mlp.up_proj",
        "block_sparse_moe.switch_mlp.down_proj",
    ],
    ..LLAMA
};
/// ERNIE 4.5.
pub const ERNIE: Style = Style {
    stems: &[
        "post_attention_layernorm",
        "mlp.moe_statics.e_score_correction_bias",
        "mlp.shared_experts.gate_proj",
        "mlp.shared_experts.up_proj",
        "mlp.shared_experts.down_proj",
    ],
    ..LLAMA
};
/// EXAONE MoE.
pub const EXAONE_MOE: Style = Style {
    stems: &[
        "post_attention_layernorm",
        "mlp.e_score_correction_bias",
        "mlp.shared_experts.gate_proj",
        "mlp.shared_experts.up_proj",
        "mlp.shared_experts.down_proj",
    ],
    ..LLAMA
};
/// Phi 1 and 2.
pub const PHI: Style =
    Style { stems: &["final_layernorm", "self_attn.dense", "mlp.fc1", "mlp.fc2", "self_attn.q_layernorm"], ..LLAMA };
/// StarCoder 2.
pub const STARCODER2: Style = Style { stems: &["post_attention_layernorm", "mlp.c_fc", "mlp.c_proj"], ..LLAMA };
/// StableLM 2: a norm for each head.
pub const STABLELM: Style = Style {
    stems: &["post_attention_layernorm", "self_attn.q_layernorm.norms.{e}", "self_attn.k_layernorm.norms.{e}"],
    ..LLAMA
};
/// Hunyuan.
pub const HUNYUAN: Style = Style {
    stems: &[
        "post_attention_layernorm",
        "self_attn.query_layernorm",
        "self_attn.key_layernorm",
        "mlp.gate.wg",
        "mlp.shared_mlp.gate_proj",
        "mlp.shared_mlp.up_proj",
        "mlp.shared_mlp.down_proj",
    ],
    ..LLAMA
};
/// DeepSeek, GLM 4.5, dots.
pub const SHARED_EXPERTS: Style = Style {
    stems: &[
        "post_attention_layernorm",
        "mlp.shared_experts.gate_proj",
        "mlp.shared_experts.up_proj",
        "mlp.shared_experts.down_proj",
    ],
    ..LLAMA
};
/// dots: the same.
pub const DOTS1: Style = Style { mlx: [&[], STACKED_MLX], ..SHARED_EXPERTS };
const STACKED_MLX: &[&str] = &["mlp.experts.gate_proj", "mlp.experts.up_proj", "mlp.experts.down_proj"];
/// Mistral 4: the same, and gate and up of all experts in one tensor.
pub const MISTRAL4: Style = Style {
    stems: &[
        "post_attention_layernorm",
        "mlp.experts.gate_up_proj",
        "mlp.experts.down_proj",
        "mlp.shared_experts.gate_proj",
        "mlp.shared_experts.up_proj",
        "mlp.shared_experts.down_proj",
    ],
    mlx: [&[], &["mlp.switch_mlp.down_proj"]],
    ..LLAMA
};
/// gpt-oss: gate and up of all experts in one tensor.
pub const GPT_OSS: Style = Style {
    stems: &[
        "post_attention_layernorm",
        "mlp.router",
        "mlp.experts.gate_up_proj",
        "mlp.experts.down_proj",
        "mlp.experts.gate_proj",
        "mlp.experts.up_proj",
    ],
    ..LLAMA
};
/// Granite MoE.
pub const GRANITE: Style = Style {
    stems: &[
        "post_attention_layernorm",
        "block_sparse_moe.router.layer",
        "block_sparse_moe.input_linear",
        "block_sparse_moe.output_linear",
        "block_sparse_moe.switch_mlp.gate_proj",
        "block_sparse_moe.switch_mlp.up_proj",
        "block_sparse_moe.switch_mlp.down_proj",
    ],
    ..LLAMA
};
/// Granite MoE with shared experts, whose gate and up are one matrix.
pub const GRANITE_SHARED: Style = Style {
    stems: &[
        "post_attention_layernorm",
        "block_sparse_moe.router.layer",
        "block_sparse_moe.input_linear",
        "block_sparse_moe.output_linear",
        "block_sparse_moe.switch_mlp.gate_proj",
        "block_sparse_moe.switch_mlp.up_proj",
        "block_sparse_moe.switch_mlp.down_proj",
        "shared_mlp.input_linear",
        "shared_mlp.output_linear",
    ],
    ..LLAMA
};
/// Granite 4: the same with state spaces.
pub const GRANITE_HYBRID: Style = Style {
    stems: &[
        "post_attention_layernorm",
        "block_sparse_moe.router.layer",
        "block_sparse_moe.input_linear",
        "block_sparse_moe.output_linear",
        "block_sparse_moe.switch_mlp.gate_proj",
        "block_sparse_moe.switch_mlp.up_proj",
        "block_sparse_moe.switch_mlp.down_proj",
        "shared_mlp.input_linear",
        "shared_mlp.output_linear",
        "mamba.in_proj",
        "mamba.conv1d",
        "mamba.dt_bias",
        "mamba.A_log",
        "mamba.D",
        "mamba.norm",
        "mamba.out_proj",
    ],
    mlx: [&["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"], &[]],
    ..LLAMA
};
/// Jamba, Falcon-H1, Bamba.
pub const JAMBA: Style = Style {
    stems: &[
        "final_layernorm",
        "pre_ff_layernorm",
        "mamba.in_proj",
        "mamba.conv1d",
        "mamba.x_proj",
        "mamba.dt_proj",
        "mamba.dt_bias",
        "mamba.A_log",
        "mamba.D",
        "mamba.norm",
        "mamba.out_proj",
        "feed_forward.gate_proj",
        "feed_forward.up_proj",
        "feed_forward.down_proj",
        "feed_forward.router",
        "feed_forward.experts.{e}.gate_proj",
        "feed_forward.experts.{e}.up_proj",
        "feed_forward.experts.{e}.down_proj",
        "feed_forward.switch_mlp.gate_proj",
        "feed_forward.switch_mlp.up_proj",
        "feed_forward.switch_mlp.down_proj",
    ],
    ..LLAMA
};
/// Nemotron-H: one part in each layer.
pub const NEMOTRON_H: Style = Style {
    root: "backbone.",
    stems: &[
        "embeddings",
        "norm_f",
        "norm",
        "mixer.q_proj",
        "mixer.k_proj",
        "mixer.v_proj",
        "mixer.o_proj",
        "mixer.up_proj",
        "mixer.down_proj",
        "mixer.gate",
        "mixer.gate.e_score_correction_bias",
        "mixer.experts.{e}.up_proj",
        "mixer.experts.{e}.down_proj",
        "mixer.switch_mlp.fc1",
        "mixer.switch_mlp.fc2",
        "mixer.shared_experts.up_proj",
        "mixer.shared_experts.down_proj",
    ],
    ..LLAMA
};
/// LFM2.
pub const LFM2: Style = Style {
    stems: &[
        "embedding_norm",
        "operator_norm",
        "ffn_norm",
        "self_attn.out_proj",
        "self_attn.q_layernorm",
        "self_attn.k_layernorm",
        "feed_forward.w1",
        "feed_forward.w2",
        "feed_forward.w3",
        "feed_forward.gate",
        "feed_forward.expert_bias",
        "feed_forward.experts.{e}.w1",
        "feed_forward.experts.{e}.w2",
        "feed_forward.experts.{e}.w3",
        "feed_forward.switch_mlp.gate_proj",
        "feed_forward.switch_mlp.up_proj",
        "feed_forward.switch_mlp.down_proj",
    ],
    mlx: [&[], &["feed_forward.gate_proj", "feed_forward.up_proj", "feed_forward.down_proj"]],
    ..LLAMA
};
/// Qwen's gated delta nets.
pub const QWEN_DELTA: Style = Style {
    stems: &[
        "post_attention_layernorm",
        "linear_attn.in_proj_qkvz",
        "linear_attn.conv1d",
        "linear_attn.dt_bias",
        "linear_attn.A_log",
        "linear_attn.norm",
        "linear_attn.out_proj",
    ],
    ..LLAMA
};
/// Kimi Linear.
pub const KIMI: Style = Style {
    stems: &[
        "post_attention_layernorm",
        "block_sparse_moe.gate_proj",
        "block_sparse_moe.up_proj",
        "block_sparse_moe.down_proj",
        "block_sparse_moe.gate",
        "block_sparse_moe.gate.e_score_correction_bias",
        "block_sparse_moe.experts.{e}.w1",
        "block_sparse_moe.experts.{e}.w2",
        "block_sparse_moe.experts.{e}.w3",
        "block_sparse_moe.shared_experts.gate_proj",
        "block_sparse_moe.shared_experts.up_proj",
        "block_sparse_moe.shared_experts.down_proj",
        "self_attn.dt_bias",
        "self_attn.A_log",
        "self_attn.o_norm",
        "self_attn.b_proj",
    ],
    mlx: [KIMI_MLX; 2],
    ..LLAMA
};
const KIMI_MLX: &[&str] = &[
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
    "mlp.gate",
    "mlp.e_score_correction_bias",
    "mlp.shared_experts.gate_proj",
    "mlp.shared_experts.up_proj",
    "mlp.shared_experts.down_proj",
    "self_attn.q_conv.conv",
    "self_attn.k_conv.conv",
    "self_attn.v_conv.conv",
];
/// AFMoE: sandwich norms.
pub const AFMOE: Style = Style {
    stems: &[
        "pre_mlp_layernorm",
        "post_attention_layernorm",
        "post_mlp_layernorm",
        "mlp.router.gate",
        "mlp.expert_bias",
        "mlp.shared_experts.gate_proj",
        "mlp.shared_experts.up_proj",
        "mlp.shared_experts.down_proj",
    ],
    mlx: [&[], STACKED_MLX],
    ..LLAMA
};
/// HY V3.
pub const HY_V3: Style = Style {
    stems: &[
        "post_attention_layernorm",
        "mlp.router.gate",
        "mlp.expert_bias",
        "mlp.shared_mlp.gate_proj",
        "mlp.shared_mlp.up_proj",
        "mlp.shared_mlp.down_proj",
    ],
    ..LLAMA
};
/// Llama 4.
pub const LLAMA4: Style = Style {
    stems: &[
        "post_attention_layernorm",
        "feed_forward.gate_proj",
        "feed_forward.up_proj",
        "feed_forward.down_proj",
        "feed_forward.router",
        "feed_forward.experts.gate_up_proj",
        "feed_forward.experts.down_proj",
        "feed_forward.shared_expert.gate_proj",
        "feed_forward.shared_expert.up_proj",
        "feed_forward.shared_expert.down_proj",
    ],
    mlx: [&[], &["feed_forward.experts.gate_proj", "feed_forward.experts.up_proj", "feed_forward.experts.down_proj"]],
    ..LLAMA
};
/// InternLM 2.
pub const INTERNLM2: Style = Style {
    stems: &[
        "tok_embeddings",
        "output",
        "attention_norm",
        "ffn_norm",
        "attention.wqkv",
        "attention.wo",
        "feed_forward.w1",
        "feed_forward.w2",
        "feed_forward.w3",
    ],
    ..LLAMA
};
/// GPT-2 and GPT-BigCode.
pub const GPT2: Style = Style {
    root: "transformer.",
    layers: "h.",
    stems: &["wte", "wpe", "ln_f", "ln_1", "ln_2", "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"],
    ..LLAMA
};
/// Falcon.
pub const FALCON: Style = Style {
    stems: &[
        "word_embeddings",
        "ln_f",
        "self_attention.query_key_value",
        "self_attention.dense",
        "mlp.dense_h_to_4h",
        "mlp.dense_4h_to_h",
        "post_attention_layernorm",
    ],
    ..GPT2
};
/// Falcon with two norms before a layer.
pub const FALCON_TWO_NORMS: &[&str] = &["ln_attn", "ln_mlp"];
/// BLOOM: as Falcon, and a norm after the embeddings.
pub const BLOOM: Style = FALCON;
/// GPT-NeoX.
pub const GPT_NEOX: Style = Style {
    root: "gpt_neox.",
    stems: &[
        "embed_in",
        "embed_out",
        "final_layer_norm",
        "post_attention_layernorm",
        "attention.query_key_value",
        "attention.dense",
        "mlp.dense_h_to_4h",
        "mlp.dense_4h_to_h",
    ],
    ..LLAMA
};
/// Mamba.
pub const MAMBA: Style = Style { root: "backbone.", stems: &["embeddings", "norm_f", "norm"], ..LLAMA };

/// The names that tensors get in a file to be written.
pub(crate) struct Naming {
    /// `None` for GGUF.
    pub style: Option<&'static Style>,
    /// Stems that go before those of the style.
    pub first: &'static [&'static str],
    /// Roles that have another role's name.
    pub renames: Vec<(Role, Role)>,
    /// Where a folder kept its layers, which stay there.
    pub layers: Option<String>,
}

impl Naming {
    /// The stem of a role; `None` where the form has none. `{e}` stands for the number of an expert or head.
    pub fn stem(&self, role: Role, i: usize) -> Option<String> {
        let role = self.renames.iter().find(|(from, _)| *from == role).map_or(role, |(_, to)| *to);
        let Some(style) = self.style else {
            let (gguf, _, layer) = stems(role);
            let prefix = if layer { format!("blk.{i}.") } else { String::new() };
            return gguf.first().map(|stem| format!("{prefix}{stem}"));
        };
        let (_, hf, layer) = stems(role);
        let fused = matches!(role, Role::AttnQkv | Role::FfnGateUp | Role::ExpGateUp);
        let experts = matches!(role, Role::ExpGate | Role::ExpUp | Role::ExpDown);
        let mut own = hf.iter().copied().filter(|stem| !stem.contains("switch_mlp"));
        let listed = |list: &[&'static str]| list.iter().copied().find(|stem| own.clone().any(|own| own == *stem));
        let chosen = listed(self.first).or_else(|| listed(style.stems));
        let stem = chosen.or_else(|| own.find(|stem| !fused && (!experts || stem.contains("{e}"))))?;
        let root = if role == Role::Output { "" } else { style.root };
        Some(if layer { format!("{}{i}.{stem}", self.layers(style)) } else { format!("{root}{stem}") })
    }

    /// What MLX folders call a role otherwise.
    pub fn mlx(style: &Style, experts: bool) -> &'static [&'static str] {
        style.mlx[usize::from(experts)]
    }

    /// Whether the stems before the style's name one of a role's.
    pub fn lists_first(&self, role: Role) -> bool {
        self.style.is_some() && stems(role).1.iter().any(|stem| self.first.contains(stem))
    }

    /// Whether the style names one of a role's stems.
    pub fn lists(&self, role: Role) -> bool {
        self.style.is_some_and(|style| stems(role).1.iter().any(|stem| style.stems.contains(stem)))
    }

    fn layers(&self, style: &Style) -> String {
        self.layers.clone().unwrap_or_else(|| format!("{}{}", style.root, style.layers))
    }

    /// The stem of a role of stacked experts as MLX names it.
    pub fn mlx_experts(&self, role: Role, i: usize) -> Option<String> {
        let style = self.style?;
        let stacked = |stem: &&&str| !stem.contains("{e}");
        let stems = stems(role).1.iter().filter(stacked);
        let listed = |list: &[&'static str]| stems.clone().find(|stem| list.contains(*stem));
        let stem = listed(self.first).or_else(|| listed(style.stems)).or_else(|| stems.clone().next())?;
        Some(format!("{}{i}.{stem}", self.layers(style)))
    }
}
