//! A model's numbers as `config.json`.
//!
//! A folder's own file is kept, but for its quantization. One of a GGUF file is written from its numbers and read back
//! as loading will read it: what then differs is a loss that is told.

use mlxr_compute::op::{Gating, Window};
use serde_json::{Map, Value, json};

use super::metadata::{act_text, differences, widths};
use super::recipe::Target;
use super::{Form, Source, hybrid, indexer, target_arch};
use crate::LoadError;
use crate::arch::{Arch, EmbedScale, LogitScale, NoRope, Parallel};
use crate::config::{self, Config, Key};
use crate::hyper::Hyper;
use crate::names::Role;
use crate::rope::{RopeSpec, Scaling, yarn_mscale};
use crate::style;

/// The configuration, and what it cannot say.
pub(super) fn write(source: &Source<'_>, targets: &[Target]) -> Result<(Value, Vec<String>), LoadError> {
    if let Some(config) = source.checkpoint.config() {
        let mut config = config.clone();
        if let Some(fields) = config.as_object_mut() {
            fields.remove("quantization");
            fields.remove("quantization_config");
        }
        return Ok((config, Vec::new()));
    }
    let arch = target_arch(source, Form::HuggingFace)?;
    let class = class(source, arch)?;
    let mut writer = Writer { fields: Map::new(), hyper: &source.hyper };
    writer.fields.insert("architectures".into(), json!([class]));
    writer.fields.insert("model_type".into(), model_type(class).into());
    writer.shape(source, targets);
    writer.attention(arch, targets);
    writer.experts(targets);
    let wanted = writer.rope(source)?;
    let path = source.checkpoint.path();
    let read = |fields: &Map<String, Value>| {
        let json = Value::Object(fields.clone());
        Hyper::read(&Config::of_json(source.checkpoint.meta(), path, &json).with_defaults(arch.defaults), arch, None)
    };
    let found = read(&writer.fields)?;
    writer.corrections(arch, &found);
    writer.of_class(model_type(class).as_str(), targets);
    let found = read(&writer.fields)?;
    let losses = differences(&wanted, &found);
    Ok((writer.fields.into(), losses))
}

/// Says that there are no factors on parts of layers, which are in the weights.
pub(super) fn without_factors(config: &mut Value, targets: &[Target]) {
    let one = [
        config::EMBED_SCALE,
        config::ATTN_IN_FACTOR,
        config::ATTN_KEY_FACTOR,
        config::ATTN_OUT_FACTOR,
        config::SSM_IN_FACTOR,
        config::SSM_OUT_FACTOR,
    ];
    let Some(fields) = config.as_object_mut() else { return };
    for name in one.iter().filter_map(|key| key.json()).chain(["lm_head_multiplier"]) {
        fields.insert(name.to_owned(), 1.0.into());
    }
    for (key, n) in [(config::SSM_IN_FACTORS, 5), (config::FFN_FACTORS, 2)] {
        fields.extend(key.json().map(|name| (name.to_owned(), vec![1.0; n].into())));
    }
    fields.insert("tie_word_embeddings".to_owned(), (!targets.iter().any(|t| t.role == Role::Output)).into());
}

