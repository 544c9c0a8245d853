//! Rows of architectures with mixtures of experts.

use mlxr_compute::op::{Act, Gating, NormKind};

use crate::arch::{
    Arch, Beside, EmbedScale, LLAMA, LogitScale, NoRope, Norms, Parallel, Temperature, WindowLayers, WindowRope,
};
use crate::config;
use crate::names::Role;
use crate::style;
use crate::table::{HALVES, INTERLEAVED};

/// Sparse attention, full up to as many tokens as its indexer keeps.
const INDEXED: Arch = Arch {
    gguf: &[],
    hf: &[],
    style: &style::SHARED_EXPERTS,
    pairs: INTERLEAVED,
    gating: Gating::Sigmoid,
    harmless: &[".indexer."],
    ..LLAMA
};

pub(crate) const EXPERTS: &[Arch] = &[
    Arch { gguf: &["qwen2moe"], hf: &["Qwen2MoeForCausalLM"], normalize: false, ..HALVES },
    Arch {
        gguf: &["qwen3moe"],
        hf: &["Qwen3MoeForCausalLM", "Qwen3VLMoeForConditionalGeneration"],
        ffn_scales: true,
        ..HALVES
    },
    // GGUF's runtime norms by the root mean square and adds the bias; transformers uses layer norms.
    Arch { gguf: &["phimoe"], hf: &[], ..HALVES },
    Arch {
        gguf: &[],
        hf: &["PhimoeForCausalLM", "PhiMoEForCausalLM"],
        written_as: "phimoe",
        style: &style::MIXTRAL,
        norm: NormKind::Layer,
        gating: Gating::SparseMixer,
        normalize: false,
        ..HALVES
    },
    // Multi-head latent attention. Source: arXiv:2405.04434, arXiv:2412.19437; modeling_deepseek_v3.py.
    // Sparse attention, full up to as many tokens as its indexer keeps.
    Arch {
        gguf: &["deepseek32", "glm-dsa"],
        hf: &[],
        pairs: INTERLEAVED,
        normalize: false,
        harmless: &[".indexer."],
        ..LLAMA
    },
    Arch { hf: &["DeepseekV32ForCausalLM"], written_as: "deepseek32", ..INDEXED },
    Arch { hf: &["GlmMoeDsaForCausalLM"], written_as: "glm-dsa", ..INDEXED },
    Arch {
        gguf: &["deepseek2"],
        hf: &["DeepseekV2ForCausalLM"],
        style: &style::SHARED_EXPERTS,
        mlx_joint_kv_b: true,
        pairs: INTERLEAVED,
        normalize: false,
        ffn_scales: false,
        ..LLAMA
    },
    Arch {
        gguf: &["mistral4"],
        hf: &["Mistral4ForCausalLM"],
        style: &style::MISTRAL4,
        pairs: INTERLEAVED,
        normalize: false,
        experts_bare: true,
        ffn_scales: false,
        ..LLAMA
    },
    Arch {
        gguf: &[],
        hf: &["DeepseekV3ForCausalLM", "Glm4MoeLiteForCausalLM", "YoutuForCausalLM"],
        written_as: "deepseek2",
        style: &style::SHARED_EXPERTS,
        pairs: INTERLEAVED,
        gating: Gating::Sigmoid,
        ffn_scales: false,
        ..LLAMA
    },
    Arch {
        gguf: &["deepseek"],
        hf: &["DeepseekForCausalLM"],
        style: &style::SHARED_EXPERTS,
        normalize: false,
        ffn_scales: false,
        ..LLAMA
    },
    // Attention sinks, biased experts. Source: modeling_gpt_oss.py.
    Arch {
        gguf: &["gpt-oss"],
        hf: &["GptOssForCausalLM"],
        style: &style::GPT_OSS,
        ffn_norm_is_post: true,
        window: WindowLayers::Period(2),
        act: Act::SwigluOai { alpha: 1.702, limit: 7.0 },
        gating: Gating::SoftmaxOfChosen,
        normalize: false,
        experts_bare: true,
        experts_transposed: true,
        experts_by_turns: true,
        ..HALVES
    },
    Arch { gguf: &["olmoe"], hf: &["OlmoeForCausalLM"], normalize: false, ..HALVES },
    // LLaMA with factors on embeddings, residuals, attention and logits. Source: modeling_granite.py.
    Arch {
        gguf: &["granite"],
        hf: &["GraniteForCausalLM", "GraniteMoeForCausalLM"],
        written_as: "granitemoe",
        style: &style::GRANITE,
        no_rope: NoRope::ByConfig(true),
        logit_scale: LogitScale::Divide,
        ffn_scales: false,
        ..LLAMA
    },
    Arch { gguf: &["granitemoe"], hf: &[], logit_scale: LogitScale::Divide, ffn_scales: false, ..LLAMA },
    Arch {
        gguf: &[],
        hf: &["GraniteMoeSharedForCausalLM"],
        written_as: "granitemoe",
        style: &style::GRANITE_SHARED,
        no_rope: NoRope::ByConfig(true),
        logit_scale: LogitScale::Divide,
        ..LLAMA
    },
    Arch {
        gguf: &["ernie4_5", "ernie4_5-moe"],
        hf: &["Ernie4_5ForCausalLM", "Ernie4_5_MoeForCausalLM"],
        written_as: "ernie4_5-moe",
        style: &style::ERNIE,
        select_bias_row: true,
        pairs: INTERLEAVED,
        no_bias: &[Role::AttnOut],
        ffn_scales: false,
        ..LLAMA
    },
    Arch {
        gguf: &["glm4moe"],
        hf: &["Glm4MoeForCausalLM", "SolarOpenForCausalLM"],
        style: &style::SHARED_EXPERTS,
        ffn_norm_is_post: true,
        gating: Gating::Sigmoid,
        normalize: false,
        ..HALVES
    },
    Arch {
        gguf: &["hunyuan-dense", "hunyuan-moe", "hunyuan_vl"],
        hf: &["HunYuanDenseV1ForCausalLM", "HunYuanMoEV1ForCausalLM"],
        written_as: "hunyuan-moe",
        style: &style::HUNYUAN,
        qk_norm_late: true,
        ..HALVES
    },
    Arch {
        gguf: &["dots1"],
        hf: &["Dots1ForCausalLM"],
        style: &style::DOTS1,
        gating: Gating::Sigmoid,
        normalize: false,
        ..HALVES
    },
    Arch { gguf: &["bailingmoe"], hf: &["BailingMoeForCausalLM"], normalize: true, ffn_scales: false, ..LLAMA },
    Arch {
        gguf: &["bailingmoe2"],
        hf: &["BailingMoeV2ForCausalLM"],
        gating: Gating::Sigmoid,
        normalize: false,
        ..HALVES
    },
    Arch {
        gguf: &["exaone-moe"],
        hf: &["ExaoneMoeForCausalLM"],
        style: &style::EXAONE_MOE,
        window: WindowLayers::Period(4),
        no_rope: NoRope::Full,
        gating: Gating::Sigmoid,
        normalize: false,
        ..HALVES
    },
    Arch {
        gguf: &["llama4"],
        hf: &["Llama4ForCausalLM", "Llama4ForConditionalGeneration"],
        style: &style::LLAMA4,
        pairs: INTERLEAVED,
        no_rope: NoRope::Every(4),
        window: WindowLayers::Chunked(4),
        qk_norm_plain: true,
        temperature: Some(Temperature { scale: 0.1, floor: 8192.0, offset: 1.0, unrotated: true }),
        gating: Gating::Sigmoid,
        normalize: false,
        weight_input: true,
        experts_bare: true,
        experts_transposed: true,
        ffn_scales: false,
        ..LLAMA
    },
    Arch {
        gguf: &["cohere2moe"],
        hf: &[],
        pairs: INTERLEAVED,
        norm: NormKind::Layer,
        norm_by_eps: true,
        parallel: Parallel::Yes,
        window: WindowLayers::PeriodFirst(4),
        no_rope: NoRope::FullSparse,
        gating: Gating::Sigmoid,
        normalize: false,
        shared_mean: 0.5,
        ..LLAMA
    },
    // Source: grok-1 and grok-2 as released.
    Arch {
        gguf: &["grok"],
        hf: &[],
        norms: Norms::Sandwich,
        act: Act::GeluTanh,
        softcaps: [true, true],
        beside: Beside::Added,
        shared_mean: std::f32::consts::FRAC_1_SQRT_2,
        defaults: &[
            (config::LOGIT_SCALE, 0.577_350_26),
            (config::EMBED_SCALE, 78.383_67),
            (config::ATTN_OUT_SCALE, 0.088_388_35),
            (config::ATTN_SOFTCAP, 30.0),
            (config::ROPE_BETA_FAST, 8.0),
        ],
        ..HALVES
    },
    Arch { gguf: &["dbrx"], hf: &["DbrxForCausalLM"], norm: NormKind::Layer, ..HALVES },
    Arch {
        gguf: &["smallthinker"],
        hf: &["SmallThinkerForCausalLM"],
        act: Act::Relu,
        window: WindowLayers::PeriodFirst(4),
        no_rope: NoRope::FirstOf(4),
        router_early: true,
        ..HALVES
    },
    Arch {
        gguf: &["mellum"],
        hf: &[],
        window: WindowLayers::Period(4),
        window_rope: WindowRope::Plain(0.0),
        ffn_scales: true,
        ..HALVES
    },
    // A gate on attention's output. Source: modeling_afmoe.py.
    Arch {
        gguf: &["afmoe"],
        hf: &[],
        norms: Norms::Sandwich,
        embed_scale: EmbedScale::SqrtWidth,
        window: WindowLayers::Period(4),
        no_rope: NoRope::Every(4),
        gating: Gating::Sigmoid,
        normalize: false,
        no_scale: &[Role::AttnGate],
        ..HALVES
    },
    Arch {
        gguf: &[],
        hf: &["AfmoeForCausalLM"],
        written_as: "afmoe",
        style: &style::AFMOE,
        norms: Norms::Sandwich,
        embed_scale: EmbedScale::SqrtWidth,
        window: WindowLayers::Period(4),
        no_rope: NoRope::Full,
        gating: Gating::Sigmoid,
        ..HALVES
    },
    Arch {
        gguf: &["mimo2"],
        hf: &["MiMoV2FlashForCausalLM"],
        window: WindowLayers::All,
        gating: Gating::Sigmoid,
        no_bias: &[Role::AttnQ, Role::AttnK, Role::AttnV],
        no_scale: &[Role::AttnQ, Role::AttnK, Role::AttnV],
        beside: Beside::Unused,
        ..HALVES
    },
    Arch {
        gguf: &["hy_v3"],
        hf: &[],
        bare: &[Role::SelectBias],
        gating: Gating::Sigmoid,
        normalize: false,
        beside: Beside::Unused,
        ffn_scales: true,
        ..HALVES
    },
    Arch {
        gguf: &[],
        hf: &["HYV3ForCausalLM"],
        written_as: "hy_v3",
        style: &style::HY_V3,
        gating: Gating::Sigmoid,
        ..HALVES
    },
    Arch {
        gguf: &["laguna"],
        hf: &[],
        window: WindowLayers::PeriodFirst(4),
        window_rope: WindowRope::Plain(0.0),
        gate_act: Act::Softplus,
        gating: Gating::Sigmoid,
        normalize: false,
        no_scale: &[Role::AttnGate],
        ..HALVES
    },
    Arch {
        gguf: &["step35"],
        hf: &["Step3p5ForCausalLM"],
        window: WindowLayers::All,
        gating: Gating::Sigmoid,
        normalize: false,
        no_scale: &[Role::AttnGate],
        ..HALVES
    },
    Arch {
        gguf: &["minimax-m2"],
        hf: &["MiniMaxM2ForCausalLM"],
        style: &style::MINIMAX,
        gating: Gating::Sigmoid,
        ..HALVES
    },
    Arch { gguf: &["qwen", "qwen3tts", "qwen3vl", "qwen3vlmoe", "paddleocr"], hf: &[], ..HALVES },
    // OLMo 2 with experts. Source: modeling_flex_olmo.py.
    Arch { gguf: &[], hf: &["FlexOlmoForCausalLM"], norms: Norms::Post, normalize: false, ..LLAMA },
];
