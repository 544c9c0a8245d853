//! The numbers of one model, from its configuration and its architecture's row.

use mlxr_compute::op::{Act, Gating, RopePairs, Window};

use crate::LoadError;
use crate::arch::{Alibi, Arch, EmbedScale, LogitScale, NoRope, Parallel, WindowLayers, WindowRope};
use crate::config::{self, Config};
use crate::rope::{self, RopeSpec, Scaling};

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
    pub n_head: Vec<usize>,
    pub n_kv_head: Vec<usize>,
    pub d_k: usize,
    pub d_v: usize,
    pub eps: f32,
    pub rope: RopeSpec,
    pub pairs: RopePairs,
    pub rotates: Vec<bool>,
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
}

/// How tokens choose experts.
#[derive(Debug, Clone, Copy)]
pub struct Router {
    pub n_expert: usize,
    pub n_used: usize,
    pub gating: Gating,
    pub normalize: bool,
    pub scale: f32,
    pub groups: Option<(usize, usize)>,
}

/// Widths of multi-head latent attention.
#[derive(Debug, Clone, Copy)]
pub struct Mla {
    pub kv_rank: usize,
    pub d_nope: usize,
    pub d_rope: usize,
    pub d_v: usize,
}

/// Widths of a state space layer.
#[derive(Debug, Clone, Copy)]
pub struct SsmShape {
    pub n_conv: usize,
    pub d_inner: usize,
    pub d_state: usize,
    pub n_head: usize,
    pub n_group: usize,
}

