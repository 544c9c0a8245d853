//! The numbers of one model, from its configuration and its architecture's row.

use mlxr_compute::op::{Act, Gating, NormKind, RopePairs, Window};

use crate::LoadError;
use crate::arch::{Alibi, Arch, EmbedScale, LogitScale, Parallel, Temperature};
use crate::config::{self, Config};
use crate::positions::{limited, rope_spec, rotating, temperature, windows};
use crate::rope::RopeSpec;

/// Limits on what a configuration may ask for.
const MAX_LAYERS: usize = 1024;
const MAX_WIDTH: usize = 1 << 20;
const MAX_HEADS: usize = 1 << 14;

/// The numbers of one model. Lists have an entry for each layer.
#[derive(Debug, Clone)]
pub struct Hyper {
    pub n_layer: usize,
    pub n_ctx: usize,
    pub d_model: usize,
    /// Numbers that attention reads: `d_model`, but where a layer reads another model's hidden state beside its own input.
    pub d_attn: usize,
    pub n_head: Vec<usize>,
    pub n_kv_head: Vec<usize>,
    pub d_k: usize,
    pub d_v: usize,
    pub norm: NormKind,
    pub eps: f32,
    pub rope: RopeSpec,
    pub pairs: RopePairs,
    pub rotates: Vec<bool>,
    /// Whether q and k of rotated layers are normed where no weight says so.
    pub qk_norm_plain: bool,
    pub window: Vec<Window>,
    pub attn_scale: f32,
    pub attn_softcap: Option<f32>,
    pub final_softcap: Option<f32>,
    pub clamp_qkv: Option<f32>,
    /// ALiBi's greatest bias.
    pub alibi: Option<f32>,
    pub embed_scale: f32,
    pub logit_scale: f32,
    pub residual_scale: f32,
    pub parallel: Parallel,
    pub act: Act,
    pub moe: Router,
    pub mla: Option<Mla>,
    pub ssm: Option<SsmShape>,
    pub delta: Option<DeltaShape>,
    /// Kernel of a short convolution (LFM2).
    pub n_short_conv: Option<usize>,
    /// Factor on values.
    pub value_scale: f32,
    /// Factors of Falcon-H1's Hugging Face files.
    pub factors: Factors,
    /// How queries of far positions grow.
    pub temperature: Option<Temperature>,
}

/// Factors on parts of a layer, which GGUF files hold in their weights. Source: modeling_falcon_h1.py.
#[derive(Debug, Clone, Copy)]
pub struct Factors {
    pub attn_in: f32,
    pub attn_key: f32,
    pub attn_out: f32,
    pub ssm_in: f32,
    /// Of z, x, b, c and dt.
    pub ssm_parts: [f32; 5],
    pub ssm_out: f32,
    /// Of the gate and of the output.
    pub ffn: [f32; 2],
}

impl Factors {
    /// None.
    pub const NONE: Factors = Factors {
        attn_in: 1.0,
        attn_key: 1.0,
        attn_out: 1.0,
        ssm_in: 1.0,
        ssm_parts: [1.0; 5],
        ssm_out: 1.0,
        ffn: [1.0; 2],
    };
}

/// How tokens choose experts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Router {
    pub n_expert: usize,
    pub n_used: usize,
    pub gating: Gating,
    pub normalize: bool,
    pub scale: f32,
    /// Whether the configuration says how tokens choose.
    pub stated: bool,
    pub groups: Option<(usize, usize)>,
}

/// Widths of multi-head latent attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mla {
    pub kv_rank: usize,
    pub d_nope: usize,
    pub d_rope: usize,
    pub d_v: usize,
}

/// Widths of a state space layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SsmShape {
    pub n_conv: usize,
    pub d_inner: usize,
    pub d_state: usize,
    /// 0 where the configuration has none (mamba 1).
    pub n_head: usize,
    pub n_group: usize,
}

/// Widths of a gated delta net.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeltaShape {
    pub n_conv: usize,
    pub n_head: usize,
    pub n_key_head: usize,
    pub d_k: usize,
    pub d_v: usize,
    /// Whether each channel decays for itself (Kimi).
    pub each_channel: bool,
    /// Kimi's gates: the decay is `bound * sigmoid(exp(a) x)`.
    pub bound: Option<f32>,
}

