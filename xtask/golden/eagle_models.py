"""Tiny random checkpoints of EAGLE 3 for the golden checkpoint `hf/llama`, and what they compute.

The layer is written out here after its authors' report (arXiv:2503.01840) and vLLM's `llama_eagle3.py`; the model's hidden states
come from `transformers`.

Writes crates/models/tests/data/eagle3/NAME/{config.json, model.safetensors, golden.next}: little-endian i32 n, v, d; n token ids;
v tokens that the output has; n * v logits and n * d states of the layer, f32. Place i reads token i + 1 and the model's states of
token i; the last one reads token 3 and the layer's own state of the place before.

    python xtask/golden/eagle_models.py
"""

import json
import struct

import torch
import transformers
from safetensors.torch import save_file

import hf_models
from hf_models import FF, HEADS, TOKENS, VOCAB, WIDTH

OUT = hf_models.OUT.parent / "eagle3"
LARGE = hf_models.OUT / "llama"
N_KV, N_SPOKEN, EPS, D_HEAD = 2, 40, 1e-6, WIDTH // HEADS
LAYER = dict(
    model_type="llama", hidden_act="silu", hidden_size=WIDTH, intermediate_size=FF, num_attention_heads=HEADS,
    num_key_value_heads=N_KV, max_position_embeddings=128, rms_norm_eps=EPS, rope_theta=10000.0, vocab_size=VOCAB,
)
# Its authors' names, with SGLang's way to name layers (those that states come from); `speculators`' names, and vLLM's way (those
# that states come to).
CONFIGS = {
    "authors": LAYER | dict(
        architectures=["LlamaForCausalLMEagle3"], num_hidden_layers=1, draft_vocab_size=N_SPOKEN,
        eagle_config=dict(use_aux_hidden_state=True, eagle_aux_hidden_state_layer_ids=[0, 1])),
    "speculators": dict(
        architectures=["Eagle3Speculator"], speculators_model_type="eagle3", draft_vocab_size=N_SPOKEN,
        norm_before_residual=True, eagle_aux_hidden_state_layer_ids=[0, 1, 2],
        transformer_layer_config=LAYER | dict(num_hidden_layers=2)),
}


def rounded(*shape, scale=1.0):
    return (torch.randn(shape) * scale).to(torch.bfloat16).float()


def norm(x, weight):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * weight


def rotated(x):
    """`[head, place, d]`; halves of a head are pairs, as in LLaMA."""
    half = D_HEAD // 2
    angles = torch.arange(x.shape[1])[:, None] / 10000.0 ** (torch.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()), -1)


