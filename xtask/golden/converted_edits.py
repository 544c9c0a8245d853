"""What llama.cpp and mlx-lm compute otherwise than transformers for golden checkpoints, and how each reason is proven.

A reason names one peculiarity. Its proof edits the checkpoint so that this one cannot show, no more: a window as wide as
the text, heads repeated until there are as many as the owner wants. Of the edited checkpoint the owner must then give the
logits of `mlx-run logits`, which are transformers' for the checkpoint as it was. See converted.py.
"""

import re

from torch import nn


def settings(**changed):
    """An edit of the configuration."""

    def edit(config, tensors):
        config.update(changed)

    return edit


def rope(**changed):
    def edit(config, tensors):
        config["rope_parameters"].update(changed)

    return edit


def all_full(config, tensors):
    config.update(sliding_window=None, layer_types=["full_attention"] * config["num_hidden_layers"])


def no_norms(config, tensors):
    config["use_qk_norm"] = False
    for name in [name for name in tensors if "q_norm" in name or "k_norm" in name]:
        del tensors[name]


def repeated_keys(config, tensors):
    """Every query head gets its own copy of its keys and values, which changes no logit."""
    n_kv, times = config["num_key_value_heads"], config["num_attention_heads"] // config["num_key_value_heads"]
    for name, tensor in tensors.items():
        of_keys = any(part in name for part in ("k_proj", "v_proj")) or "k_norm" in name and config["model_type"] == "olmoe"
        if of_keys:
            heads = tensor.reshape(n_kv, -1, *tensor.shape[1:])
            tensors[name] = heads.repeat_interleave(times, 0).reshape(-1, *tensor.shape[1:]).contiguous()
    config["num_key_value_heads"] = config["num_attention_heads"]


def narrow_heads(config, tensors):
    """Heads lose the half of their numbers, so that together they are as wide as the model."""
    wide, narrow = config["head_dim"], config["hidden_size"] // config["num_attention_heads"]
    for name, tensor in tensors.items():
        if any(part in name for part in ("q_proj", "k_proj", "v_proj")):
            heads = tensor.reshape(-1, wide, *tensor.shape[1:])[:, :narrow]
            tensors[name] = heads.reshape(-1, *tensor.shape[1:]).contiguous()
        if "o_proj" in name:
            heads = tensor.reshape(tensor.shape[0], -1, wide)[:, :, :narrow]
            tensors[name] = heads.reshape(tensor.shape[0], -1).contiguous()
    config["head_dim"] = narrow


def without_last_layer(config, tensors):
    last = f"layers.{len(config['layers_block_type']) - 1}."
    del config["layers_block_type"][-1]
    for name in [name for name in tensors if last in name]:
        del tensors[name]


def long_as_short(config, tensors):
    config["rope_parameters"]["long_factor"] = config["rope_parameters"]["short_factor"]


def zero_means(config, tensors):
    """What is added to the residual stream gets the mean 0, so that both norms are the same; experts add nothing."""
    for name, tensor in tensors.items():
        if "embed_tokens" in name:
            tensors[name] = tensor - tensor.mean(1, keepdim=True)
        if "o_proj" in name:
            tensors[name] = tensor - tensor.mean(0, keepdim=True)
        if "w2" in name:
            tensors[name] = 0 * tensor


def no_corrections(config, tensors):
    for name in [name for name in tensors if "e_score_correction_bias" in name]:
        tensors[name] = 0 * tensors[name]


def tied(config, tensors):
    config["tie_word_embeddings"] = True
    tensors.pop("lm_head.weight", None)


def wide_ffn(config, tensors):
    """Hidden units of zeros, until there are four times the model's width."""
    width, inner = ("n_embd", "n_inner") if "n_embd" in config else ("hidden_size", "intermediate_size")
    narrow, wide = config[inner], 4 * config[width]
    for name, tensor in tensors.items():
        if re.search("dense_h_to_4h|fc_in", name):
            tensors[name] = nn.functional.pad(tensor, (0, 0) * (tensor.dim() - 1) + (0, wide - narrow))
        if re.search(r"(dense_4h_to_h|fc_out)\.weight", name):
            tensors[name] = nn.functional.pad(tensor, (0, wide - narrow))
    config[inner] = wide