/// The class that reads the file.
fn class(source: &Source<'_>, arch: &Arch) -> Result<&'static str, LoadError> {
    // Rows of models with and without experts name a class of each.
    let experts = source.hyper.moe.n_expert > 0 && !arch.gguf.is_empty();
    let named = |name: &&&str| name.contains("Moe") || name.contains("MoE");
    let class = arch.hf.iter().find(|name| experts && named(name)).or(arch.hf.first());
    class.copied().ok_or_else(|| LoadError::Convert {
        path: source.checkpoint.path().display().to_string(),
        text: format!("`{}` has no class in Hugging Face's library", source.arch_name),
    })
}

/// `model_type` of a class: its name in lower case, words apart.
fn model_type(class: &str) -> String {
    // Names in which capitals do not begin words, and those of the part of a model that reads text.
    const OTHERS: [(&str, &str); 20] = [
        ("Ernie4_5_Moe", "ernie4_5_moe"),
        ("GPT2", "gpt2"),
        ("GPTBigCode", "gpt_bigcode"),
        ("GPTJ", "gptj"),
        ("GPTNeoX", "gpt_neox"),
        ("Gemma3", "gemma3_text"),
        ("GraniteMoe", "granitemoe"),
        ("GraniteMoeHybrid", "granitemoehybrid"),
        ("GraniteMoeShared", "granitemoeshared"),
        ("HYV3", "hy_v3"),
        ("HunYuanDenseV1", "hunyuan_v1_dense"),
        ("HunYuanMoEV1", "hunyuan_v1_moe"),
        ("Llama4", "llama4_text"),
        ("MiMoV2Flash", "mimo_v2_flash"),
        ("MiniCPM3", "minicpm3"),
        ("MiniMaxM2", "minimax_m2"),
        ("Qwen3_5", "qwen3_5_text"),
        ("Qwen3_5Moe", "qwen3_5_moe_text"),
        ("SmolLM3", "smollm3"),
        ("StableLm", "stablelm"),
    ];
    let stem = class.strip_suffix("ForCausalLM").or(class.strip_suffix("LMHeadModel")).unwrap_or(class);
    if let Some((_, name)) = OTHERS.iter().find(|(name, _)| *name == stem) {
        return (*name).to_owned();
    }
    let mut out = String::new();
    for (i, c) in stem.char_indices() {
        if c.is_uppercase() && i > 0 {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

struct Writer<'a> {
    fields: Map<String, Value>,
    hyper: &'a Hyper,
}

impl Writer<'_> {
    /// Sets a value under every name that a class has for it.
    fn set(&mut self, key: Key, value: impl Into<Value>) {
        let (Some(path), value) = (key.json(), value.into()) else { return };
        match path.split_once('.') {
            None => self.fields.extend(key.fields().map(|name| (name.to_owned(), value.clone()))),
            Some((block, field)) => {
                let block = self.fields.entry(block).or_insert_with(|| Value::Object(Map::new()));
                block.as_object_mut().and_then(|block| block.insert(field.to_owned(), value));
            }
        }
    }

    /// Sets a number, as short as its f32 is written.
    fn number(&mut self, key: Key, x: f32) {
        self.set(key, short(x));
    }

    fn counts(&mut self, key: Key, list: &[usize]) {
        match list {
            [first, rest @ ..] if rest.iter().all(|n| n == first) => self.set(key, *first),
            _ => self.set(key, list.to_vec()),
        }
    }

    fn shape(&mut self, source: &Source<'_>, targets: &[Target]) {
        let hyper = self.hyper;
        self.set(config::N_LAYER, hyper.n_layer);
        self.set(config::N_CTX, hyper.n_ctx);
        self.set(config::D_MODEL, hyper.d_model);
        let first = |role| targets.iter().find(|t| t.role == role);
        if let Some(embed) = first(Role::Embed) {
            self.set(config::N_VOCAB, embed.shape[0]);
        }
        self.set(config::TIED, first(Role::Output).is_none());
        let widths = widths(hyper.n_layer, targets);
        let listed = source.config.count(config::D_FF).ok().flatten().filter(|n| *n > 0);
        if let Some(d_ff) = widths.into_iter().find(|n| *n > 0).or(listed) {
            self.set(config::D_FF, d_ff);
        }
        self.number(config::EPS_RMS, hyper.eps);
        if let Some(eps) = self.fields.get("rms_norm_eps").cloned() {
            for name in ["layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon"] {
                self.fields.insert(name.to_owned(), eps.clone());
            }
        }
        for (id, key) in [("bos_token_id", "bos"), ("eos_token_id", "eos")] {
            let key = format!("tokenizer.ggml.{key}_token_id");
            if let Ok(Some(token)) = source.checkpoint.meta().get::<u32>(&key) {
                self.fields.insert(id.to_owned(), token.into());
            }
        }
        if let Some(text) = act_text(hyper.act) {
            self.set(config::ACT, text);
            self.fields.insert("hidden_act".into(), text.into());
        }
        // Classes have padding tokens that a smaller vocabulary lacks.
        let pad = source.checkpoint.meta().get::<u32>("tokenizer.ggml.padding_token_id").ok().flatten();
        self.fields.insert("pad_token_id".into(), json!(pad));
        let has = |role: Role, end: &str| targets.iter().any(|t| t.role == role && t.name.ends_with(end));
        let attention_bias = has(Role::AttnQ, ".bias") || has(Role::AttnQkv, ".bias");
        self.fields.insert("attention_bias".into(), attention_bias.into());
        self.fields.insert("mlp_bias".into(), has(Role::FfnDown, ".bias").into());
        let state_bias = has(Role::SsmIn, ".bias");
        for (name, bias) in [("use_bias", attention_bias || state_bias), ("use_qkv_bias", attention_bias)] {
            self.fields.insert(name.into(), bias.into());
        }
        for (name, role) in [("mamba_proj_bias", Role::SsmIn), ("conv_bias", Role::ShortConvIn)] {
            self.fields.insert(name.into(), has(role, ".bias").into());
        }
        self.fields.insert("use_expert_bias".into(), has(Role::SelectBias, "").into());
        self.fields.insert("lm_head_bias".into(), has(Role::Output, ".bias").into());
        for name in ["use_conv_bias", "mamba_conv_bias"] {
            self.fields.insert(name.into(), has(Role::SsmConv, ".bias").into());
        }
        for name in ["use_qk_norm", "qk_layernorm"] {
            self.fields.insert(name.into(), has(Role::QNorm, "").into());
        }
        hybrid::json(&mut self.fields, hyper, targets);
        indexer::json(&mut self.fields, source, targets);
    }

    fn attention(&mut self, arch: &Arch, targets: &[Target]) {
        let hyper = self.hyper;
        if hyper.n_head.iter().all(|n| *n == 0) {
            return;
        }
        self.counts(config::N_HEAD, &hyper.n_head);
        match hyper.mla {
            Some(mla) => {
                self.counts(config::N_KV_HEAD, &hyper.n_head);
                self.set(config::KV_RANK, mla.kv_rank);
                let rank = targets.iter().find(|t| t.role == Role::QA).map(|t| t.shape[0]);
                self.fields.insert("q_lora_rank".into(), json!(rank));
                self.set(config::D_ROPE_MLA, mla.d_rope);
                self.set(config::D_NOPE_MLA, mla.d_nope);
                self.set(config::D_V_MLA, mla.d_v);
            }
            None => self.heads(arch, targets),
        }
        // Classes have unlike defaults.
        if hyper.rope.n_rot > 0 && hyper.mla.is_none() {
            self.number(config::PARTIAL_ROTARY, hyper.rope.n_rot as f32 / hyper.d_k as f32);
        }
        let window = hyper.window.iter().find_map(|w| match w {
            Window::Full => None,
            Window::Sliding(n) | Window::Chunked(n) => Some(*n),
        });
        if let Some(n) = window {
            self.set(config::WINDOW, n);
        }
        let factors = [
            (config::ATTN_SOFTCAP, hyper.attn_softcap),
            (config::FINAL_SOFTCAP, hyper.final_softcap),
            (config::CLAMP_KQV, hyper.clamp_qkv),
        ];
        for (key, value) in factors {
            if let Some(value) = value {
                self.number(key, value);
            }
        }
        if let Some(temperature) = hyper.temperature {
            self.number(config::TEMPERATURE, temperature.scale);
            self.set(config::TEMPERATURE_FLOOR, temperature.floor as u64);
        }
        if matches!(arch.no_rope, NoRope::ByConfig(_)) {
            self.set(config::POSITION_KIND, if hyper.rotates.contains(&true) { "rope" } else { "nope" });
        }
        let normed = targets.iter().any(|t| t.role == Role::FfnNorm);
        let parallel = match hyper.parallel {
            Parallel::WithoutFfnNorm => !normed,
            kind => kind == Parallel::Yes,
        };
        self.set(config::PARALLEL, parallel);
    }

    /// Of attention whose keys and values are stored as they are.
    fn heads(&mut self, arch: &Arch, targets: &[Target]) {
        let hyper = self.hyper;
        // Of layers that attend: the others' counts of a GGUF file are none or those of queries.
        let heads = hyper.n_kv_head.iter().zip(hybrid::attending(hyper.n_layer, targets));
        let heads: Vec<usize> = heads.filter(|(_, attends)| *attends).map(|(n, _)| *n).collect();
        match heads.as_slice() {
            [first, rest @ ..] if rest.iter().all(|n| n == first) => self.set(config::N_KV_HEAD, *first),
            _ => self.counts(config::N_KV_HEAD, &hyper.n_kv_head),
        }
        // Falcon's class computes the width of its heads.
        if arch.style == &style::FALCON && hyper.d_k * hyper.n_head[0] == hyper.d_model {
            let one = heads.first() == Some(&1);
            self.fields.insert("multi_query".into(), one.into());
            self.fields.insert("new_decoder_architecture".into(), (!one).into());
        } else {
            self.set(config::D_K, hyper.d_k);
        }
        let scale = hyper.attn_scale / hyper.rope.attn_scale;
        self.number(config::ATTN_SCALE, scale);
        let scalar = scale.powi(-2);
        // Classes want a whole number here, if it is one.
        match (scalar - scalar.round()).abs() < 1e-3 * scalar {
            true => self.set(config::QUERY_SCALAR, scalar.round() as u64),
            false => self.number(config::QUERY_SCALAR, scalar),
        }
    }

    fn experts(&mut self, targets: &[Target]) {
        let moe = &self.hyper.moe;
        if moe.n_expert == 0 {
            return;
        }
        for key in [config::N_EXPERT, config::N_EXPERT_USED] {
            let n = if key == config::N_EXPERT { moe.n_expert } else { moe.n_used };
            self.set(key, n);
        }
        let gating = match moe.gating {
            Gating::Sigmoid => Some("sigmoid"),
            Gating::Softmax => Some("softmax"),
            Gating::SoftmaxOfChosen | Gating::SparseMixer => None,
        };
        if let Some(gating) = gating {
            self.set(config::EXPERT_GATING, gating);
        }
        self.set(config::EXPERT_NORMALIZE, moe.normalize);
        self.number(config::EXPERT_SCALE, moe.scale);
        let (groups, used) = moe.groups.unwrap_or((1, 1));
        self.set(config::EXPERT_GROUPS, groups);
        self.set(config::EXPERT_GROUPS_USED, used);
        let first = |role| targets.iter().find(|t| t.role == role).map(Target::n_in);
        if let Some(d_ff) = first(Role::ExpDown) {
            self.set(config::D_FF_EXPERT, d_ff);
            if !self.fields.contains_key("intermediate_size") {
                self.set(config::D_FF, d_ff);
            }
            if let Some(shared) = first(Role::ShDown) {
                self.set(config::D_FF_SHARED, shared);
                self.set(config::N_EXPERT_SHARED, shared.div_ceil(d_ff));
            }
        }
    }

    /// Writes rotation; the model's numbers with the divisors that GGUF keeps as tensors as a scaling.
    fn rope(&mut self, source: &Source<'_>) -> Result<Hyper, LoadError> {
        let mut wanted = self.hyper.clone();
        let read = |role| -> Result<Option<Vec<f32>>, LoadError> {
            let Some(stem) = source.names.find(role, 0) else { return Ok(None) };
            Ok(source.checkpoint.vector(&stem)?.map(|(_, numbers)| numbers))
        };
        if let Some(divisors) = read(Role::RopeFreqs)? {
            let originals = [wanted.rope.original, LLAMA3_ORIGINAL];
            let found = originals.into_iter().find_map(|n| llama3(&wanted.rope, n, &divisors));
            wanted.rope = found.ok_or_else(|| LoadError::Convert {
                path: source.checkpoint.path().display().to_string(),
                text: "its divisors of frequencies (rope_freqs) are none of Llama 3's scaling".into(),
            })?;
        }
        if let (Some(long), Some(short)) = (read(Role::RopeLong)?, read(Role::RopeShort)?) {
            wanted.rope.scaling = Scaling::Long { short, long };
        }
        let rope = wanted.rope.clone();
        self.number(config::ROPE_BASE, rope.base);
        if rope.base_window != rope.base {
            self.number(config::ROPE_BASE_WINDOW, rope.base_window);
        }
        match &rope.scaling {
            Scaling::None | Scaling::Ntk(_) => {}
            Scaling::Linear(factor) => {
                self.set(config::ROPE_KIND, "linear");
                self.number(config::ROPE_FACTOR, *factor);
            }
            Scaling::Yarn(yarn) => {
                self.set(config::ROPE_KIND, "yarn");
                self.number(config::ROPE_FACTOR, yarn.factor);
                self.set(config::ROPE_ORIGINAL, rope.original);
                self.number(config::ROPE_BETA_FAST, yarn.beta_fast);
                self.number(config::ROPE_BETA_SLOW, yarn.beta_slow);
                self.set(config::ROPE_TRUNCATE, yarn.truncate);
                if rope.attn_scale != 1.0 {
                    let all = (rope.attn_scale.sqrt() - 1.0) / (0.1 * yarn.factor.ln());
                    self.number(config::ROPE_MSCALE, all);
                    self.number(config::ROPE_MSCALE_ALL, all);
                } else if (rope.mscale - yarn_mscale(yarn.factor, 1.0)).abs() > 1e-6 {
                    self.number(config::ROPE_ATTN_FACTOR, rope.mscale);
                }
            }
            Scaling::Llama3 { factor, low, high } => {
                self.set(config::ROPE_KIND, "llama3");
                self.number(config::ROPE_FACTOR, *factor);
                self.number(config::ROPE_LOW, *low);
                self.number(config::ROPE_HIGH, *high);
                self.set(config::ROPE_ORIGINAL, rope.original);
            }
            Scaling::Long { short, long } => {
                self.set(config::ROPE_KIND, "longrope");
                let numbers = |list: &[f32]| list.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
                self.set(config::ROPE_SHORT, numbers(short));
                self.set(config::ROPE_LONG, numbers(long));
                self.set(config::ROPE_ORIGINAL, rope.original);
                self.number(config::ROPE_ATTN_FACTOR, rope.mscale);
            }
        }
        Ok(wanted)
    }

    /// Fields for what the architecture's own rules would make otherwise.
    fn corrections(&mut self, arch: &Arch, found: &Hyper) {
        let hyper = self.hyper;
        if hyper.window != found.window {
            let kind = |w: &Window| if *w == Window::Full { "full_attention" } else { "sliding_attention" };
            self.set(config::LAYER_TYPES, hyper.window.iter().map(kind).collect::<Vec<&str>>());
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
        if hyper.logit_scale != found.logit_scale {
            let divide = arch.logit_scale == LogitScale::Divide;
            self.number(config::LOGIT_SCALE, if divide { 1.0 / hyper.logit_scale } else { hyper.logit_scale });
        }
        if arch.embed_scale == EmbedScale::SqrtWidth {
            self.set(config::MUP, hyper.embed_scale != 1.0);
        }
    }

    /// What single classes want otherwise.
    fn of_class(&mut self, model_type: &str, targets: &[Target]) {
        if NO_LAYER_TYPES.contains(&model_type) {
            self.fields.remove("layer_types");
        }
        let width = |roles: &[Role]| {
            let found = roles.iter().find_map(|role| targets.iter().find(|t| t.role == *role));
            found.map_or(0, Target::n_in)
        };
        // The part without experts of Granite's mixtures, which is all of a layer where there are none.
        if model_type.starts_with("granitemoe") {
            let shared = width(&[Role::ShDown, Role::FfnDown]);
            self.fields.insert("shared_intermediate_size".into(), shared.into());
            self.fields.insert("num_local_experts".into(), self.hyper.moe.n_expert.into());
        }
        if model_type == "nemotron_h" {
            let shared = width(&[Role::ShDown]);
            self.fields.insert("moe_shared_expert_intermediate_size".into(), shared.into());
            // GGUF bounds no time steps.
            self.fields.insert("time_step_min".into(), 0.0.into());
        }
        if let Some(mla) = self.hyper.mla.filter(|_| model_type == "mistral4") {
            let d_head = mla.d_nope + mla.d_rope;
            self.fields.insert("head_dim".into(), d_head.into());
            let part = mla.d_rope as f64 / d_head as f64;
            self.fields.insert("partial_rotary_factor".into(), part.into());
        }
        if model_type == "llama4_text" {
            let experts = width(&[Role::ExpDown, Role::FfnDown]);
            self.fields.insert("intermediate_size".into(), experts.into());
            self.fields.insert("use_qk_norm".into(), self.hyper.qk_norm_plain.into());
            let layers = hybrid::experts(self.hyper.n_layer, targets);
            let layers: Vec<usize> = (0..layers.len()).filter(|i| layers[*i]).collect();
            self.fields.insert("moe_layers".into(), layers.into());
        }
        if let (Some(temperature), Some(scaling)) = (self.hyper.temperature, self.fields.get_mut("rope_scaling"))
            && let Some(block) = scaling
                .as_object_mut()
                .filter(|_| model_type.starts_with("mistral") || model_type.starts_with("ministral"))
        {
            block.insert("llama_4_scaling_beta".into(), short(temperature.scale).into());
        }
    }
}

/// The number that an f32's shortest text names.
pub(super) fn short(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}

/// Classes that compute `layer_types` from other fields, and refuse it.
const NO_LAYER_TYPES: [&str; 3] = ["bamba", "jamba", "nemotron_h"];

/// Context before scaling of every model with Llama 3's scaling.
const LLAMA3_ORIGINAL: usize = 8192;

/// Rotation with Llama 3's scaling that makes these divisors, if one does.
fn llama3(rope: &RopeSpec, original: usize, divisors: &[f32]) -> Option<RopeSpec> {
    let factor = divisors.iter().copied().fold(1.0, f32::max);
    let spec = |scaling: Scaling| RopeSpec { scaling, original, divisors: Vec::new(), ..rope.clone() };
    let freqs = |spec: &RopeSpec| spec.rope(false, 0, mlxr_compute::op::RopePairs::HalfSplit).freqs;
    let scaled = spec(Scaling::Llama3 { factor, low: 1.0, high: 4.0 });
    let pairs = freqs(&spec(Scaling::None)).into_iter().zip(freqs(&scaled));
    let same = pairs.zip(divisors).all(|((p, s), d)| (p / s - d).abs() <= 1e-3 * d);
    (same && divisors.len() == rope.n_rot / 2).then_some(scaled)
}
