//! Configuration values, from GGUF metadata or `config.json`: one [`Key`] each.

use std::path::{Path, PathBuf};

use mlxr_weights::{Checkpoint, Metadata};
use serde_json::Value;

use crate::LoadError;

/// Where a value is found: below `{arch}.` in GGUF metadata; at one of some paths in `config.json`, first match wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    gguf: &'static str,
    hf: &'static [&'static str],
}

const fn key(gguf: &'static str, hf: &'static [&'static str]) -> Key {
    Key { gguf, hf }
}

macro_rules! keys {
    ($($name:ident = $gguf:literal $hf:tt;)*) => { $(#[doc = concat!("`", $gguf, "` in GGUF.")] pub const $name: Key = key($gguf, &$hf);)* };
}

keys! {
    N_LAYER = "block_count" ["num_hidden_layers", "n_layer", "n_layers", "num_layers"];
    N_CTX = "context_length" ["max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len",
        "model_max_length"];
    LAYER_KINDS = "" ["layers_block_type"];
    N_NEXTN = "nextn_predict_layers" [];
    N_DENSE = "leading_dense_block_count" ["first_k_dense_replace", "num_dense_layers"];
    D_MODEL = "embedding_length" ["hidden_size", "n_embd", "d_model", "dim"];
    N_HEAD = "attention.head_count" ["num_attention_heads", "n_head", "n_heads", "num_heads"];
    N_KV_HEAD = "attention.head_count_kv" ["num_key_value_heads", "num_kv_heads", "multi_query_group_num", "n_head_kv"];
    D_K = "attention.key_length" ["head_dim", "kv_channels", "attention_head_dim"];
    D_V = "attention.value_length" ["head_dim", "kv_channels", "attention_head_dim"];
    N_ROT = "rope.dimension_count" ["rotary_dim"];
    PARTIAL_ROTARY = "" ["partial_rotary_factor", "rotary_pct", "rope_pct", "rope_parameters.partial_rotary_factor"];
    EPS_RMS = "attention.layer_norm_rms_epsilon" ["rms_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon"];
    EPS_LAYER = "attention.layer_norm_epsilon" ["layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon"];
    ROPE_BASE = "rope.freq_base" [
        "rope_parameters.rope_theta", "rope_parameters.full_attention.rope_theta", "rope_theta", "rotary_emb_base"];
    ROPE_BASE_WINDOW = "rope.freq_base_swa" ["rope_local_base_freq", "rope_parameters.sliding_attention.rope_theta"];
    ROPE_KIND = "rope.scaling.type" [
        "rope_parameters.full_attention.rope_type", "rope_parameters.rope_type", "rope_scaling.rope_type", "rope_scaling.type"];
    ROPE_FACTOR = "rope.scaling.factor" [
        "rope_parameters.full_attention.factor", "rope_parameters.factor", "rope_scaling.factor"];
    ROPE_ATTN_FACTOR = "rope.scaling.attn_factor" ["rope_parameters.attention_factor", "rope_scaling.attention_factor"];
    ROPE_ORIGINAL = "rope.scaling.original_context_length" [
        "rope_parameters.original_max_position_embeddings", "rope_scaling.original_max_position_embeddings",
        "original_max_position_embeddings"];
    ROPE_LOW = "" ["rope_parameters.low_freq_factor", "rope_scaling.low_freq_factor"];
    ROPE_HIGH = "" ["rope_parameters.high_freq_factor", "rope_scaling.high_freq_factor"];
    ROPE_BETA_FAST = "rope.scaling.yarn_beta_fast" ["rope_parameters.beta_fast", "rope_scaling.beta_fast"];
    ROPE_BETA_SLOW = "rope.scaling.yarn_beta_slow" ["rope_parameters.beta_slow", "rope_scaling.beta_slow"];
    ROPE_TRUNCATE = "rope.scaling.yarn_truncate" ["rope_parameters.truncate", "rope_scaling.truncate"];
    ROPE_MSCALE = "" ["rope_parameters.mscale", "rope_scaling.mscale"];
    ROPE_MSCALE_ALL = "" ["rope_parameters.mscale_all_dim", "rope_scaling.mscale_all_dim"];
    ROPE_LOG_MUL = "rope.scaling.yarn_log_multiplier" [];
    ROPE_LONG = "" ["rope_parameters.long_factor", "rope_scaling.long_factor"];
    ROPE_SHORT = "" ["rope_parameters.short_factor", "rope_scaling.short_factor"];
    ROPE_LONG_MSCALE = "" ["rope_scaling.long_mscale", "rope_parameters.long_mscale"];
    ROPE_SHORT_MSCALE = "" ["rope_scaling.short_mscale", "rope_parameters.short_mscale"];
    ROPE_N_WINDOW = "rope.dimension_count_swa" [];
    D_K_WINDOW = "attention.key_length_swa" [];
    ROPE_ON = "rope.scaling.finetuned" [];
    POSITION_KIND = "" ["position_embedding_type"];
    NO_ROPE_LAYERS = "attention.rope_pattern" ["no_rope_layers"];
    ROPE_SECTIONS = "rope.dimension_sections" [];
    NO_ROPE_STEP = "" ["no_rope_layer_interval"];
    WINDOW = "attention.sliding_window" ["sliding_window", "attention_chunk_size"];
    USE_WINDOW = "" ["use_sliding_window"];
    WINDOW_PATTERN = "attention.sliding_window_pattern" ["sliding_window_pattern", "_sliding_window_pattern"];
    LAYER_TYPES = "" ["layer_types"];
    MAX_WINDOW_LAYERS = "" ["max_window_layers"];
    ATTN_SCALE = "attention.scale" ["attention_multiplier"];
    ATTN_OUT_SCALE = "attention.output_scale" [];
    ATTN_VALUE_SCALE = "attention.value_scale" ["attention_value_scale"];
    TEMPERATURE = "attention.temperature_scale" ["attn_scale", "rope_parameters.llama_4_scaling_beta"];
    TEMPERATURE_FLOOR = "attention.temperature_length" [
        "floor_scale", "rope_parameters.original_max_position_embeddings"];
    TEMPERATURE_ON = "" ["attn_temperature_tuning"];
    QUERY_SCALAR = "" ["query_pre_attn_scalar"];
    QK_NORM = "" ["use_qk_norm"];
    ATTN_SOFTCAP = "attn_logit_softcapping" ["attn_logit_softcapping"];
    FINAL_SOFTCAP = "final_logit_softcapping" ["final_logit_softcapping"];
    LOGIT_SCALE = "logit_scale" ["logit_scale", "logits_scaling", "lm_head_multiplier"];
    RESIDUAL_SCALE = "residual_scale" ["residual_multiplier"];
    SCALE_DEPTH = "" ["scale_depth"];
    EMBED_SCALE = "embedding_scale" ["embedding_multiplier", "scale_emb"];
    MUP = "" ["mup_enabled"];
    DIM_BASE = "" ["dim_model_base"];
    ALIBI_BIAS = "attention.max_alibi_bias" ["attn_config.alibi_bias_max"];
    CLAMP_KQV = "attention.clamp_kqv" ["clip_qkv"];
    PARALLEL = "use_parallel_residual" ["use_parallel_residual"];
    PARALLEL_FALCON = "" ["parallel_attn"];
    NEW_DECODER = "" ["new_decoder_architecture"];
    MULTI_QUERY = "" ["multi_query"];
    TIED = "" ["tie_word_embeddings"];
    TAPS = "" ["eagle_aux_hidden_state_layer_ids"];
    TAPS_AFTER = "" ["eagle_config.eagle_aux_hidden_state_layer_ids"];
    ADDS_TO_NORMED = "" ["norm_before_residual"];
    SPECULATOR = "" ["speculators_model_type"];
    ACT = "hidden_activation" ["hidden_activation", "hidden_act", "activation_function", "activation"];
    N_EXPERT = "expert_count" [
        "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"];
    N_EXPERT_USED = "expert_used_count" [
        "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k"];
    EXPERT_NORMALIZE = "expert_weights_norm" ["norm_topk_prob", "moe_renormalize", "route_norm"];
    EXPERT_SCALE = "expert_weights_scale" [
        "routed_scaling_factor", "route_scale", "router_scaling_factor", "moe_routed_scaling_factor"];
    EXPERT_GATING = "expert_gating_func" ["scoring_func"];
    EXPERT_GROUPS = "expert_group_count" ["n_group"];
    EXPERT_GROUPS_USED = "expert_group_used_count" ["topk_group"];
    Q_RANK = "attention.q_lora_rank" ["q_lora_rank"];
    KV_RANK = "attention.kv_lora_rank" ["kv_lora_rank"];
    D_K_MLA = "attention.key_length_mla" [];
    D_V_MLA = "attention.value_length_mla" ["v_head_dim"];
    D_ROPE_MLA = "rope.dimension_count" ["qk_rope_head_dim"];
    D_NOPE_MLA = "" ["qk_nope_head_dim"];
    D_FF = "feed_forward_length" [
        "intermediate_size", "n_inner", "ffn_hidden_size", "intermediate_size_mlp", "ffn_dim"];
    D_FF_EXPERT = "expert_feed_forward_length" ["moe_intermediate_size"];
    D_FF_SHARED = "expert_shared_feed_forward_length" ["shared_expert_intermediate_size"];
    N_EXPERT_SHARED = "expert_shared_count" [
        "n_shared_experts", "num_shared_expert", "num_shared_experts", "moe_num_shared_experts"];
    N_VOCAB = "vocab_size" ["vocab_size"];
    SSM_CONV = "ssm.conv_kernel" ["mamba_d_conv", "conv_kernel"];
    SSM_INNER = "ssm.inner_size" ["mamba_d_ssm"];
    SSM_EXPAND = "" ["mamba_expand", "expand"];
    SSM_STATE = "ssm.state_size" ["mamba_d_state", "ssm_state_size", "state_size"];
    SSM_HEADS = "ssm.time_step_rank" ["mamba_n_heads", "mamba_num_heads", "num_heads"];
    SSM_HEAD_DIM = "" ["mamba_d_head", "mamba_head_dim", "head_dim"];
    SSM_GROUPS = "ssm.group_count" ["mamba_n_groups", "n_groups"];
    SSM_NORM_FIRST = "" ["mamba_norm_before_gate"];
    SSM_IN_FACTOR = "" ["ssm_in_multiplier"];
    SSM_IN_FACTORS = "" ["ssm_multipliers"];
    SSM_OUT_FACTOR = "" ["ssm_out_multiplier"];
    ATTN_IN_FACTOR = "" ["attention_in_multiplier"];
    ATTN_KEY_FACTOR = "" ["key_multiplier"];
    ATTN_OUT_FACTOR = "" ["attention_out_multiplier"];
    FFN_FACTORS = "" ["mlp_multipliers"];
    SSM_NORMED = "ssm.dt_b_c_rms" [];
    SSM_EPS = "" ["mixer_rms_eps"];
    DELTA_CONV = "ssm.conv_kernel" ["linear_conv_kernel_dim", "linear_attn_config.short_conv_kernel_size"];
    DELTA_HEADS = "ssm.time_step_rank" ["linear_num_value_heads", "linear_num_heads", "linear_attn_config.num_heads"];
    DELTA_KEY_HEADS = "ssm.group_count" ["linear_num_key_heads", "linear_num_heads", "linear_attn_config.num_heads"];
    DELTA_D_K = "ssm.state_size" ["linear_key_head_dim", "linear_attn_config.head_dim"];
    DELTA_D_V = "ssm.state_size" ["linear_value_head_dim", "linear_attn_config.head_dim"];
    KDA_D_HEAD = "kda.head_dim" ["linear_head_dim", "linear_attn_config.head_dim"];
    KDA_SAFE = "kda.safe_gate" [];
    KDA_BOUND = "kda.gate_lower_bound" [];
    SHORT_CONV = "shortconv.l_cache" ["conv_L_cache"];
    MOE_STEP = "interleave_moe_layer_step" ["interleave_moe_layer_step", "moe_layer_interval"];
    MOE_LATENT = "moe_latent_size" ["moe_latent_size"];
    RECURRENT = "attention.recurrent_layers" [];
    FULL_INTERVAL = "full_attention_interval" ["full_attention_interval"];
    SECTIONS = "rope.dimension_sections" ["rope_parameters.mrope_section", "rope_scaling.mrope_section"];
    SSM_RANK = "ssm.time_step_rank" ["time_step_rank", "mamba_dt_rank"];
    INDEX_BLOCK = "attention.indexer.block_size" [];
    INDEX_TOP_K = "attention.indexer.top_k" ["index_topk"];
    INDEX_HEADS = "attention.indexer.head_count" ["index_n_heads"];
    INDEX_D_HEAD = "attention.indexer.key_length" ["index_head_dim"];
    INDEX_LAYERS = "attention.indexer.types" ["indexer_types"];
}

impl Key {
    /// The key in GGUF below `{arch}.`; empty where GGUF has none.
    pub(crate) fn gguf(self) -> &'static str {
        self.gguf
    }

    /// All fields beside others that have it in `config.json`, the usual one first.
    pub(crate) fn fields(self) -> impl Iterator<Item = &'static str> {
        self.hf.iter().copied().filter(|path| !path.contains('.'))
    }

    /// Where `config.json` has it: the usual field, or one of `rope_scaling`.
    pub(crate) fn json(self) -> Option<&'static str> {
        self.hf.iter().copied().find(|path| !path.contains('.') || path.starts_with("rope_scaling."))
    }
}

