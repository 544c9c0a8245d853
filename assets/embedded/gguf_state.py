"""The weights in a GGUF file under Hugging Face's names, as `export.py` wrote them."""

import gguf
import torch

LAYER = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
         "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def gguf_name(name):
    """Hugging Face's tensor name to GGUF's."""
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, index, rest = name.split(".", 3)
    return f"blk.{index}.{LAYER[rest.removesuffix('.weight')]}.weight"


def interleave(weight, n_head):
    """Rows of a q or k projection from rotated halves (Hugging Face) to rotated neighbours (GGUF's llama)."""
    n_out, n_in = weight.shape
    return weight.view(n_head, 2, n_out // n_head // 2, n_in).transpose(1, 2).reshape(n_out, n_in)


def separate(weight, n_head):
    """The inverse of `interleave`."""
    n_out, n_in = weight.shape
    return weight.view(n_head, n_out // n_head // 2, 2, n_in).transpose(1, 2).reshape(n_out, n_in)


def read_gguf(path, c):
    """All tensors of a file of any types, decoded, of a model of configuration `c`."""
    names = ["model.embed_tokens.weight", "model.norm.weight"]
    names += [f"model.layers.{i}.{part}.weight" for i in range(c.n_layer) for part in LAYER]
    tensors = {t.name: t for t in gguf.GGUFReader(path).tensors}
    state = {}
    for name in names:
        tensor = tensors[gguf_name(name)]
        value = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy()).float()
        if ".q_proj" in name or ".k_proj" in name:
            value = separate(value, c.n_head if ".q_proj" in name else c.n_kv_head)
        state[name] = value
    return state
