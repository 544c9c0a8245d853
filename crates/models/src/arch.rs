//! Architectures: what cannot be read from a checkpoint's tensors and configuration.
//!
//! A decoder is described by its tensors (is there a gate? a q norm? a bias?), by its configuration (heads, widths,
//! epsilons) and by a row of [`crate::table::archs`]: the conventions that only the model's code knows.

use mlxr_compute::op::{Act, Gating, NormKind, RopePairs};

use crate::config::Key;
use crate::names::Role;
use crate::style::{self, Style};

/// The conventions of an architecture. The base of every row is [`LLAMA`].
#[derive(Debug, Clone, Copy)]
pub struct Arch {
    /// Values of `general.architecture` in GGUF.
    pub gguf: &'static [&'static str],
    /// Class names in `config.json`'s `architectures`.
    pub hf: &'static [&'static str],
    /// Which GGUF architecture a file of experts or, where `gguf` is empty, any file is written as; empty: the first.
    pub written_as: &'static str,
    /// How Hugging Face files name tensors.
    pub style: &'static Style,
    /// Whether GGUF names the norm before the feed-forward after the attention that it follows.
    pub ffn_norm_is_post: bool,
    /// Whether GGUF files keep gate and up of the dense feed-forward in one matrix, where Hugging Face files do.
    pub gate_up: bool,
    /// Whether GGUF files keep latent attention's second projections in one matrix.
    pub joint_kv_b: bool,
    /// Whether mlx-lm's class has them so.
    pub mlx_joint_kv_b: bool,
    /// Roles whose tensors GGUF's runtime wants under their stem alone.
    pub bare: &'static [Role],
    /// Sections of positions that GGUF's runtime wants named, where the configuration does not.
    pub sections: Option<[u32; 4]>,
    /// Whether GGUF files hold the configuration's factors on parts of a layer in their weights (Falcon-H1).
    pub folds: bool,
    /// Which dimensions rotate together, in GGUF and in Hugging Face files (converters permute some).
    pub pairs: [RopePairs; 2],
    /// Whether GGUF files with sections of positions (vision) rotate halves, whatever `pairs` says.
    pub sections_halve: bool,
    /// Layers without rotation.
    pub no_rope: NoRope,
    /// How layers with a window rotate.
    pub window_rope: WindowRope,
    /// ALiBi: how the greatest slope is found.
    pub alibi: Alibi,
    /// Which layers have a window, where the configuration does not list them.
    pub window: WindowLayers,
    /// Kind of all norms.
    pub norm: NormKind,
    /// Whether norms are by the root mean square where the configuration has that kind's epsilon (Cohere 2 MoE).
    pub norm_by_eps: bool,
    /// Whether Hugging Face files store norm weights less one.
    pub norm_plus_one: bool,
    /// Whether MLX checkpoints have added that one (mlx-lm's `sanitize`).
    pub mlx_norm_whole: bool,
    /// Where norms stand.
    pub norms: Norms,
    /// Whether q and k are normed after the rotation instead of before.
    pub qk_norm_late: bool,
    /// Whether q and k are divided by their root mean square where no weight says so (Llama 4), on rotated layers.
    pub qk_norm_plain: bool,
    /// Whether attention and feed-forward read the same residual.
    pub parallel: Parallel,
    /// How a fused q, k, v matrix is laid out in Hugging Face files.
    pub qkv: Fused,
    /// Whether Hugging Face files store matrices as `[n_in, n_out]` (GPT-2's Conv1D).
    pub transposed: bool,
    /// Whether Hugging Face files store stacked experts under their stem alone.
    pub experts_bare: bool,
    /// Whether Hugging Face files store the bias for the choice of experts as a matrix of one row.
    pub select_bias_row: bool,
    /// Whether Hugging Face files store plain experts as `[n_in, n_out]`.
    pub experts_transposed: bool,
    /// Whether Hugging Face files store gate and up of experts by turns, row by row.
    pub experts_by_turns: bool,
    /// Activation of the feed-forward, where the configuration does not name it.
    pub act: Act,
    /// Factor on embeddings.
    pub embed_scale: EmbedScale,
    /// How `logit_scale` of the configuration applies.
    pub logit_scale: LogitScale,
    /// Whether files with experts are refused: no model of the architecture has them.
    pub no_experts: bool,
    /// Router: how logits become probabilities, where the configuration does not say.
    pub gating: Gating,
    /// Router: whether weights are divided by their sum, where the configuration does not say.
    pub normalize: bool,
    /// Router: whether weights multiply the input.
    pub weight_input: bool,
    /// Number of layers at which queries are scaled by `sqrt(d_model / n_head)` (Gemma 27B); 0 for none.
    pub wide_query_layers: usize,
    /// Whether soft caps of the configuration apply: to attention scores, to logits. Files may carry unused ones.
    pub softcaps: [bool; 2],
    /// Whether `.scale` tensors of the feed-forward apply to types other than NVFP4.
    pub ffn_scales: bool,
    /// Whether attention is causal. Encoders are not.
    pub causal: bool,
    /// Values of the configuration that hold where a file does not name them.
    pub defaults: &'static [(Key, f32)],
    /// Roles that GGUF files keep under the name of another.
    pub renames: &'static [(Role, Role)],
    /// Roles that files may have, but the architecture does not use.
    pub absent: &'static [Role],
    /// Parts of names of tensors that the architecture has and that change nothing in a decoder of text.
    pub harmless: &'static [&'static str],
    /// Roles whose bias GGUF's runtime does not add.
    pub no_bias: &'static [Role],
    /// Roles whose `.scale` GGUF's runtime does not apply.
    pub no_scale: &'static [Role],
    /// Whether a norm of k applies only beside a norm of q (MPT).
    pub qk_norm_pair: bool,
    /// Whether scores are divided by the dimensions of a key instead of their root (Jais, muP).
    pub scale_by_width: bool,
    /// Applied to the gate of attention's output, where there is one.
    pub gate_act: Act,
    /// Whether a layer may have a feed-forward and nothing that mixes tokens (Nemotron-H).
    pub single_part: bool,
    /// Whether the router reads what the layer reads, before attention and not normed (SmallThinker).
    pub router_early: bool,
    /// What becomes of a dense feed-forward beside experts.
    pub beside: Beside,
    /// Factor on the sum of experts and what every token passes besides.
    pub shared_mean: f32,
    /// Whether a delta net's key heads repeat in turn in GGUF files (Qwen 3.5).
    pub delta_tiled: bool,
    /// Whether dt, b and c of a Mamba layer are normed where no weight says so (Falcon-Mamba).
    pub ssm_normed: bool,
    /// Whether a delta net's gate is a sigmoid instead of `silu` (Kimi).
    pub delta_sigmoid: bool,
    /// Queries of far positions grow, by this default (Llama 4).
    pub temperature: Option<Temperature>,
    /// Whether embeddings are divided by their root mean square.
    pub embed_norm_plain: bool,
    /// Epsilon of norms after a block, where it is another than that of the others.
    pub post_eps: Option<f32>,
}

