//! Rows of architectures with recurrent states.

use mlxr_compute::op::{Act, Gating};

use crate::arch::{Arch, LLAMA, LogitScale, NoRope, WindowLayers};
use crate::names::Role;
use crate::style;
use crate::table::{HALVES, INTERLEAVED};

pub(crate) const RECURRENT: &[Arch] = &[
    // Selective state spaces. Source: arXiv:2312.00752.
    Arch {
        gguf: &["mamba"],
        hf: &["MambaForCausalLM"],
        style: &style::MAMBA,
        no_rope: NoRope::Always,
        ffn_scales: false,
        ..LLAMA
    },
    Arch {
        gguf: &[],
        hf: &["FalconMambaForCausalLM"],
        written_as: "mamba",
        style: &style::MAMBA,
        no_rope: NoRope::Always,
        ssm_normed: true,
        ffn_scales: false,
        ..LLAMA
    },
    // State spaces and attention by turns. Source: arXiv:2403.19887.
    Arch {
        gguf: &["jamba"],
        hf: &["JambaForCausalLM"],
        style: &style::JAMBA,
        no_rope: NoRope::Always,
        normalize: false,
        ffn_scales: false,
        ..LLAMA
    },
    // State spaces beside attention. Source: arXiv:2507.22448.
    Arch {
        gguf: &["falcon-h1"],
        hf: &["FalconH1ForCausalLM"],
        style: &style::JAMBA,
        bare: &[Role::FfnNorm],
        folds: true,
        no_bias: &[Role::AttnOut],
        absent: &[Role::RopeFreqs],
        ..HALVES
    },
    // Layers of one part each. Source: arXiv:2504.03624.
    Arch {
        gguf: &["nemotron_h", "nemotron_h_moe"],
        hf: &["NemotronHForCausalLM"],
        written_as: "nemotron_h_moe",
        style: &style::NEMOTRON_H,
        no_rope: NoRope::Always,
        act: Act::ReluSquared,
        gating: Gating::Sigmoid,
        normalize: false,
        single_part: true,
        ..LLAMA
    },
    // Short convolutions and attention. Source: modeling_lfm2.py.
    Arch {
        gguf: &["lfm2", "lfm2moe"],
        hf: &["Lfm2ForCausalLM", "Lfm2MoeForCausalLM"],
        written_as: "lfm2moe",
        style: &style::LFM2,
        renames: &[(Role::OutputNorm, Role::EmbedNorm)],
        absent: &[Role::EmbedNorm],
        window: WindowLayers::All,
        gating: Gating::Sigmoid,
        ..HALVES
    },
    // Gated delta nets and gated attention. Source: modeling_qwen3_next.py, arXiv:2412.06464.
    Arch {
        gguf: &["qwen3next"],
        hf: &["Qwen3NextForCausalLM"],
        style: &style::QWEN_DELTA,
        ffn_norm_is_post: true,
        norm_plus_one: true,
        mlx_norm_whole: true,
        no_scale: &[Role::DeltaQkv, Role::DeltaGate, Role::SsmOut],
        ffn_scales: true,
        ..HALVES
    },
    Arch {
        gguf: &["qwen35", "qwen35moe"],
        hf: &[
            "Qwen3_5ForCausalLM",
            "Qwen3_5ForConditionalGeneration",
            "Qwen3_5MoeForCausalLM",
            "Qwen3_5MoeForConditionalGeneration",
        ],
        written_as: "qwen35moe",
        style: &style::QWEN_DELTA,
        ffn_norm_is_post: true,
        sections: Some([11, 11, 10, 0]),
        norm_plus_one: true,
        mlx_norm_whole: true,
        delta_tiled: true,
        ffn_scales: true,
        ..HALVES
    },
    // Delta nets with a decay for each channel, and latent attention without rotation. Source: arXiv:2510.26692.
    Arch {
        gguf: &["kimi-linear"],
        hf: &["KimiLinearForCausalLM"],
        style: &style::KIMI,
        no_rope: NoRope::Always,
        no_bias: &[Role::AttnQ, Role::AttnK, Role::AttnV],
        no_scale: &[Role::AttnQ, Role::AttnK, Role::AttnV, Role::DeltaBeta],
        gating: Gating::Sigmoid,
        delta_sigmoid: true,
        ffn_scales: false,
        ..LLAMA
    },
    Arch {
        gguf: &["bailingmoe3"],
        hf: &[],
        pairs: INTERLEAVED,
        sections_halve: true,
        no_bias: &[Role::AttnQ, Role::AttnK, Role::AttnV],
        no_scale: &[Role::AttnQ, Role::AttnK, Role::AttnV, Role::AttnOut, Role::AttnGate, Role::DeltaBeta],
        gating: Gating::Sigmoid,
        normalize: false,
        delta_sigmoid: true,
        ffn_scales: false,
        ..LLAMA
    },
    // State space duality. Source: arXiv:2405.21060.
    Arch {
        gguf: &["mamba2"],
        hf: &["Mamba2ForCausalLM"],
        style: &style::MAMBA,
        no_rope: NoRope::Always,
        ffn_scales: false,
        ..LLAMA
    },
    // Granite with state spaces by turns with attention.
    Arch {
        gguf: &["granitehybrid"],
        hf: &["GraniteMoeHybridForCausalLM"],
        style: &style::GRANITE_HYBRID,
        no_rope: NoRope::ByConfig(false),
        logit_scale: LogitScale::Divide,
        ffn_scales: false,
        ..LLAMA
    },
    Arch { gguf: &[], hf: &["BambaForCausalLM"], written_as: "granitehybrid", style: &style::JAMBA, ..LLAMA },
];
