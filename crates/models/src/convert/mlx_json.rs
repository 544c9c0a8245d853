//! What mlx-lm's classes ask of `config.json` beyond what transformers' do: fields beside the others, which transformers
//! computes or keeps in blocks, and names of their own. Source: mlx-lm 0.32.2, `models/*.py`, class `ModelArgs`.

use mlxr_compute::op::{Gating, Window};
use serde_json::{Map, Value, json};

use super::config_json::short;
use super::hybrid;
use super::recipe::Target;
use crate::hyper::Hyper;
use crate::names::Role;

/// A class of mlx-lm that asks for more than others do, or has another name.
struct Class {
    /// `model_type` in transformers.
    of: &'static str,
    /// Its name in mlx-lm; empty where that is the same.
    name: &'static str,
    /// What names of tensors begin with in transformers, where they do, and in mlx-lm.
    root: Option<[&'static str; 2]>,
    /// The class that it is the text model of in mlx-lm, in a block of its own.
    part_of: Option<&'static str>,
    /// Sets what it asks for.
    fields: fn(&mut Fields<'_>),
}

const CLASS: Class = Class { of: "", name: "", root: None, part_of: None, fields: |_| () };

const CLASSES: &[Class] = &[
    Class { of: "deepseek_v2", fields: |f| f.neutral("yarn", &[("factor", json!(1.0))]), ..CLASS },
    Class { of: "exaone4", fields: |f| f.window_letters(), ..CLASS },
    Class {
        of: "exaone_moe",
        fields: |f| {
            let experts = hybrid::experts(f.hyper.n_layer, f.targets);
            f.add("is_moe_layer", experts);
        },
        ..CLASS
    },
    Class {
        of: "glm_moe_dsa",
        fields: |f| {
            f.add("topk_method", "noaux_tc");
            f.add("scoring_func", "sigmoid");
            f.add("moe_layer_freq", 1);
        },
        ..CLASS
    },
    Class { of: "gpt2", root: Some(["transformer.", "model."]), fields: |f| f.add("n_ctx", f.hyper.n_ctx), ..CLASS },
    Class { of: "granite", fields: |f| f.granite(), ..CLASS },
    Class { of: "granitemoe", fields: |f| f.granite(), ..CLASS },
    Class {
        of: "granitemoehybrid",
        fields: |f| {
            f.granite();
            f.granite_layers();
        },
        ..CLASS
    },
    Class { of: "kimi_linear", fields: |f| f.kimi(), ..CLASS },
    Class {
        of: "lfm2",
        fields: |f| {
            f.add("block_dim", f.hyper.d_model);
            f.add("block_multiple_of", 256);
            f.add("block_ffn_dim_multiplier", 1.0);
        },
        ..CLASS
    },
    Class {
        of: "llama4_text",
        name: "llama4",
        root: Some(["language_model.", "language_model."]),
        part_of: Some("Llama4ForConditionalGeneration"),
        fields: |f| {
            f.add("attn_temperature_tuning", f.hyper.temperature.is_some());
            let experts = hybrid::experts(f.hyper.n_layer, f.targets);
            f.add("interleave_moe_layer_step", hybrid::steps(&experts).map_or(1, |(step, _)| step));
        },
    },
    Class {
        of: "mamba2",
        fields: |f| {
            f.add("intermediate_size", f.hyper.ssm.map(|s| s.d_inner));
            f.add("time_step_rank", "auto");
            f.unbounded_steps();
        },
        ..CLASS
    },
    Class { of: "minicpm3", fields: |f| f.minicpm3(), ..CLASS },
    Class {
        of: "minimax_m2",
        fields: |f| {
            f.add("rotary_dim", f.hyper.rope.n_rot);
            f.add("shared_intermediate_size", 0);
        },
        ..CLASS
    },
    Class { of: "qwen3_moe", fields: |f| f.qwen_experts(), ..CLASS },
    Class { of: "qwen3_next", fields: |f| f.qwen_experts(), ..CLASS },
    Class { of: "qwen3_5_text", name: "qwen3_5", root: Some(["language_model.", "language_model."]), ..CLASS },
    Class { of: "qwen3_5_moe_text", name: "qwen3_5_moe", root: Some(["language_model.", "language_model."]), ..CLASS },
];

/// Adds what mlx-lm asks for to the configuration of an MLX folder, and gives tensors the names that its class has.
pub(super) fn complete(config: &mut Value, hyper: &Hyper, targets: &mut [Target]) {
    let Some(top) = config.as_object_mut() else { return };
    let Some(fields) = (match top.get("text_config").is_some_and(Value::is_object) {
        true => top.get_mut("text_config").and_then(Value::as_object_mut),
        false => Some(&mut *top),
    }) else {
        return;
    };
    let mut fields = Fields { fields, hyper, targets };
    fields.of_all();
    let kind = fields.fields.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let Some(class) = CLASSES.iter().find(|class| class.of == kind) else { return };
    (class.fields)(&mut fields);
    if top.contains_key("text_config") {
        return; // the whole model's class has the names that mlx-lm has
    }
    if let Some([from, to]) = class.root {
        for target in targets {
            let name = [to, from].iter().find_map(|root| target.name.strip_prefix(root)).unwrap_or(&target.name);
            target.name = format!("{to}{name}");
        }
    }
    if !class.name.is_empty() {
        top.insert("model_type".to_owned(), class.name.into());
    }
    if let Some(whole) = class.part_of {
        let mut text = std::mem::take(top);
        text.insert("model_type".to_owned(), class.of.into());
        let outside = ["bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings"];
        top.extend(outside.iter().filter_map(|name| Some(((*name).to_owned(), text.get(*name)?.clone()))));
        top.insert("architectures".to_owned(), json!([whole]));
        top.insert("model_type".to_owned(), class.name.into());
        top.insert("text_config".to_owned(), text.into());
    }
}

struct Fields<'a> {
    fields: &'a mut Map<String, Value>,
    hyper: &'a Hyper,
    targets: &'a [Target],
}

impl Fields<'_> {
    /// Sets a field that is missing.
    fn add(&mut self, name: &str, value: impl Into<Value>) {
        if self.fields.get(name).is_none_or(Value::is_null) {
            self.fields.insert(name.to_owned(), value.into());
        }
    }