impl Hyper {
    /// Reads and checks everything. `n_ctx` is the context the caller asks for, if any.
    ///
    /// # Errors
    /// If a value is missing, of the wrong type or out of range.
    pub fn read(config: &Config<'_>, arch: &Arch, n_ctx: Option<usize>) -> Result<Hyper, LoadError> {
        let n_layer = config.need(config::N_LAYER, MAX_LAYERS)?;
        let d_model = config.need(config::D_MODEL, MAX_WIDTH)?;
        let trained = config.count(config::N_CTX)?.unwrap_or(2048).max(1);
        let n_head = config.counts(config::N_HEAD, n_layer)?.unwrap_or_else(|| vec![0; n_layer]);
        let n_kv_head = kv_heads(config, &n_head, n_layer)?;
        let heads = n_head.iter().copied().max().unwrap_or(0);
        if let Some(&bad) = n_head.iter().chain(&n_kv_head).find(|&&n| n > MAX_HEADS) {
            return Err(config.error(config::N_HEAD, bad, &format!("at most {MAX_HEADS}")));
        }
        for (&q, &kv) in n_head.iter().zip(&n_kv_head) {
            if kv > 0 && (q % kv != 0 || q < kv) {
                return Err(config.error(config::N_KV_HEAD, kv, &format!("a divisor of the {q} heads")));
            }
        }
        let mla = mla(config)?;
        let ssm = ssm(config, d_model)?;
        let d_head = d_model.checked_div(heads).unwrap_or(0);
        let d_k = match mla {
            Some(m) => m.d_nope + m.d_rope,
            None => config.count(config::D_K)?.filter(|&d| d > 0).unwrap_or(d_head),
        };
        let d_v = match mla {
            Some(m) => m.d_v,
            None => config.count(config::D_V)?.filter(|&d| d > 0).unwrap_or(d_k),
        };
        if d_k > MAX_WIDTH || d_v > MAX_WIDTH || (heads > 0 && ssm.is_none() && (d_k == 0 || d_v == 0)) {
            return Err(config.error(config::D_K, d_k.max(d_v), &format!("1 to {MAX_WIDTH}")));
        }
        let window = windows(config, arch, n_layer)?;
        let rope = rope_spec(config, arch, [d_k, trained, n_ctx.unwrap_or(trained)], mla)?;
        let wide = arch.wide_query_layers == n_layer && heads > 0;
        let natural = 1.0 / (if wide { d_model / heads } else { d_k.max(1) } as f32).sqrt();
        let scalar = config.nonzero(config::QUERY_SCALAR)?.map(|s| 1.0 / s.sqrt());
        let attn_scale = config.nonzero(config::ATTN_SCALE)?.or(scalar).unwrap_or(natural) * rope.attn_scale;
        Ok(Hyper {
            n_layer,
            n_ctx: n_ctx.unwrap_or(trained),
            d_model,
            rotates: rotating(config, arch, &window)?,
            attn_scale,
            attn_softcap: config.nonzero(config::ATTN_SOFTCAP)?.filter(|_| arch.softcaps[0]),
            final_softcap: config.nonzero(config::FINAL_SOFTCAP)?.filter(|_| arch.softcaps[1]),
            clamp_qkv: config.nonzero(config::CLAMP_KQV)?.filter(|&c| c > 0.0),
            alibi: match arch.alibi {
                Alibi::None => None,
                Alibi::Bias(bias) => Some(bias),
                Alibi::Config => config.nonzero(config::ALIBI_BIAS)?,
            },
            embed_scale: embed_scale(config, arch, d_model)?,
            logit_scale: logit_scale(config, arch, d_model)?,
            residual_scale: residual_scale(config, n_layer)?,
            parallel: parallel(config, arch),
            act: act(config, arch)?,
            eps: eps(config, arch)?,
            moe: router(config, arch)?,
            pairs: arch.pairs[usize::from(config.is_json())],
            n_head,
            n_kv_head,
            d_k,
            d_v,
            rope,
            window,
            mla,
            ssm,
        })
    }
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

fn eps(config: &Config<'_>, arch: &Arch) -> Result<f32, LoadError> {
    let [first, second] = match arch.norm {
        mlxr_compute::op::NormKind::Rms => [config::EPS_RMS, config::EPS_LAYER],
        mlxr_compute::op::NormKind::Layer => [config::EPS_LAYER, config::EPS_RMS],
    };
    Ok(config.nonzero(first)?.or(config.nonzero(second)?).unwrap_or(1e-5))
}

fn embed_scale(config: &Config<'_>, arch: &Arch, d_model: usize) -> Result<f32, LoadError> {
    Ok(match arch.embed_scale {
        EmbedScale::SqrtWidth => (d_model as f32).sqrt(),
        EmbedScale::Config => config.nonzero(config::EMBED_SCALE)?.unwrap_or(1.0),
    })
}

fn logit_scale(config: &Config<'_>, arch: &Arch, d_model: usize) -> Result<f32, LoadError> {
    if let Some(base) = config.nonzero(config::DIM_BASE)? {
        return Ok(base / d_model as f32); // MiniCPM
    }
    let scale = config.nonzero(config::LOGIT_SCALE)?.unwrap_or(1.0);
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

fn router(config: &Config<'_>, arch: &Arch) -> Result<Router, LoadError> {
    let n_expert = config.count(config::N_EXPERT)?.unwrap_or(0);
    let n_used = config.count(config::N_EXPERT_USED)?.unwrap_or(0);
    if n_expert > 0 && (n_used == 0 || n_used > n_expert || n_expert > MAX_HEADS) {
        return Err(config.error(config::N_EXPERT_USED, n_used, &format!("1 to the {n_expert} experts")));
    }
    let gating = match config.count(config::EXPERT_GATING).ok().flatten() {
        Some(1) => Gating::Softmax,
        Some(2) => Gating::Sigmoid,
        Some(3) => Gating::SoftmaxOfChosen,
        _ => match config.text(config::EXPERT_GATING) {
            Some("sigmoid") => Gating::Sigmoid,
            Some("softmax") => Gating::Softmax,
            _ => arch.gating,
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
    Ok(Router { n_expert, n_used, gating, normalize, scale, groups: grouped.then_some((groups, used)) })
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
    let n_head = config.need(config::SSM_HEADS, MAX_WIDTH)?;
    let d_inner = match config.count(config::SSM_INNER)? {
        Some(d) => d,
        None => match config.count(config::SSM_HEAD_DIM)? {
            Some(d_head) => n_head * d_head,
            None => d_model * config.count(config::SSM_EXPAND)?.unwrap_or(2),
        },
    };
    let n_group = config.count(config::SSM_GROUPS)?.filter(|&g| g > 0).unwrap_or(1);
    if d_inner == 0 || d_inner > MAX_WIDTH || d_inner % n_head != 0 || n_head % n_group != 0 || d_state > MAX_HEADS {
        return Err(config.error(config::SSM_HEADS, n_head, &format!("a divisor of {d_inner} in {n_group} groups")));
    }
    Ok(Some(SsmShape { n_conv, d_inner, d_state, n_head, n_group }))
}

fn windows(config: &Config<'_>, arch: &Arch, n_layer: usize) -> Result<Vec<Window>, LoadError> {
    let n = config.count(config::WINDOW)?.unwrap_or(0);
    if n == 0 || config.flag(config::USE_WINDOW) == Some(false) || arch.window == WindowLayers::None {
        return Ok(vec![Window::Full; n_layer]);
    }
    if config.texts(config::LAYER_TYPES).is_none()
        && matches!(arch.window, WindowLayers::PeriodIn(_, l) if l != n_layer)
    {
        return Ok(vec![Window::Full; n_layer]);
    }
    let n = u32::try_from(n).map_err(|_| config.error(config::WINDOW, n, "less than 2^32"))?;
    let sized = |windowed: bool| match (windowed, arch.window) {
        (false, _) => Window::Full,
        (true, WindowLayers::Chunked(_)) => Window::Chunked(n),
        (true, _) => Window::Sliding(n),
    };
    if let Some(types) = config.texts(config::LAYER_TYPES).filter(|t| t.len() == n_layer) {
        return Ok(types.iter().map(|t| sized(*t != "full_attention")).collect());
    }
    if let Some(list) = config.flags(config::WINDOW_PATTERN, n_layer)? {
        return Ok(list.into_iter().map(sized).collect());
    }
    let period = match arch.window {
        WindowLayers::Period(p) | WindowLayers::Chunked(p) | WindowLayers::PeriodIn(p, _) => {
            config.count(config::WINDOW_PATTERN)?.unwrap_or(p)
        }
        _ => 0,
    };
    Ok((0..n_layer).map(|i| sized(period == 0 || i % period < period - 1)).collect())
}

fn rotating(config: &Config<'_>, arch: &Arch, window: &[Window]) -> Result<Vec<bool>, LoadError> {
    let n_layer = window.len();
    if let Some(list) = config.flags(config::NO_ROPE_LAYERS, n_layer)? {
        return Ok(list); // 1: the layer rotates
    }
    Ok(match arch.no_rope {
        NoRope::Never => vec![true; n_layer],
        NoRope::Always => vec![false; n_layer],
        NoRope::Full if window.iter().all(|w| *w == Window::Full) => vec![true; n_layer],
        NoRope::Full => window.iter().map(|w| *w != Window::Full).collect(),
        NoRope::Every(n) => {
            let n = config.count(config::NO_ROPE_STEP)?.unwrap_or(n).max(1);
            (0..n_layer).map(|i| (i + 1) % n != 0).collect()
        }
    })
}

fn rope_spec(
    config: &Config<'_>,
    arch: &Arch,
    [d_k, trained, n_ctx]: [usize; 3],
    mla: Option<Mla>,
) -> Result<RopeSpec, LoadError> {
    let n_rot = match mla {
        Some(m) => m.d_rope,
        None => {
            let part = config.f32(config::PARTIAL_ROTARY)?.map(|f| (f * d_k as f32) as usize);
            config.count(config::N_ROT)?.filter(|&n| n > 0).or(part).unwrap_or(d_k)
        }
    };
    if n_rot > d_k || !n_rot.is_multiple_of(2) {
        return Err(config.error(config::N_ROT, n_rot, &format!("an even number up to {d_k}")));
    }
    let base = config.nonzero(config::ROPE_BASE)?.unwrap_or(10000.0);
    let original = config.count(config::ROPE_ORIGINAL)?.filter(|&n| n > 0).unwrap_or(trained);
    let (scaling, mscale, attn_scale) = rope::scaling(config, n_rot, n_ctx, original)?;
    let window_base = config.nonzero(config::ROPE_BASE_WINDOW)?;
    let (base_window, scale_window) = match arch.window_rope {
        WindowRope::Same => (window_base.unwrap_or(base), true),
        WindowRope::Plain(default) => (window_base.unwrap_or(if default == 0.0 { base } else { default }), false),
    };
    let original = if matches!(scaling, Scaling::Ntk(_)) { trained } else { original };
    let divisors = Vec::new();
    Ok(RopeSpec { n_rot, base, base_window, scale_window, scaling, original, mscale, attn_scale, divisors })
}
