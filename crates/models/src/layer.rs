//! The parts of a loaded model.

use mlxr_compute::Backend;
use mlxr_compute::op::{Act, Experts, Linear, Norm, Rope, Window};

use crate::recurrent::{DeltaNet, Mamba, Mamba2, ShortConv};

/// A decoder layer. What a model does not have is `None`.
pub struct Layer<B: Backend> {
    pub attn_norm: Option<Norm<B>>,
    /// Falcon 40B: the attention's own norm, while `attn_norm` is the feed-forward's.
    pub attn_norm_2: Option<Norm<B>>,
    pub mixer: Mixer<B>,
    pub post_attn_norm: Option<Norm<B>>,
    pub ffn_norm: Option<Norm<B>>,
    pub ffn: Ffn<B>,
    pub post_ffn_norm: Option<Norm<B>>,
    /// Whether the feed-forward reads what attention read.
    pub parallel: bool,
}

/// What mixes tokens.
pub enum Mixer<B: Backend> {
    /// A layer that is a feed-forward only.
    None,
    Attention(Box<Attn<B>>),
    Latent(Box<Latent<B>>),
    Mamba(Box<Mamba<B>>),
    Ssm(Box<Mamba2<B>>),
    Delta(Box<DeltaNet<B>>),
    Conv(Box<ShortConv<B>>),
    /// Attention and state space side by side; the latter's state has a place of its own in the store.
    Both(Box<Attn<B>>, Box<Mamba2<B>>, usize),
}

/// Attention with its projections.
pub struct Attn<B: Backend> {
    pub q: Linear<B>,
    pub k: Linear<B>,
    pub v: Linear<B>,
    pub out: Linear<B>,
    pub q_norm: Option<QkNorm<B>>,
    pub k_norm: Option<QkNorm<B>>,
    /// Norms after the rotation.
    pub norm_late: bool,
    pub rope: Option<Rope>,
    pub sinks: Option<B::Tensor>,
    /// ALiBi's slopes, `[1, n_head]`.
    pub alibi: Option<B::Tensor>,
    pub sub_norm: Option<Norm<B>>,
    pub n_head: usize,
    pub n_kv_head: usize,
    pub window: Window,
    pub gate: Option<Gate<B>>,
    /// Whether queries of far positions grow.
    pub temperature: bool,
}

/// A gate of attention's output.
pub struct Gate<B: Backend> {
    pub linear: Linear<B>,
    pub act: Act,
    /// Where the gate has one number a head: `[n_head, d_v, 1]` of ones, which repeats it for the head's dimensions.
    pub spread: Option<B::Matrix>,
}

/// A norm of q or k.
pub enum QkNorm<B: Backend> {
    /// Each head by itself.
    Head(Norm<B>),
    /// The whole row.
    Row(Norm<B>),
}

/// Multi-head latent attention: keys and values of all heads are one latent vector, and the projections to and from
/// it are applied to queries and outputs instead. Source: arXiv:2405.04434, section 2.1.
pub struct Latent<B: Backend> {
    pub q: LatentQuery<B>,
    /// `[kv_rank, d_model]`.
    pub kv_latent: Linear<B>,
    /// `[d_rope, d_model]`.
    pub kv_key: Linear<B>,
    pub kv_norm: Norm<B>,
    /// `[n_head, kv_rank, d_nope]`.
    pub k_b: B::Matrix,
    /// `[n_head, d_v, kv_rank]`.
    pub v_b: B::Matrix,
    pub out: Linear<B>,
    pub rope: Option<Rope>,
    pub n_head: usize,
    pub gate: Option<Gate<B>>,
    pub temperature: bool,
}

/// The query projection of latent attention.
pub enum LatentQuery<B: Backend> {
    Full(LatentHeads<B>),
    LowRank { a: Linear<B>, norm: Norm<B>, b: LatentHeads<B> },
}

/// Rows of a query projection by what becomes of them: `[n_head * d_nope, n_in]` and `[n_head * d_rope, n_in]`.
pub struct LatentHeads<B: Backend> {
    pub content: Linear<B>,
    pub rotated: Linear<B>,
}

/// The feed-forward of a layer.
pub enum Ffn<B: Backend> {
    None,
    Dense(Box<Dense<B>>),
    Moe(Box<MoeFfn<B>>),
}

/// A dense feed-forward, gated or not.
pub struct Dense<B: Backend> {
    pub gate: Option<Linear<B>>,
    pub up: Linear<B>,
    pub down: Linear<B>,
    pub sub_norm: Option<Norm<B>>,
    /// `[1, d_ff]`, multiplies the inner activations (MPT under AWQ).
    pub sub_scale: Option<B::Tensor>,
    pub act: Act,
}

/// A mixture of experts with what every token passes besides.
pub struct MoeFfn<B: Backend> {
    pub router: Linear<B>,
    pub select_bias: Option<B::Tensor>,
    pub gate: Option<Experts<B>>,
    pub up: Experts<B>,
    pub merged: bool,
    pub down: Experts<B>,
    pub act: Act,
    pub weight_input: bool,
    pub shared: Option<Dense<B>>,
    /// Projections around the experts, whose width is another than the layer's (Nemotron 3).
    pub latent: Option<[Linear<B>; 2]>,
    /// Whether the router reads what the layer reads.
    pub early: bool,
    /// Factor on the sum of experts and shared part.
    pub mean: f32,
    /// Sigmoid of this scales the shared part (Qwen2 MoE).
    pub shared_router: Option<Linear<B>>,
}