/// What becomes of a dense feed-forward beside experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// A file that has both is refused.
    Unknown,
    /// It is left out.
    Unused,
    /// Every token passes it (Grok).
    Added,
}

/// Queries are multiplied by `1 + scale * ln(1 + floor((position + offset) / floor))`. Source: modeling_llama4.py.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Temperature {
    /// Growth.
    pub scale: f32,
    /// Positions of a step.
    pub floor: f32,
    /// Added to the position.
    pub offset: f32,
    /// Whether only layers without rotation have it.
    pub unrotated: bool,
}

/// Layers without rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRope {
    /// All layers rotate.
    Never,
    /// No layer rotates.
    Always,
    /// Every n-th layer does not.
    Every(usize),
    /// All layers rotate in models of this many layers, none in others.
    ButDepth(usize),
    /// As the configuration says, or all (`true`) or none (`false`) where it does not.
    ByConfig(bool),
    /// The first of every n layers does not, in models with windows.
    FirstOf(usize),
    /// Layers without a window do not.
    Full,
    /// Layers without a window do not, but for the leading dense ones.
    FullSparse,
}

/// ALiBi: scores lose a part of the distance, a slope a head. Source: arXiv:2108.12409.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Alibi {
    /// No.
    None,
    /// With the bias that the configuration names, if any.
    Config,
    /// With this bias.
    Bias(f32),
    /// With this bias in models of this many layers.
    InDepth(usize, f32),
}

