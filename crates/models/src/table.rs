//! The table of architectures: a row each, as difference from LLaMA. The literal names stand here and nowhere else.

use mlxr_compute::op::{Act, Gating, NormKind, RopePairs};

use crate::arch::{
    Alibi, Arch, EmbedScale, Fused, LLAMA, LogitScale, NoRope, Norms, Parallel, WindowLayers, WindowRope,
};

const HALF: [RopePairs; 2] = [RopePairs::HalfSplit; 2];
const INTERLEAVED: [RopePairs; 2] = [RopePairs::Interleaved; 2];

/// LLaMA with halves rotated in GGUF files too, and `.scale` tensors of its feed-forward not applied: the convention
/// of most architectures after LLaMA.
const HALVES: Arch = Arch { pairs: HALF, ffn_scales: false, ..LLAMA };

/// Every architecture that is known by name.
pub const ARCHS: &[Arch] = &[
    // Llama, Yi, Mixtral, Vicuna, TinyLlama, DeepSeek-LLM, SmolLM, ... Mistral's window applies to its HF files only:
    // converters drop it.
    Arch { hf: &["LlamaForCausalLM", "MixtralForCausalLM", "LLaMAForCausalLM"], ..LLAMA },
    Arch { gguf: &[], hf: &["MistralForCausalLM"], window: WindowLayers::All, ..LLAMA },
    Arch {
        gguf: &["mistral3"],
        hf: &["Mistral3ForConditionalGeneration", "Ministral3ForCausalLM", "MinistralForCausalLM"],
        ..LLAMA
    },
    // LLaMA with rotation left out of every fourth layer. Source: modeling_smollm3.py.
    Arch { gguf: &["smollm3"], hf: &["SmolLM3ForCausalLM"], no_rope: NoRope::Every(4), ffn_scales: false, ..LLAMA },
    // LLaMA with biases on q, k, v (read from the tensors). Source: modeling_qwen2.py.
    Arch { gguf: &["qwen2", "qwen2vl"], hf: &["Qwen2ForCausalLM", "Qwen2VLForConditionalGeneration"], ..HALVES },
    Arch { gguf: &["qwen2moe"], hf: &["Qwen2MoeForCausalLM"], normalize: false, ..HALVES },
    // LLaMA with q and k normed per head. Source: modeling_qwen3.py.
    Arch { gguf: &["qwen3"], hf: &["Qwen3ForCausalLM"], ffn_scales: true, ..HALVES },
    Arch { gguf: &["qwen3moe"], hf: &["Qwen3MoeForCausalLM"], ffn_scales: true, ..HALVES },
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
        norm: NormKind::Layer,
        parallel: Parallel::Yes,
        act: Act::GeluTanh,
        ..HALVES
    },
    Arch { gguf: &["phi3"], hf: &["Phi3ForCausalLM"], window: WindowLayers::All, ..HALVES },
    // GGUF's runtime norms by the root mean square and adds the bias; transformers uses layer norms.
    Arch { gguf: &["phimoe"], hf: &[], ..HALVES },
    Arch {
        gguf: &[],
        hf: &["PhimoeForCausalLM", "PhiMoEForCausalLM"],
        norm: NormKind::Layer,
        gating: Gating::SparseMixer,
        normalize: false,
        ..HALVES
    },
    // Multi-head latent attention. Source: arXiv:2405.04434, arXiv:2412.19437; modeling_deepseek_v3.py.
    Arch {
        gguf: &["deepseek2"],
        hf: &["DeepseekV2ForCausalLM"],
        pairs: INTERLEAVED,
        normalize: false,
        ffn_scales: false,
        ..LLAMA
    },
    Arch {
        gguf: &[],
        hf: &["DeepseekV3ForCausalLM"],
        pairs: INTERLEAVED,
        gating: Gating::Sigmoid,
        ffn_scales: false,
        ..LLAMA
    },
    Arch { gguf: &["deepseek"], hf: &["DeepseekForCausalLM"], normalize: false, ffn_scales: false, ..LLAMA },
    // Attention sinks, biased experts. Source: modeling_gpt_oss.py.
    Arch {
        gguf: &["gpt-oss"],
        hf: &["GptOssForCausalLM"],
        window: WindowLayers::Period(2),
        act: Act::SwigluOai { alpha: 1.702, limit: 7.0 },
        gating: Gating::SoftmaxOfChosen,
        normalize: false,
        experts_transposed: true,
        experts_by_turns: true,
        ..HALVES
    },
    Arch {
        gguf: &["gpt2"],
        hf: &["GPT2LMHeadModel"],
        norm: NormKind::Layer,
        no_rope: NoRope::Always,
        act: Act::GeluTanh,
        transposed: true,
        ..HALVES
    },
    Arch {
        gguf: &["starcoder"],
        hf: &["GPTBigCodeForCausalLM"],
        norm: NormKind::Layer,
        no_rope: NoRope::Always,
        act: Act::GeluTanh,
        ..HALVES
    },
    // Pythia and GPT-NeoX. Source: modeling_gpt_neox.py.
    Arch {
        gguf: &["gptneox"],
        hf: &["GPTNeoXForCausalLM"],
        norm: NormKind::Layer,
        parallel: Parallel::Config,
        qkv: Fused::Grouped,
        act: Act::GeluTanh,
        ..HALVES
    },
    Arch {
        gguf: &["falcon"],
        hf: &["FalconForCausalLM", "RWForCausalLM"],
        norm: NormKind::Layer,
        parallel: Parallel::Yes,
        qkv: Fused::Grouped,
        act: Act::GeluTanh,
        ..HALVES
    },
    Arch {
        gguf: &["stablelm"],
        hf: &["StableLmForCausalLM", "StableLMEpochForCausalLM"],
        norm: NormKind::Layer,
        parallel: Parallel::WithoutFfnNorm,
        ..HALVES
    },
    // Norms after the blocks; q and k normed over the whole row. Source: arXiv:2501.00656; modeling_olmo3.py.
    Arch {
        gguf: &["olmo2"],
        hf: &["Olmo2ForCausalLM", "Olmo3ForCausalLM"],
        norms: Norms::Post,
        window: WindowLayers::Period(4),
        window_rope: WindowRope::Plain(0.0),
        ..HALVES
    },
    // Norms without weights, clamped q, k, v. Source: arXiv:2402.00838.
    Arch { gguf: &["olmo"], hf: &["OlmoForCausalLM"], norm: NormKind::Layer, ffn_scales: false, ..LLAMA },
    Arch { gguf: &["olmoe"], hf: &["OlmoeForCausalLM"], normalize: false, ..HALVES },
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
    // State space duality. Source: arXiv:2405.21060.
    Arch { gguf: &["mamba2"], hf: &["Mamba2ForCausalLM"], no_rope: NoRope::Always, ffn_scales: false, ..LLAMA },
    // LLaMA with factors on embeddings, residuals, attention and logits. Source: modeling_granite.py.
    Arch {
        gguf: &["granite", "granitemoe"],
        hf: &["GraniteForCausalLM", "GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"],
        logit_scale: LogitScale::Divide,
        ffn_scales: false,
        ..LLAMA
    },
    Arch {
        gguf: &["minicpm"],
        hf: &["MiniCPMForCausalLM"],
        logit_scale: LogitScale::Divide,
        ffn_scales: false,
        ..LLAMA
    },
    Arch { gguf: &["internlm2"], hf: &["InternLM2ForCausalLM"], qkv: Fused::Grouped, ffn_scales: false, ..LLAMA },
    Arch { gguf: &["xverse"], hf: &["XverseForCausalLM"], ffn_scales: false, ..LLAMA },
    Arch { gguf: &["arcee"], hf: &["ArceeForCausalLM"], act: Act::ReluSquared, ffn_scales: false, ..LLAMA },
    Arch {
        gguf: &["ernie4_5", "ernie4_5-moe"],
        hf: &["Ernie4_5ForCausalLM", "Ernie4_5_MoeForCausalLM"],
        pairs: INTERLEAVED,
        ffn_scales: false,
        ..LLAMA
    },
    Arch {
        gguf: &["starcoder2"],
        hf: &["Starcoder2ForCausalLM"],
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
        norms: Norms::Post,
        window: WindowLayers::PeriodIn(4, 64),
        no_rope: NoRope::Full,
        ..HALVES
    },
    // Sandwich norms, fused gate and up. Source: modeling_glm4.py.
    Arch { gguf: &["chatglm"], hf: &["GlmForCausalLM"], pairs: INTERLEAVED, ffn_scales: false, ..LLAMA },
    Arch {
        gguf: &["glm4"],
        hf: &["Glm4ForCausalLM"],
        pairs: INTERLEAVED,
        norms: Norms::Sandwich,
        ffn_scales: false,
        ..LLAMA
    },
    Arch { gguf: &["glm4moe"], hf: &["Glm4MoeForCausalLM"], gating: Gating::Sigmoid, normalize: false, ..HALVES },
    Arch { gguf: &["seed_oss"], hf: &["SeedOssForCausalLM"], ..HALVES },
    Arch {
        gguf: &["hunyuan-dense", "hunyuan-moe"],
        hf: &["HunYuanDenseV1ForCausalLM", "HunYuanMoEV1ForCausalLM"],
        qk_norm_late: true,
        ..HALVES
    },
    Arch { gguf: &["dots1"], hf: &["Dots1ForCausalLM"], gating: Gating::Sigmoid, normalize: false, ..HALVES },
    Arch { gguf: &["bailingmoe"], hf: &["BailingMoeForCausalLM"], normalize: true, ffn_scales: false, ..LLAMA },
    Arch {
        gguf: &["bailingmoe2", "exaone-moe"],
        hf: &["BailingMoeV2ForCausalLM"],
        gating: Gating::Sigmoid,
        normalize: false,
        ..HALVES
    },
    Arch { gguf: &["codeshell"], hf: &[], norm: NormKind::Layer, act: Act::GeluTanh, ..HALVES },
    Arch { gguf: &["jais2"], hf: &[], norm: NormKind::Layer, act: Act::ReluSquared, ..HALVES },
    // ALiBi instead of rotation. Source: arXiv:2108.12409.
    Arch {
        gguf: &["bloom"],
        hf: &["BloomForCausalLM"],
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
        ..HALVES
    },
    Arch {
        gguf: &["refact"],
        hf: &["GPTRefactForCausalLM"],
        no_rope: NoRope::Always,
        alibi: Alibi::Bias(8.0),
        ffn_scales: false,
        ..LLAMA
    },
    Arch {
        gguf: &["llama4"],
        hf: &["Llama4ForCausalLM", "Llama4ForConditionalGeneration"],
        pairs: INTERLEAVED,
        no_rope: NoRope::Every(4),
        window: WindowLayers::Chunked(4),
        qk_norm_plain: true,
        gating: Gating::Sigmoid,
        normalize: false,
        weight_input: true,
        experts_transposed: true,
        ffn_scales: false,
        ..LLAMA
    },
];