    /// What many classes ask for.
    fn of_all(&mut self) {
        self.flat_rope();
        self.rope_block();
        let hyper = self.hyper;
        let attending = hybrid::attending(hyper.n_layer, self.targets);
        let states = hybrid::recurrent(hyper.n_layer, self.targets);
        if attending.contains(&true) && hyper.mla.is_none() {
            self.add("head_dim", hyper.d_k);
            self.add("partial_rotary_factor", hyper.rope.n_rot as f64 / hyper.d_k as f64);
        }
        // Classes find a layer of each kind by these words, and fail where there is no full one.
        if !states.contains(&true) && hyper.window.contains(&Window::Full) {
            let word = |w: &Window| match w {
                Window::Full => "full_attention",
                Window::Sliding(_) => "sliding_attention",
                Window::Chunked(_) => "chunked_attention",
            };
            self.add("layer_types", hyper.window.iter().map(word).collect::<Vec<&str>>());
        }
        if let Some(n) = hybrid::interval(&states).filter(|_| hyper.delta.is_some()) {
            self.add("full_attention_interval", n);
        }
    }

    /// mlx-lm reads rotation where transformers 4 wrote it: beside the other fields. Adds what is missing there.
    fn flat_rope(&mut self) {
        if let Some(rope) = self.fields.get("rope_parameters")
            && let Some(rope) = rope.get("full_attention").unwrap_or(rope).as_object().cloned()
        {
            for (name, from) in [
                ("rope_theta", "rope_theta"),
                ("rotary_emb_base", "rope_theta"),
                ("partial_rotary_factor", "partial_rotary_factor"),
                ("rotary_pct", "partial_rotary_factor"),
            ] {
                if let Some(value) = rope.get(from) {
                    self.add(name, value.clone());
                }
            }
            let kind = rope.get("rope_type").and_then(Value::as_str).unwrap_or("default");
            if kind != "default" {
                self.add("rope_scaling", rope);
            }
        }
        self.add("rope_scaling", Value::Null);
        if let Some(original) = self.fields.get("rope_scaling").and_then(|b| b.get("original_max_position_embeddings"))
        {
            self.add("original_max_position_embeddings", original.clone());
        }
        if let Some(block) = self.fields.get_mut("rope_scaling").and_then(Value::as_object_mut)
            && let Some(kind) = block.get("rope_type").cloned()
        {
            block.entry("type").or_insert(kind);
            // It knows the factor on attention only as a quotient of two.
            let number = |name: &str| block.get(name).and_then(Value::as_f64);
            if let (Some(factor), Some(scale), None) = (number("attention_factor"), number("factor"), number("mscale"))
            {
                let times = (factor - 1.0) / (0.1 * scale.ln());
                block.insert("mscale".to_owned(), times.into());
                block.insert("mscale_all_dim".to_owned(), 0.0.into());
            }
        }
    }

    /// Other classes read it where transformers 5 does: in a block.
    fn rope_block(&mut self) {
        if self.fields.contains_key("rope_parameters") || !self.fields.contains_key("rope_theta") {
            return;
        }
        let mut block = self.fields.get("rope_scaling").and_then(Value::as_object).cloned().unwrap_or_default();
        for name in ["rope_theta", "partial_rotary_factor"] {
            if let Some(value) = self.fields.get(name) {
                block.insert(name.to_owned(), value.clone());
            }
        }
        block.entry("rope_type").or_insert("default".into());
        self.fields.insert("rope_parameters".to_owned(), block.into());
    }

