"""Tiny random MLX checkpoints as mlx-lm writes them, with golden logits from mlx-lm.

Takes the models of hf_models.py (wider, so that groups fit), loads them with mlx-lm, quantizes them in several ways and
writes crates/models/tests/data/mlx/NAME/{config.json, model.safetensors, golden.logits}. Logits are computed in f32 from
what is stored. Needs PyPI mlx==0.32.2, mlx-cpu==0.32.2, mlx-lm==0.32.0, torch, transformers; never needed to build or test.

    python xtask/golden/mlx_models.py [NAME...]
"""

import json
import pathlib
import struct
import sys
import tempfile

import hf_models
import mlx.core as mx
import numpy as np
from mlx_lm.utils import load_model, quantize_model, save_config, save_model

OUT = pathlib.Path(__file__).resolve().parents[2] / "crates/models/tests/data/mlx"

# What real checkpoints store: rows of 16 bits that `affine_tiles` reads, heads that our attention takes.
WIDE = dict(hidden_size=128, intermediate_size=256, head_dim=64)
HEADS_128 = WIDE | dict(head_dim=128, num_attention_heads=2, num_key_value_heads=1)
HEADS_256 = HEADS_128 | dict(head_dim=256)
EXPERTS = WIDE | dict(num_attention_heads=2, num_key_value_heads=1, intermediate_size=128, moe_intermediate_size=128)

# name: (model of hf_models, quantization or None), scales in f32; else also the type of what is not packed,
# changes, and what is added to the seed: so that no token has experts so near that inputs of 8 bits would choose others
MODELS = {
    "llama-f32": ("llama", None),
    "llama-2bit": ("llama", dict(bits=2, group_size=32), "bfloat16", WIDE),
    "llama-3bit": ("llama", dict(bits=3, group_size=64), "float16", WIDE),
    # Rows of 512, of which lanes take runs.
    "llama-4bit": ("llama", dict(bits=4, group_size=64), "bfloat16", WIDE | dict(hidden_size=512)),
    "llama-4bit-32": ("llama", dict(bits=4, group_size=32), "float16", HEADS_128 | dict(hidden_size=256)),
    "llama-4bit-128": ("llama", dict(bits=4, group_size=128), "bfloat16", WIDE),
    "llama-5bit": ("llama", dict(bits=5, group_size=128), "bfloat16", WIDE),
    "llama-6bit": ("llama", dict(bits=6, group_size=64), "bfloat16", WIDE),
    "llama-8bit": ("llama", dict(bits=8, group_size=64), "float16", HEADS_128),
    "llama-mxfp4": ("llama", dict(bits=4, group_size=32, mode="mxfp4"), "bfloat16", WIDE),
    "llama-mxfp8": ("llama", dict(bits=8, group_size=32, mode="mxfp8"), "bfloat16", WIDE),
    "llama-nvfp4": ("llama", dict(bits=4, group_size=16, mode="nvfp4"), "bfloat16", WIDE),
    "llama-mixed": ("llama", dict(bits=4, group_size=64, mixed=True), "bfloat16", WIDE),
    "mixtral-4bit": ("mixtral", dict(bits=4, group_size=64), "bfloat16", EXPERTS, 10),
    "qwen2-4bit": ("qwen2", dict(bits=4, group_size=32)),
    "qwen2-moe-mixed": ("qwen2-moe", dict(bits=4, group_size=64, mixed=True), "bfloat16",
                        EXPERTS | dict(shared_expert_intermediate_size=256)),
    "qwen3-4bit": ("qwen3", dict(bits=4, group_size=64), "bfloat16", HEADS_128),
    "qwen3-moe-mxfp4": ("qwen3-moe", dict(bits=4, group_size=32, mode="mxfp4"), "bfloat16", EXPERTS, 4),
    "gpt-oss-mxfp4": ("gpt-oss", dict(bits=4, group_size=32, mode="mxfp4"), "bfloat16",
                      EXPERTS | dict(rope_parameters=dict(rope_type="default", rope_theta=10000.0)), 10),
    "gemma-8bit": ("gemma", dict(bits=8, group_size=32)),
    "gemma2-4bit": ("gemma2", dict(bits=4, group_size=64), "bfloat16", HEADS_256),
    "gemma3-4bit": ("gemma3", dict(bits=4, group_size=64), "bfloat16", HEADS_128 | dict(intermediate_size=128)),
    "phi-4bit": ("phi", dict(bits=4, group_size=32)),
    "phi3-4bit": ("phi3", dict(bits=4, group_size=32)),
    "phimoe-4bit": ("phimoe", dict(bits=4, group_size=32)),
    "deepseek-v3-4bit": ("deepseek-v3", dict(bits=4, group_size=32), "bfloat16", {}),
    "stablelm-4bit": ("stablelm", dict(bits=4, group_size=32)),
    "olmo2-4bit": ("olmo2", dict(bits=4, group_size=32)),
    "olmoe-4bit": ("olmoe", dict(bits=4, group_size=32)),
    "cohere-4bit": ("cohere", dict(bits=4, group_size=32)),
    "cohere2-4bit": ("cohere2", dict(bits=4, group_size=32)),
    "smollm3-4bit": ("smollm3", dict(bits=4, group_size=32)),
    "starcoder2-4bit": ("starcoder2", dict(bits=4, group_size=32)),
    "nemotron-4bit": ("nemotron", dict(bits=4, group_size=32)),
    "glm4-4bit": ("glm4", dict(bits=4, group_size=32)),
    "seed-oss-4bit": ("seed-oss", dict(bits=4, group_size=32)),
    "ernie4-5-4bit": ("ernie4-5", dict(bits=4, group_size=32)),
    "qwen3-5-4bit": ("qwen3-5", dict(bits=4, group_size=32)),
    "lfm2-4bit": ("lfm2", dict(bits=4, group_size=32)),
    "mamba-4bit": ("mamba", dict(bits=4, group_size=32)),
    "ministral3-4bit": ("ministral3", dict(bits=4, group_size=32)),
}