impl Hyper {
    /// Reads and checks everything. `n_ctx` is the context the caller asks for, if any.
    ///
    /// # Errors
    /// If a value is missing, of the wrong type or out of range.
    pub fn read(config: &Config<'_>, arch: &Arch, n_ctx: Option<usize>) -> Result<Hyper, LoadError> {
        Hyper::of_layers(config, arch, n_ctx, depth(config)?)
    }

    /// As [`Hyper::read`], of `n_layer` layers.
    pub(crate) fn of_layers(
        config: &Config<'_>,
        arch: &Arch,
        n_ctx: Option<usize>,
        n_layer: usize,
    ) -> Result<Hyper, LoadError> {
        let d_model = config.need(config::D_MODEL, MAX_WIDTH)?;
        let trained = config.count(config::N_CTX)?.unwrap_or(2048).max(1);
        let [n_head, n_kv_head] = head_counts(config, n_layer)?;
        let heads = n_head.iter().copied().max().unwrap_or(0);
        let mla = mla(config)?;
        let by_rms = arch.norm_by_eps && config.nonzero(config::EPS_RMS)?.is_some();
        let norm = if by_rms { NormKind::Rms } else { arch.norm };
        let (ssm, delta) = (ssm(config, d_model)?, delta(config)?);
        let attends = heads > 0 && ssm.is_none() && delta.is_none();
        let [d_k, d_v] = widths(config, mla, d_model.checked_div(heads).unwrap_or(0), attends)?;
        let window = windows(config, arch, n_layer)?;
        same_heads(config, &window)?;
        let rope = rope_spec(config, arch, [d_k, trained, n_ctx.unwrap_or(trained)], mla)?;
        let wide = arch.wide_query_layers == n_layer && heads > 0;
        let attn_scale = attn_scale(config, arch, if wide { d_model / heads } else { d_k })? * rope.attn_scale;
        Ok(Hyper {
            n_layer,
            n_ctx: limited(config, n_ctx.unwrap_or(trained))?,
            d_model,
            d_attn: d_model,
            rotates: rotating(config, arch, &window)?,
            qk_norm_plain: arch.qk_norm_plain && qk_norm(config)?,
            attn_scale,
            attn_softcap: config.nonzero(config::ATTN_SOFTCAP)?.filter(|_| arch.softcaps[0]),
            final_softcap: config.nonzero(config::FINAL_SOFTCAP)?.filter(|_| arch.softcaps[1]),
            clamp_qkv: config.nonzero(config::CLAMP_KQV)?.filter(|&c| c > 0.0),
            alibi: alibi(config, arch, n_layer)?,
            embed_scale: embed_scale(config, arch, d_model)?,
            logit_scale: logit_scale(config, arch, d_model)?,
            residual_scale: residual_scale(config, n_layer)?,
            parallel: parallel(config, arch),
            act: act(config, arch)?,
            norm,
            eps: eps(config, norm)?,
            moe: router(config, arch)?,
            pairs: pairs(config, arch)?,
            n_head,
            n_kv_head,
            d_k,
            d_v,
            rope,
            window,
            mla,
            ssm,
            delta,
            n_short_conv: config.count(config::SHORT_CONV)?.filter(|&n| n > 0),
            value_scale: config.nonzero(config::ATTN_VALUE_SCALE)?.unwrap_or(1.0),
            factors: factors(config)?,
            temperature: temperature(config, arch)?,
        })
    }
}

impl Hyper {
    /// Forgets all layers but one.
    pub(crate) fn keep_layer(&mut self, i: usize) {
        self.n_layer = 1;
        (self.n_head, self.n_kv_head) = (vec![self.n_head[i]], vec![self.n_kv_head[i]]);
        (self.rotates, self.window) = (vec![self.rotates[i]], vec![self.window[i]]);
    }

