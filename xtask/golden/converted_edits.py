"""What llama.cpp computes otherwise than transformers for golden checkpoints, and how each reason is proven.

A reason names one peculiarity. Its proof edits the checkpoint so that this one cannot show, no more: a window as wide as
the text, heads repeated until there are as many as llama.cpp wants. Of the edited checkpoint llama.cpp must then give the
logits of `mlx-run logits`, which are transformers' for the checkpoint as it was. See converted.py.
"""


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


# Checkpoint: what llama.cpp does, and an edit after which that does not matter.
LLAMA_CPP = {
    "cohere": ("reads norms of q and k in models of 64 layers or more", no_norms),
    "cwm": ("GGUF's llama has no window, as convert tells", settings(sliding_window=64)),
    "dots1": ("wants as many heads of keys as of queries", repeated_keys),
    "exaone4": ("has windows in models of 64 layers only", all_full),
    "gemma2": ("scales scores by the width of a head", settings(query_pre_attn_scalar=32)),
    "gemma3": ("scales scores by the width of a head", settings(query_pre_attn_scalar=32)),
    "glm": ("wants heads that are together as wide as the model", narrow_heads),
    "gpt-oss": ("rounds the bounds of YaRN's ramp", rope(truncate=True)),
    "llama4": ("has chunks of 8192 tokens", settings(attention_chunk_size=64)),
    "mistral": ("GGUF's llama has no window, as convert tells", settings(sliding_window=64)),
    "nemotron-h": ("has experts in all feed-forwards or in none", without_last_layer),
    "olmoe": ("wants as many heads of keys as of queries", repeated_keys),
    "phi3-longrope": ("takes long factors by the size of its context, 256 at least", long_as_short),
    "phimoe": ("norms by the root mean square, and weights experts by their share of the two, as convert tells", zero_means),
}
