//! What the operations of a decoder block take besides tensors.

use crate::Backend;

/// A matrix with what follows it: `y = scale * (W x) + bias`.
pub struct Linear<B: Backend + ?Sized> {
    /// `[n_out, n_in]`.
    pub matrix: B::Matrix,
    /// `[1, n_out]`.
    pub bias: Option<B::Tensor>,
    /// Factor on the product; 1 for almost every model.
    pub scale: f32,
}

/// The matrices of all experts of a layer.
pub struct Experts<B: Backend + ?Sized> {
    /// `[n_expert, n_out, n_in]`, from [`Backend::experts`].
    pub matrix: B::Matrix,
    /// `[n_expert, n_out]`.
    pub bias: Option<B::Tensor>,
    /// Factor on each expert's product, `[n_expert]`; empty means 1.
    pub scale: Vec<f32>,
}

/// A normalization over the columns of each row (or of each head, for [`Backend::head_norm`]).
pub struct Norm<B: Backend + ?Sized> {
    /// Which mean is divided out.
    pub kind: NormKind,
    /// `[1, n_col]`, multiplied after normalizing; `None` means 1. For heads: `[1, d_head]`, or `[n_head, d_head]`.
    pub weight: Option<B::Tensor>,
    /// Like `weight`, added last.
    pub bias: Option<B::Tensor>,
    /// Added to the mean square (or variance) before the root.
    pub eps: f32,
}

/// Which mean a norm divides out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// `x / sqrt(mean(x^2) + eps)`.
    Rms,
    /// `(x - mean(x)) / sqrt(var(x) + eps)`.
    Layer,
}

/// Activation functions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Act {
    /// `x * sigmoid(x)`.
    Silu,
    /// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
    GeluTanh,
    /// `0.5 x (1 + erf(x / sqrt(2)))`.
    GeluErf,
    /// `x * sigmoid(1.702 x)`.
    GeluQuick,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)^2`.
    ReluSquared,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `tanh(x)`.
    Tanh,
    /// `ln(1 + exp(x))`.
    Softplus,
    /// `min(max(x, -limit), limit)` (OLMo's and DBRX's clipped q, k, v).
    Clamp(f32),
    /// gpt-oss: gate `g = min(gate, limit)`, up `u = clamp(up, -limit, limit)`, result
    /// `g * sigmoid(alpha g) * (u + 1)`. Only valid where a gate and an up are at hand.
    SwigluOai {
        /// Slope of the sigmoid, 1.702.
        alpha: f32,
        /// Clamp, 7.
        limit: f32,
    },
}

/// Rotary position embedding. Every scaling (linear, NTK, YaRN, llama3, longrope) is expressed by `freqs` and `scale`.
///
/// Rotates the first `2 * freqs.len()` dimensions of each head; angle of pair `i` at position `p` is `p * freqs[i]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Radians a position, `[n_rot / 2]`.
    pub freqs: Vec<f32>,
    /// Factor on the rotated dimensions (YaRN's and longrope's attention factor), 1 otherwise.
    pub scale: f32,
    /// Which dimensions form a pair.
    pub pairs: RopePairs,
    /// First rotated dimension of a head: 0, except MLA, whose rotated dimensions follow the others.
    pub offset: usize,
}

/// Which dimensions of a head rotate together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopePairs {
    /// `(i, i + n_rot / 2)`: GPT-NeoX, every Hugging Face llama.
    HalfSplit,
    /// `(2 i, 2 i + 1)`: GPT-J, GGUF llama.
    Interleaved,
}

/// What attention computes besides the dot products.
pub struct Attention<'a, B: Backend + ?Sized> {
    /// Query heads.
    pub n_head: usize,
    /// Factor on the dot products, usually `1 / sqrt(d_k)`.
    pub scale: f32,
    /// How far back a query sees.
    pub window: Window,
    /// `s -> cap * tanh(s / cap)` on scaled scores.
    pub softcap: Option<f32>,
    /// `[1, n_head]` logits that take part in the softmax's sum without a value (gpt-oss).
    pub sinks: Option<&'a B::Tensor>,
    /// ALiBi: `[1, n_head]` slopes; `-slope * |query position - key position|` is added to scaled (and capped) scores.
    pub alibi: Option<&'a B::Tensor>,
    /// Whether a query sees only itself and earlier positions. Encoders see all tokens of their row.
    pub causal: bool,
}

/// How far back a query sees. Where it also sees later positions (not causal), as far ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// Everything.
    Full,
    /// Position `q` sees `p` when `|q - p| < n`.
    Sliding(u32),
    /// Position `q` sees `p` when `q / n == p / n` (Llama 4).
    Chunked(u32),
}

/// A mixture of experts: routing from logits, then the experts' feed-forward, weighted and summed.
pub struct Moe<'a, B: Backend + ?Sized> {
    /// How logits become probabilities.
    pub gating: Gating,
    /// `[1, n_expert]`, added to the probabilities for the choice only (DeepSeek V3).
    pub select_bias: Option<&'a B::Tensor>,
    /// `(groups, groups used)`: the choice is limited to the groups whose two best sum highest (DeepSeek V3).
    pub groups: Option<(usize, usize)>,
    /// Experts a token uses.
    pub n_used: usize,
    /// Whether the weights of the chosen are divided by their sum.
    pub normalize: bool,
    /// Factor on the weights.
    pub scale: f32,
    /// Whether weights multiply the experts' input instead of their output (Llama 4).
    pub weight_input: bool,
    /// Applied to the gate.
    pub act: Act,
    /// The gate; `None` when `up` holds gate and up in its first and second half of rows, or when there is no gate.
    pub gate: Option<&'a Experts<B>>,
    /// Up projection; gate rows then up rows when `merged`.
    pub up: &'a Experts<B>,
    /// Whether `up` holds gate and up.
    pub merged: bool,
    /// Down projection.
    pub down: &'a Experts<B>,
}