    /// Takes out the factors that mlx-lm has multiplied into weights, though it leaves them in the configuration. What
    /// is left of them goes to logits of tied embeddings. Source: mlx-lm `falcon_h1.py`, `sanitize` and `__call__`.
    pub(crate) fn fold_as_mlx(&mut self, tied: bool) {
        self.logit_scale = if tied { self.logit_scale / self.embed_scale } else { 1.0 };
        (self.embed_scale, self.factors) = (1.0, Factors::NONE);
    }
}

/// Layers that compute a token. GGUF counts those that predict further ones too.
pub(crate) fn depth(config: &Config<'_>) -> Result<usize, LoadError> {
    let n_next = config.count(config::N_NEXTN)?.unwrap_or(0);
    let kinds = config.texts(config::LAYER_KINDS).map(|kinds| kinds.len());
    let n_all = match kinds.filter(|n| (1..=MAX_LAYERS).contains(n)) {
        Some(n) => n,
        None => config.need(config::N_LAYER, MAX_LAYERS)?,
    };
    Ok(n_all.saturating_sub(n_next).max(1))
}

/// Heads of queries, and of keys and values, of each layer.
fn head_counts(config: &Config<'_>, n_layer: usize) -> Result<[Vec<usize>; 2], LoadError> {
    let n_head = config.counts(config::N_HEAD, n_layer)?.unwrap_or_else(|| vec![0; n_layer]);
    let n_kv_head = kv_heads(config, &n_head, n_layer)?;
    if let Some(&bad) = n_head.iter().chain(&n_kv_head).find(|&&n| n > MAX_HEADS) {
        return Err(config.error(config::N_HEAD, bad, &format!("at most {MAX_HEADS}")));
    }
    for (&q, &kv) in n_head.iter().zip(&n_kv_head) {
        if kv > 0 && (q % kv != 0 || q < kv) {
            return Err(config.error(config::N_KV_HEAD, kv, &format!("a divisor of the {q} heads")));
        }
    }
    Ok([n_head, n_kv_head])
}

/// Dimensions of a key and of a value; `attends` when all layers have them.
fn widths(config: &Config<'_>, mla: Option<Mla>, d_head: usize, attends: bool) -> Result<[usize; 2], LoadError> {
    let given = |key| Ok::<_, LoadError>(config.count(key)?.filter(|&d| d > 0));
    let [d_k, d_v] = match mla {
        Some(m) => [m.d_nope + m.d_rope, m.d_v],
        None => {
            let d_k = given(config::D_K)?.unwrap_or(d_head);
            [d_k, given(config::D_V)?.unwrap_or(d_k)]
        }
    };
    if d_k > MAX_WIDTH || d_v > MAX_WIDTH || (attends && (d_k == 0 || d_v == 0)) {
        return Err(config.error(config::D_K, d_k.max(d_v), &format!("1 to {MAX_WIDTH}")));
    }
    Ok([d_k, d_v])
}

/// Refuses layers with windows whose heads have other widths.
fn same_heads(config: &Config<'_>, window: &[Window]) -> Result<(), LoadError> {
    let all = config.count(config::D_K)?;
    let other = config.count(config::D_K_WINDOW)?.filter(|&d| d > 0 && Some(d) != all);
    match other.filter(|_| window.iter().any(|w| *w != Window::Full)) {
        Some(d) => Err(config.error(config::D_K_WINDOW, d, "the width of the other layers' heads")),
        None => Ok(()),
    }
}

/// Factor on scores of keys of `d` dimensions.
fn attn_scale(config: &Config<'_>, arch: &Arch, d: usize) -> Result<f32, LoadError> {
    let root = 1.0 / (d.max(1) as f32).sqrt();
    let natural = if arch.scale_by_width { root * root } else { root };
    let scalar = config.nonzero(config::QUERY_SCALAR)?.map(|s| 1.0 / s.sqrt());
    let given = config.nonzero(config::ATTN_SCALE)?.or(config.nonzero(config::ATTN_OUT_SCALE)?);
    Ok(given.or(scalar).unwrap_or(natural))
}