/// How layers with a window rotate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum WindowRope {
    /// As the others.
    Same,
    /// Without scaling, and with this base where the configuration names none (0: the base of the others).
    Plain(f32),
}

/// Which layers have a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowLayers {
    /// None, whatever the configuration says.
    None,
    /// All.
    All,
    /// All but every n-th.
    Period(usize),
    /// All but the first of every n.
    PeriodFirst(usize),
    /// All but every n-th, in models of this many layers only.
    PeriodIn(usize, usize),
    /// All but every n-th, in chunks instead of a sliding window.
    Chunked(usize),
}

/// Where norms stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norms {
    /// Before attention and before the feed-forward.
    Pre,
    /// Before and after each.
    Sandwich,
    /// After each only.
    Post,
}

/// Whether attention and feed-forward read the same residual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parallel {
    /// The feed-forward reads what attention wrote.
    No,
    /// Both read the same.
    Yes,
    /// Both read the same when the layer has no norm of its own for the feed-forward.
    WithoutFfnNorm,
    /// `use_parallel_residual` in the configuration, true if absent.
    Config,
}

/// How a fused q, k, v matrix is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fused {
    /// All of q, then all of k, then all of v.
    Stacked,
    /// For each key-value head: its q heads, its k, its v.
    Grouped,
}

/// Factor on embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmbedScale {
    /// The configuration's, or 1.
    Config,
    /// `sqrt(d_model)`.
    SqrtWidth,
}

/// How `logit_scale` of the configuration applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitScale {
    /// Logits are multiplied by it.
    Multiply,
    /// Logits are divided by it.
    Divide,
}

/// The base of every row. Source: `modeling_llama.py`; GGUF pairs are interleaved by the converter.
pub const LLAMA: Arch = Arch {
    gguf: &["llama"],
    hf: &["LlamaForCausalLM"],
    written_as: "",
    style: &style::LLAMA,
    ffn_norm_is_post: false,
    gate_up: false,
    joint_kv_b: false,
    mlx_joint_kv_b: false,
    bare: &[],
    sections: None,
    folds: false,
    pairs: [RopePairs::Interleaved, RopePairs::HalfSplit],
    sections_halve: false,
    no_rope: NoRope::Never,
    window_rope: WindowRope::Same,
    alibi: Alibi::None,
    window: WindowLayers::None,
    norm: NormKind::Rms,
    norm_by_eps: false,
    norm_plus_one: false,
    mlx_norm_whole: false,
    norms: Norms::Pre,
    qk_norm_late: false,
    qk_norm_plain: false,
    parallel: Parallel::No,
    qkv: Fused::Stacked,
    transposed: false,
    experts_bare: false,
    select_bias_row: false,
    experts_transposed: false,
    experts_by_turns: false,
    act: Act::Silu,
    embed_scale: EmbedScale::Config,
    logit_scale: LogitScale::Multiply,
    no_experts: false,
    gating: Gating::Softmax,
    normalize: true,
    weight_input: false,
    wide_query_layers: 0,
    softcaps: [false; 2],
    ffn_scales: true,
    causal: true,
    defaults: &[],
    renames: &[],
    absent: &[],
    harmless: &[],
    no_bias: &[],
    no_scale: &[],
    qk_norm_pair: false,
    scale_by_width: false,
    gate_act: Act::Sigmoid,
    single_part: false,
    router_early: false,
    beside: Beside::Unknown,
    shared_mean: 1.0,
    delta_tiled: false,
    ssm_normed: false,
    delta_sigmoid: false,
    temperature: None,
    embed_norm_plain: false,
    post_eps: None,
};
