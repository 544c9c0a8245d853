"""Tiny random Hugging Face checkpoints with golden logits from `transformers`.

Writes crates/models/tests/data/hf/NAME/{config.json, model.safetensors, golden.logits}. Weights are rounded to bf16
and saved so; logits are computed in f32 from the rounded weights. Format of golden.logits: little-endian i32 n, i32 v,
n token ids (i32), then n * v f32. Needs PyPI torch, transformers, safetensors; never needed to build or test.

    python xtask/golden/hf_models.py [NAME...]
"""

import json
import pathlib
import struct
import sys

import torch
import transformers

OUT = pathlib.Path(__file__).resolve().parents[2] / "crates/models/tests/data/hf"
VOCAB, WIDTH, FF, LAYERS, HEADS, TOKENS = 96, 32, 48, 2, 4, 24

BASE = dict(
    vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=FF, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
    max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False,
)
GQA = dict(num_key_value_heads=2)
MHA = dict(num_key_value_heads=HEADS)
MOE = dict(num_experts_per_tok=2, norm_topk_prob=True)
DELTA = dict(
    layer_types=["linear_attention", "full_attention"], linear_num_key_heads=2, linear_num_value_heads=4,
    linear_key_head_dim=8, linear_value_head_dim=8, linear_conv_kernel_dim=4,
)
DSA = dict(
    num_experts_per_tok=2, moe_intermediate_size=16, kv_lora_rank=16, q_lora_rank=24, qk_nope_head_dim=8,
    qk_rope_head_dim=8, v_head_dim=16, mlp_layer_types=["dense", "sparse"], first_k_dense_replace=1, routed_scaling_factor=1.8,
    index_topk=64, index_head_dim=64, index_n_heads=4,  # llama.cpp mixes 64 dimensions of a key
)
SSM1 = dict(intermediate_size=None, num_attention_heads=None, max_position_embeddings=None)
SSM2 = dict(mamba_n_heads=8, mamba_d_head=8, mamba_n_groups=2, mamba_d_state=16, mamba_d_conv=4, mamba_chunk_size=8)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=32)


def rope(**kwargs):
    return dict(rope_parameters=dict(rope_theta=10000.0, **kwargs))


