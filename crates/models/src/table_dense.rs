//! Rows of architectures with attention and a dense feed-forward, or experts as in LLaMA.

use mlxr_compute::op::{Act, NormKind};

use crate::arch::{
    Alibi, Arch, EmbedScale, Fused, LLAMA, LogitScale, NoRope, Norms, Parallel, WindowLayers, WindowRope,
};
use crate::names::Role;
use crate::style;
use crate::table::{HALVES, INTERLEAVED, MINICPM};

pub(crate) const DENSE: &[Arch] = &[
    // Llama, Yi, Mixtral, Vicuna, TinyLlama, DeepSeek-LLM, SmolLM, ... Mistral's window applies to its HF files only:
    // converters drop it.
    Arch { hf: &["LlamaForCausalLM", "LLaMAForCausalLM"], ..LLAMA },
    Arch { gguf: &[], hf: &["MixtralForCausalLM"], written_as: "llama", style: &style::MIXTRAL, ..LLAMA },
    Arch { gguf: &[], hf: &["MistralForCausalLM"], written_as: "llama", window: WindowLayers::All, ..LLAMA },
    Arch {
        gguf: &["mistral3"],
        hf: &["Ministral3ForCausalLM", "MinistralForCausalLM", "Mistral3ForConditionalGeneration"],
        ..LLAMA
    },
    // LLaMA with rotation left out of every fourth layer. Source: modeling_smollm3.py.
    Arch { gguf: &["smollm3"], hf: &["SmolLM3ForCausalLM"], no_rope: NoRope::Every(4), ffn_scales: false, ..LLAMA },
    // LLaMA with biases on q, k, v (read from the tensors). Source: modeling_qwen2.py.
    Arch { gguf: &["qwen2"], hf: &["Qwen2ForCausalLM"], ..HALVES },
    // A position's parts (time, height, width) are equal in text.
    Arch {
        gguf: &["qwen2vl"],
        hf: &["Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"],
        no_bias: &[Role::Output],
        ..HALVES
    },
    // LLaMA with q and k normed per head. Source: modeling_qwen3.py.
    Arch { gguf: &["qwen3"], hf: &["Qwen3ForCausalLM", "Qwen3VLForConditionalGeneration"], ffn_scales: true, ..HALVES },
    // Source: arXiv:2403.08295; modeling_gemma.py.
    Arch {
        gguf: &["gemma"],
        hf: &["GemmaForCausalLM"],
        norm_plus_one: true,
        act: Act::GeluTanh,
        embed_scale: EmbedScale::SqrtWidth,
        ..HALVES
    },
    // Gemma with sandwich norms, soft caps and every other layer windowed. Source: arXiv:2408.00118.
    Arch {
        gguf: &["gemma2"],
        hf: &["Gemma2ForCausalLM"],
        style: &style::GEMMA2,
        norm_plus_one: true,
        act: Act::GeluTanh,
        embed_scale: EmbedScale::SqrtWidth,
        norms: Norms::Sandwich,
        window: WindowLayers::Period(2),
        wide_query_layers: 46,
        softcaps: [true, true],
        ..HALVES
    },
    // Source: arXiv:2503.19786; modeling_gemma3.py.
    Arch {
        gguf: &["gemma3"],
        hf: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration", "Gemma3TextModel"],
        style: &style::GEMMA2,
        norm_plus_one: true,
        act: Act::GeluTanh,
        embed_scale: EmbedScale::SqrtWidth,
        norms: Norms::Sandwich,
        window: WindowLayers::Period(6),
        window_rope: WindowRope::Plain(10000.0),
        wide_query_layers: 62,
        softcaps: [false, true],
        ..HALVES
    },
    // Source: modeling_phi.py.
    Arch {
        gguf: &["phi2"],
        hf: &["PhiForCausalLM"],
        style: &style::PHI,
        norm: NormKind::Layer,
        parallel: Parallel::Yes,
        act: Act::GeluTanh,
        ..HALVES
    },
    Arch {
        gguf: &["phi3"],
        hf: &["Phi3ForCausalLM"],
        style: &style::PHI3,
        gate_up: true,
        window: WindowLayers::All,
        ..HALVES
    },
    Arch {
        gguf: &["gpt2"],
        hf: &["GPT2LMHeadModel"],
        style: &style::GPT2,
        norm: NormKind::Layer,
        no_rope: NoRope::Always,
        act: Act::GeluTanh,
        transposed: true,
        ..HALVES
    },
    Arch {
        gguf: &["starcoder"],
        hf: &["GPTBigCodeForCausalLM"],
        style: &style::GPT2,
        norm: NormKind::Layer,
        no_rope: NoRope::Always,
        act: Act::GeluTanh,
        ..HALVES
    },
    // Pythia and GPT-NeoX. Source: modeling_gpt_neox.py.
    Arch {
        gguf: &["gptneox"],
        hf: &["GPTNeoXForCausalLM"],
        style: &style::GPT_NEOX,
        norm: NormKind::Layer,
        parallel: Parallel::Config,
        qkv: Fused::Grouped,
        act: Act::GeluTanh,
        ..HALVES
    },
    Arch {
        gguf: &["falcon"],
        hf: &["FalconForCausalLM", "RWForCausalLM"],
        style: &style::FALCON,
        norm: NormKind::Layer,
        parallel: Parallel::Yes,
        qkv: Fused::Grouped,
        act: Act::GeluTanh,
        ..HALVES
    },
    Arch {
        gguf: &["stablelm"],
        hf: &["StableLmForCausalLM", "StableLMEpochForCausalLM"],
        style: &style::STABLELM,
        norm: NormKind::Layer,
        parallel: Parallel::WithoutFfnNorm,
        ..HALVES
    },
    // Norms after the blocks; q and k normed over the whole row. Source: arXiv:2501.00656; modeling_olmo3.py.
    Arch {
        gguf: &["olmo2"],
        hf: &["Olmo2ForCausalLM"],
        style: &style::POST,
        norms: Norms::Post,
        window: WindowLayers::Period(4),
        window_rope: WindowRope::Plain(0.0),
        ..HALVES
    },
    Arch {
        gguf: &[],
        hf: &["Olmo3ForCausalLM"],
        written_as: "olmo2",
        style: &style::POST,
        norms: Norms::Post,
        window: WindowLayers::Period(4),
        window_rope: WindowRope::Plain(0.0),
        ..HALVES
    },
    // Norms without weights, clamped q, k, v. Source: arXiv:2402.00838.
    Arch { gguf: &["olmo"], hf: &["OlmoForCausalLM"], norm: NormKind::Layer, ffn_scales: false, ..LLAMA },
    // Source: modeling_cohere.py.
    Arch {
        gguf: &["command-r"],
        hf: &["CohereForCausalLM"],
        pairs: INTERLEAVED,
        norm: NormKind::Layer,
        parallel: Parallel::Yes,
        ffn_scales: false,
        ..LLAMA
    },
    Arch {
        gguf: &["cohere2"],
        hf: &["Cohere2ForCausalLM"],
        pairs: INTERLEAVED,
        norm: NormKind::Layer,
        parallel: Parallel::Yes,
        window: WindowLayers::Period(4),
        no_rope: NoRope::Full,
        ..LLAMA
    },
    Arch {
        gguf: &["granite_swa"],
        hf: &[],
        logit_scale: LogitScale::Divide,
        window: WindowLayers::All,
        ffn_scales: false,
        ..LLAMA
    },
    Arch {
        gguf: &["minicpm"],
        hf: &["MiniCPMForCausalLM"],
        logit_scale: LogitScale::Divide,
        defaults: MINICPM,
        ffn_scales: false,
        ..LLAMA
    },
    Arch {
        gguf: &["minicpm3"],
        hf: &["MiniCPM3ForCausalLM"],
        joint_kv_b: true,
        mlx_joint_kv_b: true,
        defaults: MINICPM,
        ..HALVES
    },
    Arch {
        gguf: &["internlm2"],
        hf: &["InternLM2ForCausalLM"],
        style: &style::INTERNLM2,
        qkv: Fused::Grouped,
        ffn_scales: false,
        ..LLAMA
    },
    Arch { gguf: &["xverse"], hf: &["XverseForCausalLM"], ffn_scales: false, ..LLAMA },
    Arch { gguf: &["arcee"], hf: &["ArceeForCausalLM"], act: Act::ReluSquared, ffn_scales: false, ..LLAMA },
    Arch {
        gguf: &["starcoder2"],
        hf: &["Starcoder2ForCausalLM"],
        style: &style::STARCODER2,
        norm: NormKind::Layer,
        act: Act::GeluTanh,
        window: WindowLayers::All,
        ..HALVES
    },
    Arch { gguf: &["orion"], hf: &["OrionForCausalLM"], norm: NormKind::Layer, ..HALVES },
    Arch {
        gguf: &["nemotron"],
        hf: &["NemotronForCausalLM"],
        norm: NormKind::Layer,
        norm_plus_one: true,
        act: Act::ReluSquared,
        ..HALVES
    },
    Arch { gguf: &["exaone"], hf: &["ExaoneForCausalLM"], ..HALVES },
    Arch {
        gguf: &["exaone4"],
        hf: &["Exaone4ForCausalLM"],
        style: &style::POST,
        norms: Norms::Post,
        window: WindowLayers::PeriodIn(4, 64),
        no_rope: NoRope::Full,
        ..HALVES
    },
    // Sandwich norms, fused gate and up. Source: modeling_glm4.py.
    Arch {
        gguf: &["chatglm"],
        hf: &["GlmForCausalLM"],
        style: &style::GLM,
        gate_up: true,
        pairs: INTERLEAVED,
        ffn_scales: false,
        ..LLAMA
    },
    Arch {
        gguf: &["glm4"],
        hf: &["Glm4ForCausalLM"],
        style: &style::GLM4,
        gate_up: true,
        pairs: INTERLEAVED,
        sections_halve: true,
        norms: Norms::Sandwich,
        ffn_scales: false,
        ..LLAMA
    },
    Arch { gguf: &["seed_oss"], hf: &["SeedOssForCausalLM"], ffn_norm_is_post: true, ..HALVES },
    Arch { gguf: &["codeshell"], hf: &[], style: &style::GPT2, norm: NormKind::Layer, act: Act::GeluTanh, ..HALVES },
    Arch { gguf: &["jais2"], hf: &["Jais2ForCausalLM"], norm: NormKind::Layer, act: Act::ReluSquared, ..HALVES },
    // ALiBi instead of rotation. Source: arXiv:2108.12409.
    Arch {
        gguf: &["bloom"],
        hf: &["BloomForCausalLM"],
        style: &style::BLOOM,
        norm: NormKind::Layer,
        no_rope: NoRope::Always,
        alibi: Alibi::Bias(8.0),
        act: Act::GeluTanh,
        qkv: Fused::Grouped,
        ..HALVES
    },
    Arch {
        gguf: &["mpt"],
        hf: &["MptForCausalLM"],
        norm: NormKind::Layer,
        no_rope: NoRope::Always,
        alibi: Alibi::Config,
        act: Act::GeluTanh,
        qk_norm_pair: true,
        ..HALVES
    },
    // muP: scores by the width. Source: modeling_jais.py.
    Arch {
        gguf: &["jais"],
        hf: &[],
        norm: NormKind::Layer,
        no_rope: NoRope::Always,
        alibi: Alibi::Config,
        scale_by_width: true,
        ..HALVES
    },
    Arch {
        gguf: &["refact"],
        hf: &["GPTRefactForCausalLM"],
        no_experts: true,
        no_rope: NoRope::Always,
        alibi: Alibi::Bias(8.0),
        no_bias: &[Role::AttnOut, Role::FfnGate, Role::FfnUp, Role::FfnDown],
        ffn_scales: false,
        ..LLAMA
    },
    Arch { gguf: &["nanbeige"], hf: &[], ..LLAMA },
    Arch { gguf: &["openelm"], hf: &["OpenELMForCausalLM"], no_scale: &[Role::AttnQkv], ..HALVES },
    Arch { gguf: &["plamo"], hf: &["PlamoForCausalLM"], parallel: Parallel::Yes, ..HALVES },
    Arch {
        gguf: &["plamo3"],
        hf: &[],
        norms: Norms::Sandwich,
        window: WindowLayers::Period(8),
        no_scale: &[Role::AttnQkv],
        ..HALVES
    },
    Arch {
        gguf: &["pockettts"],
        hf: &[],
        pairs: INTERLEAVED,
        norm: NormKind::Layer,
        act: Act::GeluTanh,
        ffn_scales: false,
        ..LLAMA
    },
    Arch {
        gguf: &["spark2_5"],
        hf: &[],
        window: WindowLayers::Period(4),
        act: Act::GeluTanh,
        no_scale: &[Role::AttnGate],
        ..HALVES
    },
    Arch {
        gguf: &["muse-glimmer"],
        hf: &[],
        pairs: INTERLEAVED,
        norms: Norms::Sandwich,
        post_eps: Some(1e-8),
        embed_norm_plain: true,
        window: WindowLayers::Period(4),
        no_rope: NoRope::Full,
        softcaps: [false, true],
        ffn_scales: false,
        no_scale: &[Role::AttnGate],
        ..LLAMA
    },
    Arch {
        gguf: &["cogvlm"],
        hf: &[],
        no_scale: &[Role::AttnQkv],
        harmless: &[".vis_"],
        absent: &[Role::RopeFreqs],
        ..HALVES
    },
    // Baichuan 7B rotates, 13B has ALiBi.
    Arch {
        gguf: &["baichuan"],
        hf: &[],
        no_rope: NoRope::ButDepth(32),
        alibi: Alibi::InDepth(40, 8.0),
        ffn_scales: false,
        ..LLAMA
    },
    Arch { gguf: &["maincoder"], hf: &[], qk_norm_late: true, ffn_scales: false, ..LLAMA },
    Arch { gguf: &["pangu-embedded"], hf: &[], absent: &[Role::RopeFreqs], ..HALVES },
    // Layers that lack attention or feed-forward. Source: arXiv:2411.19146.
    Arch { gguf: &["deci"], hf: &["DeciLMForCausalLM"], single_part: true, ffn_scales: false, ..LLAMA },
    Arch { gguf: &[], hf: &["CwmForCausalLM"], written_as: "llama", window: WindowLayers::All, ..LLAMA },
    // LLaMA with pairs that lie as in LLaMA's GGUF files.
    Arch { gguf: &[], hf: &["HeliumForCausalLM"], written_as: "llama", pairs: INTERLEAVED, ..LLAMA },
    Arch {
        gguf: &[],
        hf: &["GPTJForCausalLM"],
        pairs: INTERLEAVED,
        norm: NormKind::Layer,
        parallel: Parallel::Yes,
        act: Act::GeluTanh,
        ..LLAMA
    },
];
