//! A model's numbers as GGUF metadata.
//!
//! What is written is read back as loading will read it: where a number then differs from the source's, an optional key
//! is added; what still differs is a loss that is told.

use mlxr_compute::op::{Act, Gating, NormKind, Window};
use mlxr_weights::Metadata;
use mlxr_weights::gguf::{Array, Value};

use super::recipe::Target;
use super::{Form, Source, gguf_name, hybrid, indexer, target_arch};
use crate::LoadError;
use crate::arch::{Arch, LogitScale, NoRope, Parallel};
use crate::config::{self, Config, Key};
use crate::hyper::{Hyper, Router};
use crate::names::Role;
use crate::rope::{Scaling, yarn_mscale};

/// Metadata of one architecture.
pub(super) struct Writer<'a> {
    meta: Metadata,
    name: String,
    pub hyper: &'a Hyper,
}

impl Writer<'_> {
    pub fn set(&mut self, key: Key, value: Value) {
        self.meta.set(&format!("{}.{}", self.name, key.gguf()), value);
    }

    pub fn count(&mut self, key: Key, n: usize) {
        self.set(key, Value::U32(n as u32));
    }

    fn number(&mut self, key: Key, x: f32) {
        self.set(key, Value::F32(x));
    }

    /// One count if all layers have the same, else a list.
    pub fn counts(&mut self, key: Key, list: &[usize]) {
        match list {
            [first, rest @ ..] if rest.iter().all(|n| n == first) => self.count(key, *first),
            _ => self.set(key, Value::Array(Array::U32(list.iter().map(|n| *n as u32).collect()))),
        }
    }
}

/// The metadata, and what it cannot say.
pub(super) fn write(source: &Source<'_>, targets: &[Target]) -> Result<(Metadata, Vec<String>), LoadError> {
    let (name, arch) = (gguf_name(source)?, target_arch(source, Form::Gguf)?);
    let path = source.checkpoint.path();
    let mut writer = Writer { meta: Metadata::new(path), name: name.clone(), hyper: &source.hyper };
    writer.meta.set("general.architecture", Value::Str(name.clone()));
    writer.meta.set("general.type", Value::Str("model".into()));
    writer.shape(source, arch, targets);
    writer.attention(arch, targets);
    writer.rope(source, arch);
    writer.experts(source, targets);
    hybrid::metadata(&mut writer, source, targets);
    indexer::metadata(&mut writer, source, targets);
    let read = |meta: &Metadata| {
        let config = Config::of_metadata(meta, path, &name).with_defaults(arch.defaults);
        Hyper::read(&config, arch, None)
    };
    let found = read(&writer.meta)?;
    writer.corrections(arch, &found);
    let found = read(&writer.meta)?;
    let mut losses = differences(&source.hyper, &found);
    losses.extend(hybrid::losses(source));
    Ok((writer.meta, losses))
}

