"""Tiny random MLX checkpoints as mlx-lm writes them, with golden logits from mlx-lm.

Takes the models of hf_models.py (wider, so that groups of 32 and 64 fit), loads them with mlx-lm, quantizes them in
several ways and writes crates/models/tests/data/mlx/NAME/{config.json, model.safetensors, golden.logits}. Needs PyPI
mlx==0.32.2, mlx-cpu==0.32.2, mlx-lm, torch, transformers; never needed to build or test.

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

# name: (model of hf_models, quantization or None)
MODELS = {
    "llama-f32": ("llama", None),
    "llama-2bit": ("llama", dict(bits=2, group_size=32)),
    "llama-3bit": ("llama", dict(bits=3, group_size=32)),
    "llama-4bit": ("llama", dict(bits=4, group_size=64)),
    "llama-5bit": ("llama", dict(bits=5, group_size=32)),
    "llama-6bit": ("llama", dict(bits=6, group_size=32)),
    "llama-8bit": ("llama", dict(bits=8, group_size=32)),
    "llama-mxfp4": ("llama", dict(bits=4, group_size=32, mode="mxfp4")),
    "llama-mxfp8": ("llama", dict(bits=8, group_size=32, mode="mxfp8")),
    "llama-nvfp4": ("llama", dict(bits=4, group_size=16, mode="nvfp4")),
    "llama-mixed": ("llama", dict(bits=4, group_size=32, mixed=True)),
    "mixtral-4bit": ("mixtral", dict(bits=4, group_size=32)),
    "qwen2-4bit": ("qwen2", dict(bits=4, group_size=32)),
    "qwen2-moe-4bit": ("qwen2-moe", dict(bits=4, group_size=32)),
    "qwen3-4bit": ("qwen3", dict(bits=4, group_size=32)),
    "gemma-8bit": ("gemma", dict(bits=8, group_size=32)),
    "gemma2-4bit": ("gemma2", dict(bits=4, group_size=32)),
    "gemma3-4bit": ("gemma3", dict(bits=4, group_size=32)),
    "phi-4bit": ("phi", dict(bits=4, group_size=32)),
    "phi3-4bit": ("phi3", dict(bits=4, group_size=32)),
    "phimoe-4bit": ("phimoe", dict(bits=4, group_size=32)),
    "deepseek-v3-4bit": ("deepseek-v3", dict(bits=4, group_size=32)),
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


def older_keys(folder):
    """mlx-lm reads some settings where transformers 4 wrote them."""
    path = pathlib.Path(folder) / "config.json"
    config = json.loads(path.read_text())
    rope = config.get("rope_parameters") or {}
    rope = rope.get("full_attention", rope)
    theta, part = rope.get("rope_theta", 10000.0), rope.get("partial_rotary_factor", 1.0)
    config |= dict(rope_theta=theta, rotary_emb_base=theta, n_ctx=128, rotary_pct=part, partial_rotary_factor=part)
    config |= dict(block_dim=config["hidden_size"])
    if config["model_type"] == "qwen3_5_text":
        config = dict(model_type="qwen3_5", architectures=["Qwen3_5ForConditionalGeneration"], text_config=config)
        config["tie_word_embeddings"] = False
        config["text_config"]["full_attention_interval"] = 2
    path.write_text(json.dumps(config))


def mixed(path, module):
    """Recipes may leave layers alone or give them other bits."""
    if not hasattr(module, "to_quantized") or "lm_head" in path:
        return False
    return dict(bits=8, group_size=32) if "down_proj" in path else True


def main(names):
    widen()
    mx.set_default_device(mx.cpu)
    for name in names or MODELS:
        source, quant = MODELS[name]
        model = hf_models.build(source)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            older_keys(folder)
            try:
                loaded, config = load_model(pathlib.Path(folder), lazy=False)
            except (ValueError, TypeError, AttributeError, KeyError, RuntimeError) as e:
                print(f"{name}: mlx-lm does not load it: {str(e)[:200]}")
                continue
        loaded.set_dtype(mx.float32)
        if quant is not None:
            predicate = mixed if quant.get("mixed") else None
            mode = quant.get("mode", "affine")
            try:
                loaded, config = quantize_model(
                    loaded, config, quant["group_size"], quant["bits"], mode=mode, quant_predicate=predicate)
            except ValueError as e:
                print(f"{name}: mlx-lm does not quantize it: {str(e)[:200]}")
                continue
        tokens = [1] + [(i * i * 7 + 3 * i + 5) % (hf_models.VOCAB - 4) + 3 for i in range(hf_models.TOKENS - 1)]
        logits = np.array(loaded(mx.array([tokens]))[0].astype(mx.float32))
        target = OUT / name
        target.mkdir(parents=True, exist_ok=True)
        save_model(target, loaded)
        save_config(config, target / "config.json")
        (target / "model.safetensors.index.json").unlink(missing_ok=True)
        data = struct.pack("<ii", len(tokens), logits.shape[1]) + struct.pack(f"<{len(tokens)}i", *tokens)
        (target / "golden.logits").write_bytes(data + logits.astype("<f4").tobytes())
        print(f"{name}: {json.loads((target / 'config.json').read_text()).get('quantization')} std {logits.std():.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