/// The row for an architecture's name in GGUF.
pub fn by_gguf(name: &str) -> Option<&'static Arch> {
    ARCHS.iter().find(|a| a.gguf.contains(&name))
}

/// The row for a class name in `config.json`.
pub fn by_hf(name: &str) -> Option<&'static Arch> {
    ARCHS.iter().find(|a| a.hf.contains(&name))
}

/// Models that are no autoregressive decoders, though their tensors look like it: what they are instead.
pub const REFUSED: &[(&str, &str)] = &[
    ("dream", "a diffusion model"),
    ("DreamModel", "a diffusion model"),
    ("llada", "a diffusion model"),
    ("llada-moe", "a diffusion model"),
    ("LLaDAModelLM", "a diffusion model"),
    ("rnd1", "a diffusion model"),
    ("bert", "an encoder"),
    ("BertModel", "an encoder"),
    ("nomic-bert", "an encoder"),
    ("t5encoder", "an encoder"),
];

/// What an unknown decoder is taken for: LLaMA with halves rotated.
pub static GENERIC: &Arch = &HALVES;

/// Names of all architectures, in GGUF or in `config.json`.
pub fn known(gguf: bool) -> String {
    let names = ARCHS.iter().flat_map(|a| if gguf { a.gguf } else { a.hf });
    names.copied().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_belongs_to_one_row() {
        let mut names: Vec<&str> = ARCHS.iter().flat_map(|a| a.gguf.iter().chain(a.hf)).copied().collect();
        let n = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), n);
    }
}