impl Writer<'_> {
    fn shape(&mut self, source: &Source<'_>, arch: &Arch, targets: &[Target]) {
        let hyper = self.hyper;
        self.count(config::N_LAYER, hyper.n_layer);
        self.count(config::N_CTX, hyper.n_ctx);
        self.count(config::D_MODEL, hyper.d_model);
        if let Some(embed) = targets.iter().find(|t| t.role == Role::Embed) {
            self.count(config::N_VOCAB, embed.shape[0]);
        }
        // The runtime wants a rank of queries, 0 where they have none.
        let rank = targets.iter().find(|t| t.role == Role::QA).map(|t| t.shape[0]);
        if let Some(rank) = rank.or(hyper.mla.map(|_| 0)) {
            self.count(config::Q_RANK, rank);
        }
        let widths = widths(hyper.n_layer, targets);
        let experts = hybrid::layers(hyper.n_layer, targets, |t| t.role == Role::ExpDown);
        let none = widths.iter().all(|n| *n == 0) && !experts.contains(&true);
        let listed = source.config.count(config::D_FF).ok().flatten();
        let usual = listed.or(widths.iter().copied().find(|n| *n > 0)).filter(|_| !none).unwrap_or(0);
        let d_expert = targets.iter().find(|t| t.role == Role::ExpDown).and_then(|t| t.shape.last().copied());
        let width = |(n, expert): (usize, bool)| match n {
            0 if arch.single_part && expert => d_expert.unwrap_or(0),
            0 if arch.single_part => 0,
            0 => usual,
            n => n,
        };
        let widths: Vec<usize> = widths.into_iter().zip(experts).map(width).collect();
        self.counts(config::D_FF, &widths);
        let eps = if hyper.norm == NormKind::Rms { config::EPS_RMS } else { config::EPS_LAYER };
        self.number(eps, hyper.eps);
        if arch.norm != hyper.norm || arch.single_part {
            self.number(config::EPS_RMS, hyper.eps);
            self.number(config::EPS_LAYER, hyper.eps);
        }
    }

    fn attention(&mut self, arch: &Arch, targets: &[Target]) {
        let hyper = self.hyper;
        if hyper.n_head.iter().all(|n| *n == 0) {
            self.count(config::N_HEAD, 0);
            return;
        }
        self.counts(config::N_HEAD, &hyper.n_head);
        match hyper.mla {
            Some(mla) if arch.joint_kv_b => {
                self.counts(config::N_KV_HEAD, &hyper.n_head);
                self.count(config::KV_RANK, mla.kv_rank);
                self.count(config::D_K, mla.d_nope + mla.d_rope);
                self.count(config::D_V, mla.d_v);
            }
            // One head of keys for all: the latent one.
            Some(mla) => {
                self.counts(config::N_KV_HEAD, &hybrid::kv_heads(hyper, &vec![1; hyper.n_layer], targets));
                self.count(config::KV_RANK, mla.kv_rank);
                self.count(config::D_K, mla.kv_rank + mla.d_rope);
                self.count(config::D_V, mla.kv_rank);
                self.count(config::D_K_MLA, mla.d_nope + mla.d_rope);
                self.count(config::D_V_MLA, mla.d_v);
            }
            None => {
                self.counts(config::N_KV_HEAD, &hybrid::kv_heads(hyper, &hyper.n_kv_head, targets));
                self.count(config::D_K, hyper.d_k);
                self.count(config::D_V, hyper.d_v);
            }
        }
        let window = hyper.window.iter().find_map(|w| match w {
            Window::Full => None,
            Window::Sliding(n) | Window::Chunked(n) => Some(*n),
        });
        if let Some(n) = window {
            let chunked = hyper.window.iter().any(|w| matches!(w, Window::Chunked(_)));
            self.count(config::WINDOW, n as usize);
            if chunked {
                self.meta.set(&format!("{}.attention.chunk_size", self.name), Value::U32(n));
            }
        }
        let factors = [
            (config::ATTN_SOFTCAP, hyper.attn_softcap),
            (config::FINAL_SOFTCAP, hyper.final_softcap),
            (config::CLAMP_KQV, hyper.clamp_qkv),
            (config::ALIBI_BIAS, hyper.alibi),
        ];
        for (key, value) in factors {
            if let Some(value) = value {
                self.number(key, value);
            }
        }
        if let Some(temperature) = hyper.temperature {
            self.number(config::TEMPERATURE, temperature.scale);
            self.count(config::TEMPERATURE_FLOOR, temperature.floor as usize);
        }
        if arch.parallel == Parallel::Config {
            self.set(config::PARALLEL, Value::Bool(hyper.parallel == Parallel::Yes));
        }
    }

    fn rope(&mut self, source: &Source<'_>, arch: &Arch) {
        let rope = &self.hyper.rope;
        if self.hyper.n_head.iter().all(|n| *n == 0) {
            return;
        }
        if matches!(arch.no_rope, NoRope::ByConfig(_)) {
            self.set(config::ROPE_ON, Value::Bool(self.hyper.rotates.contains(&true)));
        }
        let said = source.config.numbers(config::SECTIONS).map(|list| list.iter().map(|n| *n as u32).collect());
        // Where the configuration names none, they are of text: pairs take turns among them, and each has to have its turn,
        // since what none has does not rotate.
        let n_pair = rope.n_rot as u32 / 2;
        let fits = |list: &[u32; 4]| list.iter().sum::<u32>() <= n_pair;
        let turns = [n_pair.div_ceil(3), (n_pair + 1) / 3, n_pair / 3, 0];
        let usual = arch.sections.map(|list| if fits(&list) { list } else { turns });
        if let Some(mut sections) = said.or(usual.map(|list| list.to_vec())) {
            sections.resize(4, 0);
            self.set(config::SECTIONS, Value::Array(Array::U32(sections)));
        }
        self.count(config::N_ROT, rope.n_rot);
        self.number(config::ROPE_BASE, rope.base);
        if rope.base_window != rope.base {
            self.number(config::ROPE_BASE_WINDOW, rope.base_window);
        }
        let kind = |this: &mut Self, kind: &str| this.set(config::ROPE_KIND, Value::Str(kind.into()));
        match &rope.scaling {
            Scaling::None | Scaling::Ntk(_) => {}
            // The divisors are a tensor; this is for the way back.
            Scaling::Llama3 { .. } => self.count(config::ROPE_ORIGINAL, rope.original),
            Scaling::Linear(factor) => {
                kind(self, "linear");
                self.number(config::ROPE_FACTOR, *factor);
            }
            Scaling::Yarn(yarn) => {
                kind(self, "yarn");
                self.number(config::ROPE_FACTOR, yarn.factor);
                self.count(config::ROPE_ORIGINAL, rope.original);
                self.number(config::ROPE_BETA_FAST, yarn.beta_fast);
                self.number(config::ROPE_BETA_SLOW, yarn.beta_slow);
                if !yarn.truncate {
                    self.set(config::ROPE_TRUNCATE, Value::Bool(false));
                }
                // The factor on attention's scale gives mscale_all_dim back.
                let log = yarn.factor.ln();
                let all = if rope.attn_scale == 1.0 { 0.0 } else { (rope.attn_scale.sqrt() - 1.0) / log };
                let usual = yarn_mscale(yarn.factor, 1.0);
                if all != 0.0 {
                    self.number(config::ROPE_LOG_MUL, all);
                } else if (rope.mscale - usual).abs() > 1e-6 {
                    self.number(config::ROPE_ATTN_FACTOR, rope.mscale / usual);
                }
            }
            Scaling::Long { .. } => {
                kind(self, "longrope");
                self.number(config::ROPE_ATTN_FACTOR, rope.mscale);
                self.count(config::ROPE_ORIGINAL, rope.original);
            }
        }
    }

    fn experts(&mut self, source: &Source<'_>, targets: &[Target]) {
        let moe = &self.hyper.moe;
        if moe.n_expert == 0 {
            return;
        }
        self.count(config::N_EXPERT, moe.n_expert);
        self.count(config::N_EXPERT_USED, moe.n_used);
        let gating = match moe.gating {
            Gating::Softmax | Gating::SparseMixer => 1,
            Gating::Sigmoid => 2,
            Gating::SoftmaxOfChosen => 3,
        };
        self.count(config::EXPERT_GATING, gating);
        self.set(config::EXPERT_NORMALIZE, Value::Bool(moe.normalize));
        if moe.scale != 1.0 {
            self.number(config::EXPERT_SCALE, moe.scale);
        }
        if let Some((groups, used)) = moe.groups {
            self.count(config::EXPERT_GROUPS, groups);
            self.count(config::EXPERT_GROUPS_USED, used);
        }
        let first = |role| targets.iter().find(|t| t.role == role);
        let d_ff = first(Role::ExpDown).and_then(|t| t.shape.last()).copied().unwrap_or(0);
        self.count(config::D_FF_EXPERT, d_ff);
        if let Some(shared) = first(Role::ShDown).and_then(|t| t.shape.last()).copied() {
            let n = source.config.count(config::N_EXPERT_SHARED).ok().flatten();
            self.count(config::N_EXPERT_SHARED, n.unwrap_or_else(|| shared.div_ceil(d_ff.max(1))));
            self.count(config::D_FF_SHARED, shared);
        }
        let sparse = |t: &&Target| t.role == Role::Router;
        let layer = |t: &Target| t.name.split('.').nth(1).and_then(|n| n.parse::<usize>().ok());
        let leading = targets.iter().filter(sparse).filter_map(layer).min().unwrap_or(0);
        self.count(config::N_DENSE, leading);
        if let Some(step) = source.config.count(config::MOE_STEP).ok().flatten() {
            self.count(config::MOE_STEP, step);
        }
        if let Some(width) = first(Role::LatentDown).map(|t| t.shape[0]) {
            self.count(config::MOE_LATENT, width);
        }
    }

    /// Optional keys for what the architecture's own rules would make otherwise.
    fn corrections(&mut self, arch: &Arch, found: &Hyper) {
        let hyper = self.hyper;
        if let (true, Some(text)) = (hyper.act != found.act, act_text(hyper.act)) {
            self.set(config::ACT, Value::Str(text.into()));
        }
        if hyper.window != found.window {
            let list = hyper.window.iter().map(|w| *w != Window::Full).collect();
            self.set(config::WINDOW_PATTERN, Value::Array(Array::Bool(list)));
        }
        if (hyper.attn_scale - found.attn_scale).abs() > 1e-6 * hyper.attn_scale {
            self.number(config::ATTN_SCALE, hyper.attn_scale / hyper.rope.attn_scale);
        }
        if hyper.embed_scale != found.embed_scale {
            self.number(config::EMBED_SCALE, hyper.embed_scale);
        }
        if hyper.residual_scale != found.residual_scale {
            self.number(config::RESIDUAL_SCALE, hyper.residual_scale);
        }
        let divide = arch.logit_scale == LogitScale::Divide; // whose runtime wants the key even where it is 1
        if hyper.logit_scale != found.logit_scale || divide {
            self.number(config::LOGIT_SCALE, if divide { 1.0 / hyper.logit_scale } else { hyper.logit_scale });
        }
        if hyper.rotates != found.rotates {
            let list = hyper.rotates.clone();
            self.set(config::NO_ROPE_LAYERS, Value::Array(Array::Bool(list)));
        }
    }
}