/// Typed access to a checkpoint's configuration.
pub struct Config<'a> {
    meta: &'a Metadata,
    path: PathBuf,
    prefix: String,
    defaults: &'static [(Key, f32)],
    /// `config.json` with what it says of a part first: a vision model's language part, the layer of an EAGLE head.
    json: Vec<&'a Value>,
}

impl<'a> Config<'a> {
    /// The configuration of a checkpoint whose GGUF keys begin with `prefix`.
    pub fn new(checkpoint: &'a Checkpoint, prefix: &str) -> Config<'a> {
        let mut json = Vec::new();
        if let Some(config) = checkpoint.config() {
            let parts = ["text_config", "transformer_layer_config"].into_iter().filter_map(|part| config.get(part));
            json.extend(parts.filter(|c| c.is_object()));
            json.push(config);
        }
        let (meta, path) = (checkpoint.meta(), checkpoint.path().to_owned());
        Config { meta, path, prefix: prefix.to_owned(), defaults: &[], json }
    }

    /// The configuration in a `config.json` that is not in a checkpoint yet.
    pub(crate) fn of_json(meta: &'a Metadata, path: &Path, json: &'a Value) -> Config<'a> {
        Config { meta, path: path.to_owned(), prefix: String::new(), defaults: &[], json: vec![json] }
    }