fn alibi(config: &Config<'_>, arch: &Arch, n_layer: usize) -> Result<Option<f32>, LoadError> {
    Ok(match arch.alibi {
        Alibi::None => None,
        Alibi::Bias(bias) => Some(bias),
        Alibi::InDepth(depth, bias) => (depth == n_layer).then_some(bias),
        Alibi::Config => config.nonzero(config::ALIBI_BIAS)?,
    })
}

fn pairs(config: &Config<'_>, arch: &Arch) -> Result<RopePairs, LoadError> {
    let sections = if arch.sections_halve { config.flags(config::ROPE_SECTIONS, 4)? } else { None };
    match sections.is_some_and(|s| s.contains(&true)) {
        true => Ok(RopePairs::HalfSplit),
        false => Ok(arch.pairs[usize::from(config.is_json())]),
    }
}

fn factors(config: &Config<'_>) -> Result<Factors, LoadError> {
    let one = |key| Ok::<_, LoadError>(config.f32(key)?.unwrap_or(1.0));
    let parts = config.numbers(config::SSM_IN_FACTORS).unwrap_or_else(|| vec![1.0; 5]);
    let ffn = config.numbers(config::FFN_FACTORS).unwrap_or_else(|| vec![1.0; 2]);
    let wrong = |key, n: usize| config.error(key, format!("{n} numbers"), "one for each part");
    Ok(Factors {
        attn_in: one(config::ATTN_IN_FACTOR)?,
        attn_key: one(config::ATTN_KEY_FACTOR)?,
        attn_out: one(config::ATTN_OUT_FACTOR)?,
        ssm_in: one(config::SSM_IN_FACTOR)?,
        ssm_parts: parts.try_into().map_err(|p: Vec<f32>| wrong(config::SSM_IN_FACTORS, p.len()))?,
        ssm_out: one(config::SSM_OUT_FACTOR)?,
        ffn: ffn.try_into().map_err(|p: Vec<f32>| wrong(config::FFN_FACTORS, p.len()))?,
    })
}

fn kv_heads(config: &Config<'_>, n_head: &[usize], n_layer: usize) -> Result<Vec<usize>, LoadError> {
    // Falcon 7B: one head of keys and values for all, unless the new decoder lists them.
    if config.flag(config::MULTI_QUERY) == Some(true) && config.flag(config::NEW_DECODER) != Some(true) {
        return Ok(vec![1; n_layer]);
    }
    let listed = config.counts(config::N_KV_HEAD, n_layer)?;
    Ok(listed
        .unwrap_or_else(|| n_head.to_vec())
        .into_iter()
        .zip(n_head)
        .map(|(kv, &q)| if kv == 0 { q } else { kv })
        .collect())
}

fn eps(config: &Config<'_>, norm: NormKind) -> Result<f32, LoadError> {
    let [first, second] = match norm {
        NormKind::Rms => [config::EPS_RMS, config::EPS_LAYER],
        NormKind::Layer => [config::EPS_LAYER, config::EPS_RMS],
    };
    Ok(config.nonzero(first)?.or(config.nonzero(second)?).unwrap_or(1e-5))
}

fn embed_scale(config: &Config<'_>, arch: &Arch, d_model: usize) -> Result<f32, LoadError> {
    Ok(match arch.embed_scale {
        EmbedScale::SqrtWidth if config.flag(config::MUP) == Some(false) => 1.0,
        EmbedScale::SqrtWidth => (d_model as f32).sqrt(),
        EmbedScale::Config => config.nonzero(config::EMBED_SCALE)?.unwrap_or(1.0),
    })
}

fn logit_scale(config: &Config<'_>, arch: &Arch, d_model: usize) -> Result<f32, LoadError> {
    let Some(scale) = config.nonzero(config::LOGIT_SCALE)? else {
        return Ok(config.nonzero(config::DIM_BASE)?.map_or(1.0, |base| base / d_model as f32)); // MiniCPM
    };
    Ok(match arch.logit_scale {
        LogitScale::Multiply => scale,
        LogitScale::Divide => 1.0 / scale,
    })
}