def attention(x, weights, prefix):
    heads = lambda name, n: (x @ weights[f"{prefix}self_attn.{name}_proj.weight"].T).view(-1, n, D_HEAD).transpose(0, 1)
    q, k, v = rotated(heads("q", HEADS)), rotated(heads("k", N_KV)), heads("v", N_KV)
    k, v = (t.repeat_interleave(HEADS // N_KV, 0) for t in (k, v))
    scores = q @ k.transpose(1, 2) / D_HEAD**0.5
    scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
    mixed = (scores.softmax(-1) @ v).transpose(0, 1).reshape(-1, WIDTH)
    return mixed @ weights[f"{prefix}self_attn.o_proj.weight"].T


def layer_weights(prefix, width):
    kv = N_KV * D_HEAD
    shapes = {"self_attn.q_proj": (WIDTH, width), "self_attn.k_proj": (kv, width), "self_attn.v_proj": (kv, width),
              "self_attn.o_proj": (WIDTH, WIDTH), "mlp.gate_proj": (FF, WIDTH), "mlp.up_proj": (FF, WIDTH),
              "mlp.down_proj": (WIDTH, FF)}
    weights = {f"{prefix}{name}.weight": rounded(*shape, scale=0.25) for name, shape in shapes.items()}
    for name in ("input_layernorm", "post_attention_layernorm"):
        weights[f"{prefix}{name}.weight"] = (1 + rounded(WIDTH, scale=0.25)).to(torch.bfloat16).float()
    return weights


def layers(prefixes, weights, embedded, states, adds_to_normed):
    """Of places with these tokens' embeddings and states before them: the layers' output."""
    for i, prefix in enumerate(prefixes):
        own = norm(embedded if i == 0 else x, weights[f"{prefix}input_layernorm.weight"])
        if i == 0:
            normed = norm(states, weights[f"{prefix}hidden_norm.weight"])
            own, x = torch.cat((own, normed), -1), normed if adds_to_normed else states
        x = x + attention(own, weights, prefix)
        inner = norm(x, weights[f"{prefix}post_attention_layernorm.weight"])
        gate, up = (inner @ weights[f"{prefix}mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        x = x + (torch.nn.functional.silu(gate) * up) @ weights[f"{prefix}mlp.down_proj.weight"].T
    return x


def make(name, config):
    torch.manual_seed(sum(name.encode()))
    large = transformers.AutoModelForCausalLM.from_pretrained(LARGE, dtype=torch.float32)
    ids = torch.tensor([1] + [(i * i * 7 + 3 * i + 5) % (VOCAB - 4) + 3 for i in range(TOKENS - 1)])
    settings = config.get("transformer_layer_config", config)
    prefixes = ["midlayer."] if name == "authors" else [f"layers.{i}." for i in range(settings["num_hidden_layers"])]
    taps = config.get("eagle_aux_hidden_state_layer_ids") or [
        i + 1 for i in config["eagle_config"]["eagle_aux_hidden_state_layer_ids"]]
    weights = {"fc.weight": rounded(WIDTH, len(taps) * WIDTH, scale=0.25), "norm.weight": 1 + rounded(WIDTH, scale=0.25),
               "lm_head.weight": rounded(N_SPOKEN, WIDTH, scale=0.25)}
    for i, prefix in enumerate(prefixes):
        weights |= layer_weights(prefix, WIDTH if i else 2 * WIDTH)
    weights[f"{prefixes[0]}hidden_norm.weight"] = 1 + rounded(WIDTH, scale=0.25)
    if name == "speculators":
        weights["embed_tokens.weight"] = rounded(VOCAB, WIDTH)
    weights = {key: value.to(torch.bfloat16).float() for key, value in weights.items()}
    spoken = torch.randperm(VOCAB)[:N_SPOKEN].sort().values
    maps = {"d2t": spoken - torch.arange(N_SPOKEN), "t2d": torch.isin(torch.arange(VOCAB), spoken)}

    with torch.no_grad():
        embeddings = weights.get("embed_tokens.weight", large.model.embed_tokens.weight)
        large.model.norm = torch.nn.Identity()
        found = large.model(ids[None], use_cache=False, output_hidden_states=True).hidden_states
        states = torch.cat([found[i][0] for i in taps], -1)[:-1] @ weights["fc.weight"].T
        run = lambda tokens, states: layers(
            prefixes, weights, embeddings[tokens], states, config.get("norm_before_residual", False))
        first = run(ids[1:], states)
        out = run(torch.cat((ids[1:], ids[3:4])), torch.cat((states, first[-1:])))
        logits = norm(out, weights["norm.weight"]) @ weights["lm_head.weight"].T

    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.to(torch.bfloat16) for key, value in weights.items()} | maps
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    words = lambda values: struct.pack(f"<{len(values)}i", *values)
    floats = lambda x: x.float().numpy().astype("<f4").tobytes()
    head = words([TOKENS, N_SPOKEN, WIDTH] + ids.tolist() + spoken.tolist())
    (folder / "golden.next").write_bytes(head + floats(logits) + floats(out))
    print(f"{name}: logits std {logits.std():.3f}, states std {out.std():.3f}")


if __name__ == "__main__":
    for name, config in CONFIGS.items():
        make(name, config)
