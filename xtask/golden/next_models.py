"""Tiny random checkpoints with a layer that predicts the token after the next, and its golden logits.

`transformers` leaves these layers out of its models. The layer is one of the architecture's, though, so that a model of one
more layer is built and its last one runs by itself on what DeepSeek-V3's report (arXiv:2412.19437, section 2.2) and vLLM's
`deepseek_mtp.py` feed it: a projection of the next token's normed embedding and the normed hidden state.

Writes crates/models/tests/data/mtp/NAME as `hf_models.py` does, and golden.next beside it: little-endian i32 n, v, d; n token
ids (i32); (n - 1) * v logits and (n - 1) * d hidden states of the layer, f32.

    python xtask/golden/next_models.py
"""

import copy
import json
import struct

import torch
from safetensors.torch import load_file, save_file

import hf_models
from hf_models import LAYERS, MODELS, TOKENS, VOCAB, WIDTH

OUT = hf_models.OUT.parent / "mtp"
# Name: whose settings, and whether the layer has embeddings and output of its own.
NEXT = {"deepseek-v3-mtp": ("deepseek-v3", True), "glm4-moe-mtp": ("glm4-moe", False)}


def make(name, base, has_own):
    prefix, settings = MODELS[base]
    MODELS[name] = (prefix, settings | dict(num_hidden_layers=LAYERS + 1, num_nextn_predict_layers=1))
    model = hf_models.build(name)
    rounded = lambda *shape: torch.randn(shape).to(torch.bfloat16).float()
    new = {"enorm": 1 + rounded(WIDTH) / 4, "hnorm": 1 + rounded(WIDTH) / 4, "shared_head.norm": 1 + rounded(WIDTH) / 4,
           "eh_proj": rounded(WIDTH, 2 * WIDTH) / 8}
    new = {key: value.to(torch.bfloat16).float() for key, value in new.items()}
    if has_own:
        new |= {"embed_tokens": rounded(VOCAB, WIDTH), "shared_head.head": rounded(VOCAB, WIDTH) / 4}
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    # Of a copy: in bf16 the buffers of the rotation would be rounded too.
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    layer = {f"model.layers.{LAYERS}.{key}.weight": value.to(torch.bfloat16) for key, value in new.items()}
    save_file(load_file(folder / "model.safetensors") | layer, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["num_hidden_layers"] = LAYERS
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")

    ids = torch.tensor([[1] + [(i * i * 7 + 3 * i + 5) % (VOCAB - 4) + 3 for i in range(TOKENS - 1)]])
    inner, layers = model.model, list(model.model.layers)
    norm = lambda x, weight: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + config["rms_norm_eps"]) * weight
    with torch.no_grad():
        inner.layers = torch.nn.ModuleList(layers[:LAYERS])
        inner.config.num_hidden_layers = LAYERS
        hidden = inner(ids, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden)[0]
        embedded = new.get("embed_tokens", inner.embed_tokens.weight)[ids[:, 1:]]
        joined = torch.cat((norm(embedded, new["enorm"]), norm(hidden[:, :-1], new["hnorm"])), -1) @ new["eh_proj"].T
        inner.layers = torch.nn.ModuleList(layers[LAYERS:])
        inner.config.num_hidden_layers = 1
        inner.norm = torch.nn.Identity()
        state = inner(inputs_embeds=joined, use_cache=False).last_hidden_state[0]
        further = norm(state, new["shared_head.norm"]) @ new.get("shared_head.head", model.lm_head.weight).T
    floats = lambda x: x.float().numpy().astype("<f4").tobytes()
    tokens = struct.pack(f"<{TOKENS}i", *ids[0].tolist())
    (folder / "golden.logits").write_bytes(struct.pack("<ii", TOKENS, VOCAB) + tokens + floats(logits))
    (folder / "golden.next").write_bytes(struct.pack("<iii", TOKENS, VOCAB, WIDTH) + tokens + floats(further) + floats(state))
    print(f"{name}: logits std {logits.std():.3f}, of the further layer {further.std():.3f}")


if __name__ == "__main__":
    for name, (base, has_own) in NEXT.items():
        make(name, base, has_own)