fn residual_scale(config: &Config<'_>, n_layer: usize) -> Result<f32, LoadError> {
    let depth = config.nonzero(config::SCALE_DEPTH)?.map(|s| s / (n_layer as f32).sqrt()); // MiniCPM
    Ok(config.nonzero(config::RESIDUAL_SCALE)?.or(depth).unwrap_or(1.0))
}

fn parallel(config: &Config<'_>, arch: &Arch) -> Parallel {
    let given = match arch.parallel {
        Parallel::Config => Some(config.flag(config::PARALLEL).unwrap_or(true)),
        Parallel::Yes if config.flag(config::NEW_DECODER) != Some(true) => config.flag(config::PARALLEL_FALCON),
        _ => None,
    };
    match given {
        Some(true) => Parallel::Yes,
        Some(false) => Parallel::No,
        None => arch.parallel,
    }
}

fn act(config: &Config<'_>, arch: &Arch) -> Result<Act, LoadError> {
    // gpt-oss says "silu" and means its own; Gemma's first files say "gelu" and mean tanh.
    let fixed = matches!(arch.act, Act::SwigluOai { .. }) || arch.embed_scale == EmbedScale::SqrtWidth;
    let Some(name) = config.text(config::ACT).filter(|_| !fixed) else { return Ok(arch.act) };
    Ok(match name {
        "silu" | "swish" | "swiglu" => Act::Silu,
        "gelu" => Act::GeluErf,
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_tanh" => Act::GeluTanh,
        "quick_gelu" => Act::GeluQuick,
        "relu" => Act::Relu,
        "relu2" | "relu_squared" => Act::ReluSquared,
        _ => return Err(config.error(config::ACT, name, "silu, gelu, gelu_new, quick_gelu, relu or relu2")),
    })
}

/// Whether Llama 4 norms q and k. GGUF's runtime knows the model that does not (Maverick) by its 128 experts.
/// Source: `llama4.cpp` @ d99724f2.
fn qk_norm(config: &Config<'_>) -> Result<bool, LoadError> {
    let n_expert = config.count(config::N_EXPERT)?.unwrap_or(0);
    Ok(config.flag(config::QK_NORM).unwrap_or(n_expert != 128))
}

fn router(config: &Config<'_>, arch: &Arch) -> Result<Router, LoadError> {
    let n_expert = config.count(config::N_EXPERT)?.unwrap_or(0);
    let n_used = config.count(config::N_EXPERT_USED)?.unwrap_or(0);
    if n_expert > 0 && (n_used == 0 || n_used > n_expert || n_expert > MAX_HEADS) {
        return Err(config.error(config::N_EXPERT_USED, n_used, &format!("1 to the {n_expert} experts")));
    }
    let stated = match config.count(config::EXPERT_GATING).ok().flatten() {
        Some(1) => Some(Gating::Softmax),
        Some(2) => Some(Gating::Sigmoid),
        Some(3) => Some(Gating::SoftmaxOfChosen),
        Some(n) if n > 0 => {
            return Err(config.error(
                config::EXPERT_GATING,
                n,
                "1 (softmax), 2 (sigmoid) or 3 (softmax of the chosen)",
            ));
        }
        _ => match config.text(config::EXPERT_GATING) {
            Some("sigmoid") => Some(Gating::Sigmoid),
            Some("softmax") => Some(Gating::Softmax),
            _ => None,
        },
    };
    let groups = config.count(config::EXPERT_GROUPS)?.unwrap_or(0);
    let used = config.count(config::EXPERT_GROUPS_USED)?.unwrap_or(0);
    let grouped = groups > 1 && used > 0;
    if grouped && (n_expert % groups != 0 || used > groups || n_expert / groups * used < n_used) {
        return Err(config.error(config::EXPERT_GROUPS, groups, &format!("a divisor of the {n_expert} experts")));
    }
    // GGUF files of architectures that always normalize may say false.
    let said = config.flag(config::EXPERT_NORMALIZE);
    let normalize =
        if config.is_json() { said.unwrap_or(arch.normalize) } else { arch.normalize || said == Some(true) };
    let scale = config.nonzero(config::EXPERT_SCALE)?.unwrap_or(1.0);
    let (gating, stated) = (stated.unwrap_or(arch.gating), stated.is_some());
    Ok(Router { n_expert, n_used, gating, stated, normalize, scale, groups: grouped.then_some((groups, used)) })
}