    /// A scaling of rotation that scales nothing, for classes that have no rotation without one.
    fn neutral(&mut self, kind: &str, more: &[(&str, Value)]) {
        let mut block = Map::new();
        block.insert("rope_type".to_owned(), kind.into());
        block.insert("type".to_owned(), kind.into());
        block.insert("original_max_position_embeddings".to_owned(), self.hyper.n_ctx.into());
        block.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        self.add("rope_scaling", block);
    }

    /// Upper ends of time steps have no JSON number: one that no step reaches.
    fn unbounded_steps(&mut self) {
        self.add("time_step_limit", json!([0.0, 1e9]));
    }

    /// A letter for each layer: `L` where it sees a window.
    fn window_letters(&mut self) {
        let letter = |w: &Window| if *w == Window::Full { 'G' } else { 'L' };
        let windowed = self.hyper.window.iter().any(|w| *w != Window::Full);
        let letters: String = self.hyper.window.iter().map(letter).collect();
        let value = if windowed { letters.into() } else { Value::Null };
        self.fields.insert("sliding_window_pattern".to_owned(), value);
        self.add("sliding_window", Value::Null);
    }

    fn qwen_experts(&mut self) {
        let experts = hybrid::experts(self.hyper.n_layer, self.targets);
        let dense: Vec<usize> = (0..experts.len()).filter(|i| !experts[*i]).collect();
        self.add("num_experts", self.hyper.moe.n_expert);
        self.add("decoder_sparse_step", 1);
        self.add("mlp_only_layers", dense);
    }

    fn granite(&mut self) {
        let hyper = self.hyper;
        self.add("embedding_multiplier", short(hyper.embed_scale));
        self.add("residual_multiplier", short(hyper.residual_scale));
        self.add("attention_multiplier", short(hyper.attn_scale));
        self.add("logits_scaling", short(1.0 / hyper.logit_scale));
    }

    /// Its words for the kinds of layers; the width of a feed-forward where there are no experts.
    fn granite_layers(&mut self) {
        if self.hyper.moe.n_expert == 0
            && let Some(down) = self.targets.iter().find(|t| t.role == Role::FfnDown)
        {
            self.fields.insert("intermediate_size".to_owned(), down.n_in().into());
        }
        let states = hybrid::recurrent(self.hyper.n_layer, self.targets);
        let words: Vec<&str> = states.iter().map(|state| if *state { "mamba" } else { "attention" }).collect();
        self.fields.insert("layer_types".to_owned(), words.into());
        self.add("position_embedding_type", if self.hyper.rotates.contains(&true) { "rope" } else { "nope" });
        self.unbounded_steps();
    }

    fn kimi(&mut self) {
        let (hyper, n_layer) = (self.hyper, self.hyper.n_layer);
        let states = hybrid::recurrent(n_layer, self.targets);
        let list = |state: bool| -> Vec<usize> { (1..=n_layer).filter(|i| states[i - 1] == state).collect() };
        if let Some(delta) = hyper.delta {
            let heads = self.targets.iter().find(|t| t.role == Role::DeltaBeta).map(|t| t.shape[0]);
            let block = json!({
                "num_heads": heads, "head_dim": delta.d_k, "short_conv_kernel_size": delta.n_conv,
                "kda_layers": list(true), "full_attn_layers": list(false),
            });
            self.add("linear_attn_config", block);
        }
        self.add("rope_theta", short(hyper.rope.base));
        self.add("head_dim", hyper.mla.map(|mla| mla.d_nope));
        self.add("model_max_length", hyper.n_ctx);
        let experts = hybrid::experts(n_layer, self.targets);
        self.add("first_k_dense_replace", experts.iter().position(|e| *e).unwrap_or(n_layer));
        self.add("num_expert_group", hyper.moe.groups.map_or(1, |(n, _)| n));
        let gating = if hyper.moe.gating == Gating::Sigmoid { "sigmoid" } else { "softmax" };
        self.add("moe_router_activation_func", gating);
    }

    fn minicpm3(&mut self) {
        let hyper = self.hyper;
        let ones = hyper.mla.map_or(0, |mla| mla.d_rope / 2);
        let ones = json!(vec![1.0; ones]);
        self.neutral("longrope", &[("short_factor", ones.clone()), ("long_factor", ones)]);
        self.add("scale_emb", short(hyper.embed_scale));
        self.add("scale_depth", short(hyper.residual_scale * (hyper.n_layer as f32).sqrt()));
        self.add("dim_model_base", (hyper.logit_scale * hyper.d_model as f32).round() as u64);
    }
}