# name: (class prefix, settings beyond BASE; None removes a setting)
MODELS = {
    "llama": ("Llama", GQA),
    "llama-bias-tied": ("Llama", GQA | dict(attention_bias=True, mlp_bias=True, tie_word_embeddings=True, head_dim=24)),
    "llama-linear": ("Llama", GQA | rope(rope_type="linear", factor=4.0)),
    "llama-dynamic": ("Llama", GQA | rope(rope_type="dynamic", factor=4.0)),
    "llama-yarn": ("Llama", GQA | dict(rope_parameters=YARN)),
    "llama-llama3": ("Llama", GQA | rope(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                         original_max_position_embeddings=32)),
    "mistral": ("Mistral", GQA | dict(sliding_window=8)),
    "mixtral": ("Mixtral", GQA | dict(num_local_experts=4, num_experts_per_tok=2, sliding_window=None)),
    "qwen2": ("Qwen2", GQA),
    "qwen2-moe": ("Qwen2Moe", GQA | dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
                                         shared_expert_intermediate_size=48, decoder_sparse_step=1)),
    "qwen3": ("Qwen3", GQA | dict(head_dim=32)),
    "qwen3-moe": ("Qwen3Moe", GQA | MOE | dict(num_experts=4, moe_intermediate_size=32, head_dim=32)),
    "gemma": ("Gemma", GQA | dict(head_dim=32, tie_word_embeddings=True)),
    "gemma2": ("Gemma2", GQA | dict(head_dim=32, sliding_window=8, query_pre_attn_scalar=24, tie_word_embeddings=True)),
    "gemma3": ("Gemma3Text", GQA | dict(head_dim=32, sliding_window=8, query_pre_attn_scalar=24,
                                        tie_word_embeddings=True, num_hidden_layers=7)),
    "phi": ("Phi", dict(partial_rotary_factor=0.5)),
    "phi3": ("Phi3", GQA | dict(sliding_window=None)),
    "phi3-longrope": ("Phi3", GQA | dict(
        sliding_window=None, original_max_position_embeddings=64, rope_parameters=dict(
            rope_type="longrope", rope_theta=10000.0, original_max_position_embeddings=64,
            short_factor=[1.0 + 0.1 * i for i in range(4)], long_factor=[2.0 + 0.5 * i for i in range(4)]))),
    "phimoe": ("Phimoe", GQA | dict(num_local_experts=4, num_experts_per_tok=2, sliding_window=None, lm_head_bias=True,
                                    attention_bias=True)),
    "deepseek-v2": ("DeepseekV2", dict(
        num_key_value_heads=HEADS, n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=1,
        moe_intermediate_size=32, kv_lora_rank=32, q_lora_rank=None, qk_nope_head_dim=16, qk_rope_head_dim=8,
        v_head_dim=16, n_group=1, topk_group=1, topk_method="greedy", routed_scaling_factor=1.0)),
    "deepseek-v3": ("DeepseekV3", dict(
        num_key_value_heads=HEADS, n_routed_experts=8, num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=1,
        moe_intermediate_size=32, kv_lora_rank=32, q_lora_rank=24, qk_nope_head_dim=16, qk_rope_head_dim=8,
        v_head_dim=16, n_group=2, topk_group=1, routed_scaling_factor=2.5)),
    "gpt-oss": ("GptOss", GQA | dict(num_local_experts=4, num_experts_per_tok=2, head_dim=16, sliding_window=8,
                                     rope_parameters=YARN | dict(truncate=False))),
    "gpt2": ("GPT2", dict(n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=128, hidden_size=None,
                          intermediate_size=None, num_hidden_layers=None, num_attention_heads=None,
                          max_position_embeddings=None, tie_word_embeddings=True)),
    "gpt-neox": ("GPTNeoX", rope(partial_rotary_factor=0.25) | dict(rotary_pct=0.25)),
    "gpt-neox-sequential": ("GPTNeoX", dict(use_parallel_residual=False)),
    "falcon-7b": ("Falcon", dict(multi_query=True, new_decoder_architecture=False, parallel_attn=True, bias=False)),
    "falcon-40b": ("Falcon", dict(new_decoder_architecture=True, num_kv_heads=2, bias=False, ffn_hidden_size=128)),
    "stablelm": ("StableLm", GQA | dict(qk_layernorm=True)),
    "stablelm-parallel": ("StableLm", GQA | dict(use_parallel_residual=True, use_qkv_bias=True)),
    "olmo": ("Olmo", GQA | dict(clip_qkv=1.0)),
    "olmo2": ("Olmo2", GQA),
    "olmo3": ("Olmo3", GQA | dict(sliding_window=8, num_hidden_layers=4)),
    "olmoe": ("Olmoe", GQA | dict(num_experts=4, num_experts_per_tok=2, norm_topk_prob=False)),
    "cohere": ("Cohere", GQA | dict(logit_scale=0.25, use_qk_norm=True, tie_word_embeddings=True)),
    "cohere2": ("Cohere2", GQA | dict(logit_scale=0.25, sliding_window=8, num_hidden_layers=4,
                                      tie_word_embeddings=True)),
    "smollm3": ("SmolLM3", GQA | dict(num_hidden_layers=4, no_rope_layer_interval=4)),
    "mamba2": ("Mamba2", dict(num_heads=8, head_dim=8, state_size=16, n_groups=2, expand=2, conv_kernel=4,
                              intermediate_size=None, num_attention_heads=None, max_position_embeddings=None,
                              chunk_size=8)),
    "granite": ("Granite", GQA | dict(embedding_multiplier=6.0, residual_multiplier=0.5, attention_multiplier=0.2,
                                      logits_scaling=4.0)),
    "granite-moe": ("GraniteMoe", GQA | dict(num_local_experts=4, num_experts_per_tok=2, residual_multiplier=0.5)),
    "starcoder2": ("Starcoder2", GQA | dict(sliding_window=None, use_bias=True)),
    "nemotron": ("Nemotron", GQA | rope(partial_rotary_factor=0.5) | dict(partial_rotary_factor=0.5)),
    "exaone4": ("Exaone4", GQA | dict(sliding_window=8, sliding_window_pattern=4, num_hidden_layers=4)),
    "glm": ("Glm", GQA | dict(head_dim=16, partial_rotary_factor=0.5)),
    "glm4": ("Glm4", GQA | dict(head_dim=16, partial_rotary_factor=0.5)),
    "glm4-moe": ("Glm4Moe", GQA | MOE | dict(
        head_dim=16, partial_rotary_factor=0.5, n_routed_experts=4, n_shared_experts=1, first_k_dense_replace=1,
        moe_intermediate_size=32, n_group=1, topk_group=1, use_qk_norm=True, routed_scaling_factor=1.5)),
    "seed-oss": ("SeedOss", GQA | dict(head_dim=16)),
    "ernie4-5": ("Ernie4_5", GQA | dict(use_bias=False)),
    "hunyuan": ("HunYuanDenseV1", GQA | dict(head_dim=16)),
    "arcee": ("Arcee", GQA),
    "llama4": ("Llama4Text", GQA | dict(
        num_local_experts=4, num_experts_per_tok=1, intermediate_size_mlp=96, interleave_moe_layer_step=2, head_dim=16,
        num_hidden_layers=4, attention_chunk_size=8, attn_temperature_tuning=False, moe_layers=[1, 3])),
    # Gated delta nets. Key heads are shared by two value heads.
    "qwen3-next": ("Qwen3Next", GQA | MOE | DELTA | rope(partial_rotary_factor=0.5) | dict(
        head_dim=16, num_experts=4, moe_intermediate_size=16, shared_expert_intermediate_size=16)),
    "qwen3-5": ("Qwen3_5Text", GQA | DELTA | rope(partial_rotary_factor=0.5) | dict(head_dim=16)),
    "qwen3-5-moe": ("Qwen3_5MoeText", GQA | MOE | DELTA | rope(partial_rotary_factor=0.5) | dict(
        head_dim=16, num_experts=4, moe_intermediate_size=16, shared_expert_intermediate_size=16)),
    "kimi-linear": ("KimiLinear", MHA | dict(
        num_experts=4, num_experts_per_token=2, moe_intermediate_size=16, kv_lora_rank=16, qk_nope_head_dim=8,
        qk_rope_head_dim=8, v_head_dim=8, linear_head_dim=8, linear_num_heads=4, linear_conv_kernel_dim=4, head_dim=8,
        layer_types=["linear_attention", "full_attention"], mlp_layer_types=["dense", "sparse"])),
    # Short convolutions.
    "lfm2": ("Lfm2", GQA | dict(tie_word_embeddings=True, layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False)),
    "lfm2-moe": ("Lfm2Moe", GQA | MOE | dict(
        tie_word_embeddings=True, layer_types=["conv", "full_attention"], num_dense_layers=1, num_experts=4, moe_intermediate_size=16)),
    # State spaces.
    "mamba": ("Mamba", SSM1 | dict(state_size=8, conv_kernel=4, expand=2, time_step_rank=4)),
    "falcon-mamba": ("FalconMamba", SSM1 | dict(state_size=8, conv_kernel=4, expand=2, time_step_rank=4)),
    "jamba": ("Jamba", GQA | dict(
        mamba_d_state=8, mamba_dt_rank=4, mamba_d_conv=4, attn_layer_period=2, attn_layer_offset=1,
        expert_layer_period=2, expert_layer_offset=1, num_experts=4, num_experts_per_tok=2, use_mamba_kernels=False)),
    "falcon-h1": ("FalconH1", GQA | SSM2 | dict(
        mamba_d_ssm=64, mamba_rms_norm=False, lm_head_multiplier=0.5, embedding_multiplier=2.0,
        mlp_multipliers=[0.75, 1.5], key_multiplier=0.5, attention_out_multiplier=0.75, attention_in_multiplier=1.25,
        ssm_multipliers=[0.5, 0.75, 1.25, 1.5, 1.75], ssm_in_multiplier=1.5, ssm_out_multiplier=0.75)),
    "falcon-h1-normed": ("FalconH1", GQA | SSM2 | dict(
        mamba_d_ssm=64, mamba_rms_norm=True, mamba_norm_before_gate=False)),
    "nemotron-h": ("NemotronH", GQA | dict(
        num_hidden_layers=None, layers_block_type=["linear_attention", "moe", "full_attention", "mlp"], head_dim=16,
        ssm_state_size=16, time_step_min=1e-6, mamba_num_heads=8, mamba_head_dim=8, n_groups=2, chunk_size=8, use_mamba_kernels=False,
        n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, moe_shared_expert_intermediate_size=16,
        routed_scaling_factor=1.5)),
    "granite-hybrid": ("GraniteMoeHybrid", GQA | SSM2 | dict(
        layer_types=["mamba", "attention"], num_local_experts=4, num_experts_per_tok=2, shared_intermediate_size=24,
        intermediate_size=16, embedding_multiplier=6.0, residual_multiplier=0.5, attention_multiplier=0.2,
        logits_scaling=4.0)),
    "granite-hybrid-dense": ("GraniteMoeHybrid", GQA | SSM2 | dict(
        layer_types=["mamba", "attention"], num_local_experts=0, num_experts_per_tok=0, shared_intermediate_size=24,
        position_embedding_type="rope")),
    "bamba": ("Bamba", GQA | SSM2 | dict(attn_layer_indices=[1])),
    # Mixtures.
    "minimax-m2": ("MiniMaxM2", GQA | dict(num_local_experts=4, num_experts_per_tok=2, head_dim=16, rotary_dim=8)),
    "dots1": ("Dots1", GQA | MOE | dict(
        n_shared_experts=1, n_routed_experts=4, first_k_dense_replace=1, moe_intermediate_size=16, head_dim=16,
        routed_scaling_factor=1.5, sliding_window=None)),
    "ernie4-5-moe": ("Ernie4_5_Moe", GQA | dict(
        moe_num_experts=4, moe_k=2, moe_num_shared_experts=1, moe_intermediate_size=16, moe_layer_start_index=1,
        moe_layer_end_index=1)),
    "hunyuan-moe": ("HunYuanMoEV1", GQA | dict(num_experts=4, moe_topk=2, head_dim=16)),
    "glm4-moe-lite": ("Glm4MoeLite", MHA | dict(
        n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, kv_lora_rank=16, q_lora_rank=24,
        qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=16, mlp_layer_types=["dense", "sparse"],
        routed_scaling_factor=1.8)),
    "mistral4": ("Mistral4", MHA | dict(
        n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, kv_lora_rank=16, q_lora_rank=24,
        qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=16, first_k_dense_replace=1, rope_parameters=YARN | dict(
            llama_4_scaling_beta=0.1, original_max_position_embeddings=8, mscale=1.0, mscale_all_dim=1.0))),
    "ministral3": ("Ministral3", GQA | dict(head_dim=16, rope_parameters=YARN | dict(
        llama_4_scaling_beta=0.1, original_max_position_embeddings=8, mscale=1.0, mscale_all_dim=1.0))),
    "minicpm3": ("MiniCPM3", MHA | dict(
        kv_lora_rank=16, q_lora_rank=24, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8, head_dim=8)),
    "afmoe": ("Afmoe", GQA | dict(
        num_experts=4, num_experts_per_tok=2, num_shared_experts=1, num_dense_layers=1, moe_intermediate_size=16,
        head_dim=16, sliding_window=8, num_hidden_layers=4, route_scale=1.5, mup_enabled=True)),
    "exaone-moe": ("ExaoneMoe", GQA | MOE | dict(
        num_experts=4, num_shared_experts=1, moe_intermediate_size=16, sliding_window=8, num_hidden_layers=4,
        head_dim=16, mlp_layer_types=["dense", "sparse", "sparse", "sparse"])),
    "hy-v3": ("HYV3", GQA | dict(
        num_experts=4, num_experts_per_tok=2, num_shared_experts=1, moe_intermediate_size=16, head_dim=16,
        mlp_layer_types=["dense", "sparse"], router_scaling_factor=1.5)),
    "solar-open": ("SolarOpen", GQA | MOE | dict(
        n_routed_experts=4, n_shared_experts=1, moe_intermediate_size=16, head_dim=16, first_k_dense_replace=0)),
    "bloom": ("Bloom", dict(n_head=HEADS, n_layer=LAYERS, hidden_size=WIDTH, num_hidden_layers=None,
                            num_attention_heads=None, tie_word_embeddings=True)),
    "cwm": ("Cwm", GQA | dict(head_dim=16, sliding_window=8, layer_types=["full_attention", "sliding_attention"])),
    "helium": ("Helium", GQA | dict(head_dim=8)),
    "deepseek-v32": ("DeepseekV32", MHA | DSA | dict(n_routed_experts=8, n_group=2, topk_group=1)),
    "glm-moe-dsa": ("GlmMoeDsa", MHA | DSA | dict(n_routed_experts=4)),
    "jais2": ("Jais2", dict(head_dim=8)),
    "flex-olmo": ("FlexOlmo", GQA | dict(num_experts=4, num_experts_per_tok=2)),
    "gpt-bigcode": ("GPTBigCode", dict(
        n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_inner=FF, n_positions=128, hidden_size=None,
        intermediate_size=None, num_hidden_layers=None, num_attention_heads=None, max_position_embeddings=None)),
    "gptj": ("GPTJ", dict(
        n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_inner=FF, n_positions=128, rotary_dim=4, hidden_size=None,
        intermediate_size=None, num_hidden_layers=None, num_attention_heads=None, max_position_embeddings=None)),
}