fn mla(config: &Config<'_>) -> Result<Option<Mla>, LoadError> {
    let Some(kv_rank) = config.count(config::KV_RANK)?.filter(|&r| r > 0) else { return Ok(None) };
    let d_rope = config.need(config::D_ROPE_MLA, MAX_WIDTH)?;
    let d_v = match config.count(config::D_V_MLA)?.filter(|&d| d > 0) {
        Some(d) => d,
        None => config.need(config::D_V, MAX_WIDTH)?,
    };
    let d_nope = match config.count(config::D_NOPE_MLA)? {
        Some(d) => d,
        None => {
            let mla = config.count(config::D_K_MLA)?.filter(|&d| d > 0);
            let d_k = mla.map_or_else(|| config.need(config::D_K, MAX_WIDTH), Ok)?;
            d_k.checked_sub(d_rope).ok_or_else(|| config.error(config::D_K_MLA, d_k, &format!("at least {d_rope}")))?
        }
    };
    if kv_rank > MAX_WIDTH || d_v > MAX_WIDTH || d_nope > MAX_WIDTH {
        return Err(config.error(config::KV_RANK, kv_rank, &format!("widths up to {MAX_WIDTH}")));
    }
    Ok(Some(Mla { kv_rank, d_nope, d_rope, d_v }))
}

fn ssm(config: &Config<'_>, d_model: usize) -> Result<Option<SsmShape>, LoadError> {
    let Some(d_state) = config.count(config::SSM_STATE)?.filter(|&d| d > 0) else { return Ok(None) };
    let n_conv = config.need(config::SSM_CONV, 64)?;
    let n_head = config.count(config::SSM_HEADS)?.unwrap_or(0);
    let d_inner = match (config.count(config::SSM_INNER)?, config.count(config::SSM_HEAD_DIM)?) {
        (Some(d), _) => d,
        (None, Some(d_head)) if n_head > 0 => n_head.saturating_mul(d_head),
        _ => d_model * config.count(config::SSM_EXPAND)?.unwrap_or(2),
    };
    let n_group = config.count(config::SSM_GROUPS)?.filter(|&g| g > 0).unwrap_or(1);
    if d_inner == 0 || d_inner > MAX_WIDTH || d_state > MAX_HEADS || n_group > MAX_HEADS {
        return Err(config.error(config::SSM_INNER, d_inner, &format!("1 to {MAX_WIDTH}, states up to {MAX_HEADS}")));
    }
    Ok(Some(SsmShape { n_conv, d_inner, d_state, n_head, n_group }))
}

fn delta(config: &Config<'_>) -> Result<Option<DeltaShape>, LoadError> {
    let kda = config.count(config::KDA_D_HEAD)?.filter(|&d| d > 0);
    let (d_k, d_v) = match kda {
        Some(d) => (d, d),
        None => {
            let Some(d_k) = config.count(config::DELTA_D_K)?.filter(|&d| d > 0) else { return Ok(None) };
            (d_k, config.need(config::DELTA_D_V, MAX_HEADS)?)
        }
    };
    let n_conv = config.need(config::DELTA_CONV, 64)?;
    let n_head = config.count(config::DELTA_HEADS)?.unwrap_or(0);
    let n_key_head = config.count(config::DELTA_KEY_HEADS)?.unwrap_or(n_head);
    if d_k > MAX_HEADS || n_head > MAX_HEADS || (kda.is_none() && n_key_head > 0 && n_head % n_key_head != 0) {
        return Err(config.error(config::DELTA_KEY_HEADS, n_key_head, &format!("a divisor of the {n_head} heads")));
    }
    let safe = config.flag(config::KDA_SAFE) == Some(true);
    let bound = if safe { config.f32(config::KDA_BOUND)? } else { None };
    Ok(Some(DeltaShape { n_conv, n_head, n_key_head, d_k, d_v, each_channel: kda.is_some(), bound }))
}