def one_group(config, tensors):
    """Only the first group of a state space's inputs and outputs, for all heads."""
    field = lambda *names: next(name for name in names if name in config)
    groups = field("mamba_n_groups", "n_groups")
    heads, width = field("mamba_n_heads", "num_heads"), field("mamba_d_head", "head_dim")
    d_inner, d_state, n_group = config[heads] * config[width], config[field("mamba_d_state", "state_size")], config[groups]

    def first(tensor, at):
        """Rows without those of groups after the first of two parts that begin at `at`."""
        keep = [r for r in range(len(tensor)) if not at <= r < at + 2 * n_group * d_state or (r - at) // d_state % n_group == 0]
        return tensor[keep].contiguous()

    for name, tensor in tensors.items():
        if re.search(r"(mamba|mixer)\.in_proj", name):
            tensors[name] = first(tensor, 2 * d_inner)
        if re.search(r"(mamba|mixer)\.conv1d", name):
            tensors[name] = first(tensor, d_inner)
    config[groups] = 1


# Checkpoint: who computes otherwise, what it does, and an edit after which that does not matter.
LLAMA, MLX = "llama.cpp", "mlx-lm"
EDITS = {
    "cohere": [(LLAMA, "reads norms of q and k in models of 64 layers or more", no_norms)],
    "cwm": [(LLAMA, "GGUF's llama has no window, as convert tells", settings(sliding_window=64))],
    "dots1": [(LLAMA, "wants as many heads of keys as of queries", repeated_keys)],
    "ernie4-5-moe": [(MLX, "leaves the correction of experts' scores out", no_corrections)],
    "exaone4": [(LLAMA, "has windows in models of 64 layers only", all_full)],
    "falcon-h1-normed": [(MLX, "norms all groups of a state together", one_group)],
    "gemma2": [
        (LLAMA, "scales scores by the width of a head", settings(query_pre_attn_scalar=32)),
        (MLX, "has no windows", settings(sliding_window=64)),
    ],
    "gemma3": [(LLAMA, "scales scores by the width of a head", settings(query_pre_attn_scalar=32))],
    "glm": [
        (LLAMA, "wants heads that are together as wide as the model", narrow_heads),
        (MLX, "rotates the whole of a head", rope(partial_rotary_factor=1.0)),
    ],
    "gpt-neox": [(MLX, "has feed-forwards of four times the model's width", wide_ffn)],
    "gpt-neox-sequential": [(MLX, "has feed-forwards of four times the model's width", wide_ffn)],
    "gpt-oss": [
        (LLAMA, "rounds the bounds of YaRN's ramp", rope(truncate=True)),
        (MLX, "rounds the bounds of YaRN's ramp", rope(truncate=True)),
    ],
    "gptj": [(MLX, "has feed-forwards of four times the model's width", wide_ffn)],
    "granite-hybrid": [(MLX, "norms all groups of a state together", one_group)],
    "granite-hybrid-dense": [(MLX, "norms all groups of a state together", one_group)],
    "jamba": [(MLX, "weights experts by their share of the chosen", settings(num_experts_per_tok=4))],
    "lfm2": [(MLX, "shares embeddings with the output", tied)],
    "lfm2-moe": [(MLX, "shares embeddings with the output", tied)],
    "llama4": [
        (LLAMA, "has chunks of 8192 tokens", settings(attention_chunk_size=64)),
        (MLX, "norms q and k with an epsilon of 1e-6", settings(rms_norm_eps=1e-6)),
    ],
    "mamba2": [(MLX, "norms all groups of a state together", one_group)],
    "mistral": [
        (LLAMA, "GGUF's llama has no window, as convert tells", settings(sliding_window=64)),
        (MLX, "has windows where a layer sees all", settings(sliding_window=64)),
    ],
    "nemotron-h": [(LLAMA, "has experts in all feed-forwards or in none", without_last_layer)],
    "olmoe": [(LLAMA, "wants as many heads of keys as of queries", repeated_keys)],
    "phi3-longrope": [
        (LLAMA, "takes long factors by the size of its context, 256 at least", long_as_short),
        (MLX, "takes long factors for every text", long_as_short),
    ],
    "phimoe": [
        (LLAMA, "norms by the root mean square, and weights experts by their share of the two, as convert tells", zero_means),
    ],
}