/// How router logits become weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gating {
    /// Softmax over all experts, then choose.
    Softmax,
    /// Sigmoid of each, then choose.
    Sigmoid,
    /// Choose by logit, then softmax over the chosen (gpt-oss).
    SoftmaxOfChosen,
    /// Choose by logit, one after the other; each weight is its share of a softmax over the experts left whose logits
    /// lie within [`SPARSE_MIXER_SPAN`] of its own, relative to the larger magnitude (Phi 3.5 MoE, arXiv:2409.12136).
    SparseMixer,
}

/// Twice the router noise that [`Gating::SparseMixer`] was trained with.
pub const SPARSE_MIXER_SPAN: f32 = 0.02;

/// A state space scan. Shapes in [`Backend::ssm_scan`].
#[derive(Debug, Clone, Copy)]
pub struct Ssm {
    /// Heads (mamba 1: `d_inner`).
    pub n_head: usize,
    /// Channels of a head (mamba 1: 1).
    pub d_head: usize,
    /// Size of the state of a channel.
    pub d_state: usize,
    /// Groups of heads that share `b` and `c`.
    pub n_group: usize,
}

/// A gated delta rule. Shapes in [`Backend::delta_scan`].
#[derive(Debug, Clone, Copy)]
pub struct Delta {
    /// Heads of values; each has a state.
    pub n_head: usize,
    /// Heads of queries and keys, a divisor of `n_head`.
    pub n_key_head: usize,
    /// Dimensions of a query and of a key.
    pub d_k: usize,
    /// Dimensions of a value.
    pub d_v: usize,
    /// Whether head `h` takes key head `h % n_key_head` instead of `h / (n_head / n_key_head)` (Qwen 3.5 in GGUF).
    pub tiled: bool,
}

/// The tokens of a batch, by sequence, and where their keys and values live.
///
/// Token `first + i` of a row is at position `positions[first + i]` and is stored in KV slot `start + i`:
/// page `pages[row.pages][slot / page_tokens]`, place `slot % page_tokens`.
#[derive(Debug, Clone, Copy)]
pub struct Seqs<'a> {
    /// The rows, in the order of their tokens; together they cover the batch.
    pub rows: &'a [SeqRow],
    /// Page numbers of all rows.
    pub pages: &'a [u32],
    /// Position of each token, `[n_tok]`.
    pub positions: &'a [i32],
    /// For rows with a token tree: index within the row of each token's parent, -1 for a child of the past.
    /// `[n_tok]`, or empty when no row is a tree. In a tree a token sees the past and its ancestors.
    pub parents: &'a [i32],
}

/// One sequence's part of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeqRow {
    /// Its first token in the batch.
    pub first: usize,
    /// Its tokens in the batch.
    pub n_tok: usize,
    /// Tokens of the sequence already stored; KV slot `s < start` holds the token at position `s`.
    pub start: usize,
    /// Range in [`Seqs::pages`]: its pages, oldest first, enough for `start + n_tok` tokens.
    pub pages: (usize, usize),
    /// Where its recurrent state is kept. A row with `start == 0` begins with zeros.
    pub slot: usize,
    /// Whether [`Seqs::parents`] applies to this row.
    pub tree: bool,
}

/// The size of the store of keys, values and recurrent states of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct KvSpec {
    /// What each layer keeps.
    pub layers: Vec<LayerState>,
    /// Tokens of a page.
    pub page_tokens: usize,
    /// Pages in the arena.
    pub n_page: usize,
    /// Slots for recurrent states.
    pub n_slot: usize,
    /// How keys and values are stored.
    pub dtype: KvType,
}

/// What a layer keeps of the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerState {
    /// Keys and values of every token.
    Kv {
        /// Heads of keys and values.
        n_kv_head: usize,
        /// Dimensions of a key.
        d_k: usize,
        /// Dimensions of a value; 0: the value is the first `d_latent` dimensions of the key (MLA).
        d_v: usize,
        /// See `d_v`; 0 otherwise.
        d_latent: usize,
    },
    /// A convolution's last inputs and a state space's state, f32.
    Recurrent {
        /// Floats of the convolution's state: channels x (kernel - 1).
        conv: usize,
        /// Floats of the scan's state.
        ssm: usize,
    },
    /// Nothing.
    None,
}

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvType {
    /// 4 bytes a number; for golden comparisons.
    F32,
    /// 2 bytes a number.
    #[default]
    F16,
    /// 2 bytes a number.
    BF16,
    /// 1 byte a number and one f32 scale a token and head.
    Q8,
    /// 4 bits a number and an f32 scale for each [`Q4_GROUP`] numbers of a token's head, as GGUF's `Q4_0` rounds.
    Q4,
}

/// Numbers that share a scale in [`KvType::Q4`].
pub const Q4_GROUP: usize = 32;

/// The scale of a group stored as [`KvType::Q4`]: the number of largest magnitude, the first of them, becomes -8.
#[must_use]
pub fn q4_scale(group: &[f32]) -> f32 {
    let largest = group.iter().fold(0f32, |m, &x| if x.abs() > m.abs() { x } else { m });
    largest / -8.0
}

/// A number of a group of this scale as [`KvType::Q4`] stores it, -8 to 7: `round(x / scale)`, halves to even.
#[must_use]
pub fn q4_round(x: f32, scale: f32) -> f32 {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    (x * inverse).round_ties_even().clamp(-8.0, 7.0)
}