def widen():
    hf_models.BASE |= dict(hidden_size=64, intermediate_size=96)
    hf_models.MODELS["gpt2"][1]["n_embd"] = 64
    hf_models.MODELS["mamba2"][1]["head_dim"] = 16
    hf_models.MODELS["gemma2"][1]["sliding_window"] = 64  # mlx-lm knows no window for it


def older_keys(folder, dtype):
    """mlx-lm reads some settings where transformers 4 wrote them."""
    path = pathlib.Path(folder) / "config.json"
    config = json.loads(path.read_text())
    rope = config.get("rope_parameters") or {}
    rope = rope.get("full_attention", rope)
    theta, part = rope.get("rope_theta", 10000.0), rope.get("partial_rotary_factor", 1.0)
    config |= dict(rope_theta=theta, rotary_emb_base=theta, n_ctx=128, rotary_pct=part, partial_rotary_factor=part)
    config |= dict(block_dim=config["hidden_size"], dtype=dtype)
    if "num_local_experts" in config:
        config["num_experts"] = config["num_local_experts"]
    if config["model_type"] == "qwen3_5_text":
        config = dict(model_type="qwen3_5", architectures=["Qwen3_5ForConditionalGeneration"], text_config=config)
        config["tie_word_embeddings"] = False
        config["text_config"]["full_attention_interval"] = 2
    path.write_text(json.dumps(config))
    if config["model_type"] == "gpt_oss":
        experts_as_rows(path.with_name("model.safetensors"))


def experts_as_rows(path):
    """mlx-lm reads experts of gpt-oss as their release has them, packed along the inputs, under other names."""
    weights = mx.load(str(path))
    for key in [key for key in weights if key.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        weights[key + ".weight"] = weights.pop(key).swapaxes(1, 2)
    mx.eval(weights)  # before the file is replaced
    mx.save_safetensors(str(path), weights, metadata={"format": "pt"})


def mixed(path, module):
    """Recipes may leave layers alone or give them other bits."""
    if not hasattr(module, "to_quantized") or "lm_head" in path:
        return False
    return dict(bits=8, group_size=32) if "down_proj" in path else True


def checkpoint(name, source, quant, dtype="float32", changes={}, seed=0):
    """Writes a checkpoint without logits; False if mlx-lm does not."""
    with tempfile.TemporaryDirectory() as folder:
        hf_models.build(source, changes, seed).save_pretrained(folder)
        older_keys(folder, dtype)
        try:
            loaded, config = load_model(pathlib.Path(folder), lazy=False)
        except (ValueError, TypeError, AttributeError, KeyError, RuntimeError) as e:
            print(f"{name}: mlx-lm does not load it: {str(e)[:200]}")
            return False
    loaded.set_dtype(getattr(mx, dtype))
    if quant is not None:
        predicate = mixed if quant.get("mixed") else None
        mode = quant.get("mode", "affine")
        try:
            loaded, config = quantize_model(
                loaded, config, quant["group_size"], quant["bits"], mode=mode, quant_predicate=predicate)
        except ValueError as e:
            print(f"{name}: mlx-lm does not quantize it: {str(e)[:200]}")
            return False
    save_model(OUT / name, loaded)
    save_config(config, OUT / name / "config.json")
    (OUT / name / "model.safetensors.index.json").unlink(missing_ok=True)
    return True


def main(names):
    widen()
    mx.set_default_device(mx.cpu)
    for name in names or MODELS:
        if not checkpoint(name, *MODELS[name]):
            continue
        stored, config = load_model(OUT / name, lazy=False)
        stored.set_dtype(mx.float32)
        # Of 16 bits more than our kernels multiply at once, and than experts take unsorted.
        tokens = hf_models.tokens(hf_models.TOKENS if len(MODELS[name]) == 2 else 40)
        logits = np.array(stored(mx.array([tokens]))[0])
        assert logits.dtype == np.float32, logits.dtype
        data = struct.pack("<ii", len(tokens), logits.shape[1]) + struct.pack(f"<{len(tokens)}i", *tokens)
        (OUT / name / "golden.logits").write_bytes(data + logits.astype("<f4").tobytes())
        print(f"{name}: {config.get('quantization')} std {logits.std():.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