CLASSES = {"Gemma3Text": "Gemma3ForCausalLM", "GPT2": "GPT2LMHeadModel", "Llama4Text": "Llama4ForCausalLM",
           "Qwen3_5Text": "Qwen3_5ForCausalLM", "Qwen3_5MoeText": "Qwen3_5MoeForCausalLM"}


def build(name, changes={}, seed=0):
    prefix, extra = MODELS[name]
    settings = {k: v for k, v in (BASE | extra | changes).items() if v is not None or k not in BASE}
    config = getattr(transformers, prefix + "Config")(**settings)
    config._attn_implementation = "eager"
    torch.manual_seed(sum(map(ord, name)) + seed)
    model = getattr(transformers, CLASSES.get(prefix, prefix + "ForCausalLM"))(config).eval().float()
    with torch.no_grad():
        for key, p in model.named_parameters():
            if "norm" in key or "ln_" in key or key.endswith(".D"):
                p.add_(torch.randn_like(p) * 0.2)
            elif key.endswith(("A_log", "dt_bias")):
                pass
            elif p.dim() == 1:
                p.copy_(torch.randn_like(p) * 0.2)
            else:
                p.copy_(torch.randn_like(p) * 1.5 / p.shape[-1] ** 0.5)
            p.copy_(p.to(torch.bfloat16).float())
        for key, b in model.named_buffers():
            if key.endswith(("e_score_correction_bias", "expert_bias")):
                b.copy_((torch.randn_like(b) * 0.1).to(torch.bfloat16).float())
    return model


def tokens(n):
    return [1] + [(i * i * 7 + 3 * i + 5) % (VOCAB - 4) + 3 for i in range(n - 1)]


def main(names):
    for name in names or MODELS:
        try:
            model = build(name)
        except (AttributeError, ImportError) as e:
            print(f"{name}: not in transformers {transformers.__version__}: {e}")
            continue
        ids = torch.tensor([tokens(TOKENS)])
        with torch.no_grad():
            logits = model(ids).logits[0].float()
        folder = OUT / name
        folder.mkdir(parents=True, exist_ok=True)
        model.to(torch.bfloat16).save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        data = struct.pack("<ii", TOKENS, VOCAB) + struct.pack(f"<{TOKENS}i", *ids[0].tolist())
        (folder / "golden.logits").write_bytes(data + logits.numpy().astype("<f4").tobytes())
        print(f"{name}: {json.loads((folder / 'config.json').read_text())['architectures']} logits std {logits.std():.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
