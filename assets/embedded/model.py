"""The Llama architecture in PyTorch, as small as it gets, with Hugging Face's tensor names.

Grouped-query attention, rotary positions (halves rotated, base 10000), SwiGLU, RMS norm, tied
embeddings. Attention stays inside a document: rows are packed and <|endoftext|> separates them.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

END, START = 0, 1


@dataclass(frozen=True)
class Config:
    d_model: int
    n_layer: int
    n_head: int
    n_kv_head: int
    d_ff: int
    n_vocab: int = 8192
    n_context: int = 2048
    rope_base: float = 10000.0
    norm_eps: float = 1e-5

    @property
    def d_head(self):
        return self.d_model // self.n_head


MODELS = {"main": Config(512, 10, 8, 4, 1280), "draft": Config(256, 3, 4, 4, 768), "tiny": Config(256, 2, 4, 4, 256)}


class RMSNorm(nn.Module):
    def __init__(self, d_model, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(d_model)), eps

    def forward(self, x):
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight, self.eps).to(x.dtype)


def rotate(x, cos, sin):
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.q_proj = nn.Linear(c.d_model, c.n_head * c.d_head, bias=False)
        self.k_proj = nn.Linear(c.d_model, c.n_kv_head * c.d_head, bias=False)
        self.v_proj = nn.Linear(c.d_model, c.n_kv_head * c.d_head, bias=False)
        self.o_proj = nn.Linear(c.n_head * c.d_head, c.d_model, bias=False)

    def forward(self, x, cos, sin, mask):
        n_row, n_tok, _ = x.shape
        split = lambda t, n: t.view(n_row, n_tok, n, self.c.d_head).transpose(1, 2)
        q = rotate(split(self.q_proj(x), self.c.n_head), cos, sin)
        k = rotate(split(self.k_proj(x), self.c.n_kv_head), cos, sin)
        v = split(self.v_proj(x), self.c.n_kv_head)
        if mask is None or isinstance(mask, torch.Tensor):
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
        else:
            y = flex_attention(q, k, v, block_mask=mask, enable_gqa=True)
        return self.o_proj(y.transpose(1, 2).reshape(n_row, n_tok, -1))


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c.d_model, c.d_ff, bias=False)
        self.up_proj = nn.Linear(c.d_model, c.d_ff, bias=False)
        self.down_proj = nn.Linear(c.d_ff, c.d_model, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(c.d_model, c.norm_eps), RMSNorm(c.d_model, c.norm_eps)
        self.self_attn, self.mlp = Attention(c), MLP(c)

    def forward(self, x, cos, sin, mask):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.embed_tokens = nn.Embedding(c.n_vocab, c.d_model)
        self.layers = nn.ModuleList(Block(c) for _ in range(c.n_layer))
        self.norm = RMSNorm(c.d_model, c.norm_eps)
        angle = torch.outer(torch.arange(c.n_context).float(), c.rope_base ** (-torch.arange(0, c.d_head, 2).float() / c.d_head))
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                last = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, std=0.02 / (math.sqrt(2 * c.n_layer) if last else 1))

    def hidden(self, tokens, mask):
        n_tok = tokens.shape[1]
        x = self.embed_tokens(tokens).to(torch.bfloat16)
        for layer in self.layers:
            x = layer(x, self.cos[:n_tok], self.sin[:n_tok], mask)
        return self.norm(x)

    def logits(self, x):
        return F.linear(x, self.embed_tokens.weight.to(x.dtype)).float()


def document_mask(tokens, build=create_block_mask):
    """Causal attention within documents: a token sees its own document only."""
    ends = (tokens == END).int()
    document = ends.cumsum(1) - ends

    def allowed(row, head, q, k):
        return (q >= k) & (document[row, q] == document[row, k])

    return build(allowed, tokens.shape[0], None, tokens.shape[1], tokens.shape[1], device=tokens.device)


def dense_mask(tokens):
    """The same as a matrix [n_row, 1, n_tok, n_tok], for machines without block masks."""
    ends = (tokens == END).int()
    document = ends.cumsum(1) - ends
    same = document[:, :, None] == document[:, None, :]
    return same.tril()[:, None]


def weights(tokens, roles):
    """Loss weight of predicting each next token, [n_row, n_tok]: 1 in plain text and in what the
    assistant says, `roles` {token id of a role name: weight} elsewhere in a conversation, 0 after the
    end of a document."""
    n_tok = tokens.shape[1]
    place = torch.arange(n_tok, device=tokens.device).expand_as(tokens)
    mark = torch.where((tokens == END) | (tokens == START), place, torch.zeros_like(place)).cummax(1).values
    in_chat = tokens.gather(1, mark) == START
    role = tokens.gather(1, (mark + 1).clamp(max=n_tok - 1))
    out = torch.ones_like(tokens, dtype=torch.float32)
    for token, weight in roles.items():
        out = torch.where(in_chat & (role == token), torch.full_like(out, weight), out)
    return torch.where((tokens == END) | (place == n_tok - 1), torch.zeros_like(out), out)