/// Its name in a configuration.
pub(super) fn act_text(act: Act) -> Option<&'static str> {
    match act {
        Act::Silu => Some("silu"),
        Act::GeluErf => Some("gelu"),
        Act::GeluTanh => Some("gelu_pytorch_tanh"),
        Act::GeluQuick => Some("quick_gelu"),
        Act::Relu => Some("relu"),
        Act::ReluSquared => Some("relu2"),
        Act::SwigluOai { .. } | Act::Sigmoid | Act::Tanh | Act::Softplus | Act::Clamp(_) => None,
    }
}

/// Width of each layer's dense feed-forward, 0 where there is none.
pub(super) fn widths(n_layer: usize, targets: &[Target]) -> Vec<usize> {
    let mut widths = vec![0; n_layer];
    for target in targets.iter().filter(|t| t.role == Role::FfnDown && t.shape.len() == 2) {
        let layer = target.name.split('.').find_map(|part| part.parse::<usize>().ok());
        if let Some(width) = layer.and_then(|i| widths.get_mut(i)) {
            *width = target.n_in();
        }
    }
    widths
}

/// What two models compute differently, but for what the tensors of a file say again.
pub(super) fn differences(want: &Hyper, found: &Hyper) -> Vec<String> {
    let near = |a: f32, b: f32| (a - b).abs() <= 2e-6 * a.abs().max(b.abs());
    let mut list = Vec::new();
    let mut check = |same: bool, name: &str, want: String, found: String| {
        if !same {
            list.push(format!("{name}: {want}, read back as {found}"));
        }
    };
    check(want.act == found.act, "activation", format!("{:?}", want.act), format!("{:?}", found.act));
    check(want.window == found.window, "windows", format!("{:?}", want.window), format!("{:?}", found.window));
    check(want.rotates == found.rotates, "rotation", format!("{:?}", want.rotates), format!("{:?}", found.rotates));
    check(want.alibi == found.alibi, "alibi", format!("{:?}", want.alibi), format!("{:?}", found.alibi));
    check(want.parallel == found.parallel, "parallel", format!("{:?}", want.parallel), format!("{:?}", found.parallel));
    check(want.norm == found.norm, "norms", format!("{:?}", want.norm), format!("{:?}", found.norm));
    let text = |h: &Hyper| h.qk_norm_plain.to_string();
    check(text(want) == text(found), "norms of q and k without weights", text(want), text(found));
    let text = |h: &Hyper| format!("{:?}", h.temperature);
    check(text(want) == text(found), "growth of queries", text(want), text(found));
    let text = |h: &Hyper| format!("{} {}", h.value_scale, hybrid::state(want, h));
    check(text(want) == text(found), "factor on values, states", text(want), text(found));
    let scaling = |s: &Scaling| match s {
        Scaling::Llama3 { .. } => Scaling::None, // a tensor of the file
        Scaling::Long { .. } => Scaling::Long { short: Vec::new(), long: Vec::new() },
        other => other.clone(),
    };
    let (a, b) = (scaling(&want.rope.scaling), scaling(&found.rope.scaling));
    check(a == b, "rope scaling", format!("{a:?}"), format!("{b:?}"));
    let moe = |h: &Hyper| format!("{:?}", h.moe);
    let stated = Router { stated: want.moe.stated, ..found.moe };
    check(want.moe == stated, "routing", moe(want), moe(found));
    let numbers = [
        ("epsilon", want.eps, found.eps),
        ("attention scale", want.attn_scale, found.attn_scale),
        ("embedding scale", want.embed_scale, found.embed_scale),
        ("logit scale", want.logit_scale, found.logit_scale),
        ("residual scale", want.residual_scale, found.residual_scale),
        ("rope base", want.rope.base, found.rope.base),
        ("rope base of windows", want.rope.base_window, found.rope.base_window),
        ("rope factor", want.rope.mscale, found.rope.mscale),
        ("attention soft cap", want.attn_softcap.unwrap_or(0.0), found.attn_softcap.unwrap_or(0.0)),
        ("logit soft cap", want.final_softcap.unwrap_or(0.0), found.final_softcap.unwrap_or(0.0)),
        ("clamp of q, k, v", want.clamp_qkv.unwrap_or(0.0), found.clamp_qkv.unwrap_or(0.0)),
    ];
    for (name, a, b) in numbers {
        check(near(a, b), name, a.to_string(), b.to_string());
    }
    list
}