    /// The configuration in GGUF metadata whose keys begin with `prefix`.
    pub(crate) fn of_metadata(meta: &'a Metadata, path: &Path, prefix: &str) -> Config<'a> {
        Config { meta, path: path.to_owned(), prefix: prefix.to_owned(), defaults: &[], json: Vec::new() }
    }

    /// The same, with an architecture's values where the file has none.
    pub fn with_defaults(self, defaults: &'static [(Key, f32)]) -> Config<'a> {
        Config { defaults, ..self }
    }

    fn json(&self, key: Key) -> Option<(&'static str, &'a Value)> {
        let lookup = |path: &str| {
            let pointer = format!("/{}", path.replace('.', "/"));
            self.json.iter().find_map(|c| c.pointer(&pointer).filter(|v| !v.is_null()))
        };
        key.hf.iter().find_map(|path| lookup(path).map(|v| (*path, v)))
    }

    fn name(&self, key: Key) -> String {
        format!("{}.{}", self.prefix, key.gguf)
    }

    fn in_gguf(&self, key: Key) -> bool {
        self.json.is_empty() && !key.gguf.is_empty()
    }

    /// The error for a key.
    pub fn error(&self, key: Key, found: impl ToString, expected: &str) -> LoadError {
        let name = match self.json(key) {
            Some((path, _)) => path.to_owned(),
            None if self.json.is_empty() => self.name(key),
            None => key.hf.join(" or "),
        };
        LoadError::Config {
            path: self.path.display().to_string(),
            key: name,
            found: found.to_string(),
            expected: expected.to_owned(),
        }
    }

    /// A number: the file's, or the architecture's where the file has none.
    ///
    /// # Errors
    /// If the value has another type.
    pub fn f32(&self, key: Key) -> Result<Option<f32>, LoadError> {
        Ok(self.given(key)?.or_else(|| self.default(key)))
    }

    fn default(&self, key: Key) -> Option<f32> {
        self.defaults.iter().find(|(k, _)| *k == key).map(|(_, x)| *x)
    }

    fn given(&self, key: Key) -> Result<Option<f32>, LoadError> {
        if self.in_gguf(key) {
            return Ok(self.meta.get::<f32>(&self.name(key))?);
        }
        let Some((_, value)) = self.json(key) else { return Ok(None) };
        let number = value.as_f64().map(|x| x as f32);
        number.map(Some).ok_or_else(|| self.error(key, value, "a number"))
    }

    /// A number that is not zero: the convention of GGUF for "not set".
    ///
    /// # Errors
    /// As [`Config::f32`].
    pub fn nonzero(&self, key: Key) -> Result<Option<f32>, LoadError> {
        Ok(self.given(key)?.filter(|&x| x != 0.0).or_else(|| self.default(key)))
    }

    /// A count. A JSON list of one value for all layers counts as that value.
    ///
    /// # Errors
    /// If the value is no whole number from 0 on.
    pub fn count(&self, key: Key) -> Result<Option<usize>, LoadError> {
        if self.in_gguf(key) {
            return Ok(self.meta.get::<u64>(&self.name(key))?.map(|n| n as usize));
        }
        let Some((_, value)) = self.json(key) else { return Ok(None) };
        let one = match value.as_array().map(Vec::as_slice) {
            Some([first, rest @ ..]) if rest.iter().all(|v| v == first) => first,
            _ => value,
        };
        let number = one.as_u64().map(|n| n as usize);
        number.map(Some).ok_or_else(|| self.error(key, value, "a whole number"))
    }

    /// A count that must be there and lie in `1..=max`.
    ///
    /// # Errors
    /// If it is missing or outside.
    pub fn need(&self, key: Key, max: usize) -> Result<usize, LoadError> {
        let n = self.count(key)?.ok_or_else(|| self.error(key, "nothing", "a whole number"))?;
        if n == 0 || n > max {
            return Err(self.error(key, n, &format!("1 to {max}")));
        }
        Ok(n)
    }

    /// A count for each layer; one value stands for all.
    ///
    /// # Errors
    /// As [`Config::count`], and if a list has another length.
    pub fn counts(&self, key: Key, n_layer: usize) -> Result<Option<Vec<usize>>, LoadError> {
        if self.in_gguf(key) {
            let list = self.meta.per_layer::<u64>(&self.name(key), n_layer)?;
            return Ok(list.map(|l| l.into_iter().map(|n| n as usize).collect()));
        }
        let Some((_, value)) = self.json(key) else { return Ok(None) };
        let list: Option<Vec<usize>> = match value {
            Value::Array(items) => items.iter().map(|v| v.as_u64().map(|n| n as usize)).collect(),
            one => one.as_u64().map(|n| vec![n as usize; n_layer]),
        };
        match list {
            Some(list) if list.len() == n_layer => Ok(Some(list)),
            _ => Err(self.error(key, value, &format!("a whole number, or {n_layer} of them"))),
        }
    }

    /// A truth value for each layer from a list of numbers or truth values; `None` when it is one number.
    ///
    /// # Errors
    /// If a list has another length or other values.
    pub fn flags(&self, key: Key, n_layer: usize) -> Result<Option<Vec<bool>>, LoadError> {
        if self.in_gguf(key) {
            let name = self.name(key);
            let is_list = matches!(self.meta.value(&name), Some(mlxr_weights::gguf::Value::Array(_)));
            if !is_list {
                return Ok(None);
            }
            if let Ok(Some(list)) = self.meta.per_layer::<bool>(&name, n_layer) {
                return Ok(Some(list));
            }
            let list = self.meta.per_layer::<u64>(&name, n_layer)?;
            return Ok(list.map(|l| l.into_iter().map(|n| n != 0).collect()));
        }
        let Some((_, Value::Array(items))) = self.json(key) else { return Ok(None) };
        let list: Option<Vec<bool>> = items.iter().map(|v| v.as_bool().or(v.as_u64().map(|n| n != 0))).collect();
        match list {
            Some(list) if list.len() == n_layer => Ok(Some(list)),
            _ => Err(self.error(key, format!("{} values", items.len()), &format!("{n_layer} values of 0 or 1"))),
        }
    }

    /// A text.
    pub fn text(&self, key: Key) -> Option<&str> {
        if self.in_gguf(key) {
            return self.meta.get::<&str>(&self.name(key)).ok().flatten();
        }
        self.json(key).and_then(|(_, v)| v.as_str())
    }

    /// A truth value.
    pub fn flag(&self, key: Key) -> Option<bool> {
        if self.in_gguf(key) {
            return self.meta.get::<bool>(&self.name(key)).ok().flatten();
        }
        self.json(key).and_then(|(_, v)| v.as_bool())
    }

    /// Texts, such as the types of all layers.
    pub fn texts(&self, key: Key) -> Option<Vec<&str>> {
        let (_, value) = self.json(key)?;
        value.as_array()?.iter().map(Value::as_str).collect()
    }

    /// Numbers, such as longrope's factors.
    pub fn numbers(&self, key: Key) -> Option<Vec<f32>> {
        let (_, value) = self.json(key)?;
        value.as_array()?.iter().map(|v| v.as_f64().map(|x| x as f32)).collect()
    }

    /// Whether the configuration is `config.json`.
    pub fn is_json(&self) -> bool {
        !self.json.is_empty()
    }
}
