"""The same Llama in other words: channels of the residual stream and hidden units in another order, with other signs.

Every such file computes the same logits, and a quantizer finds other blocks in it. So the spread of a loss over them is what
chance does to it, and their mean says which of two quantizers is better where one file cannot.
"""

import re
import shutil

import numpy as np
from gguf import GGUFReader


def negated(numbers, where):
    """bf16 numbers as u16, with the other sign in some places."""
    return numbers ^ (where.astype(np.uint16) << 15)


class Equivalent:
    """A random order and signs, for a model of bf16 matrices."""

    def __init__(self, model, seed):
        self.model, random = model, np.random.default_rng(seed)
        field = lambda name: int(GGUFReader(model).fields[f"llama.{name}"].contents())
        signs = lambda n: random.integers(0, 2, n).astype(bool)
        d_model, d_ff, n_layer = field("embedding_length"), field("feed_forward_length"), field("block_count")
        n_head, n_kv_head = field("attention.head_count"), field("attention.head_count_kv")
        d_head = d_model // n_head
        self.order, self.signs = random.permutation(d_model), signs(d_model)
        self.hidden = [(random.permutation(d_ff), signs(d_ff), signs(n_kv_head * d_head)) for _ in range(n_layer)]
        # Which number of a value each number of attention's output comes from.
        at = np.arange(n_head * d_head)
        self.values = at // d_head // (n_head // n_kv_head) * d_head + at % d_head

    def matrix(self, name, a):
        """Rows that are channels and columns that are channels or hidden units, in their new places."""
        layer, kind = re.match(r"(?:blk\.(\d+)\.)?(\w+)", name).groups()
        if layer is None or kind in ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"):
            a = negated(a[:, self.order], self.signs[None])
        if layer is None:
            return a
        units, unit_signs, value_signs = self.hidden[int(layer)]
        if kind == "attn_v":
            return negated(a, value_signs[:, None])
        if kind == "ffn_gate":
            return a[units]
        if kind == "ffn_up":
            return negated(a[units], unit_signs[:, None])
        if kind in ("attn_output", "ffn_down"):
            a = negated(a[self.order], self.signs[:, None])
            if kind == "ffn_down":
                return negated(a[:, units], unit_signs[None])
            return negated(a, value_signs[self.values][None])
        return a

    def write(self, out):
        """The model so, in the file `out`."""
        shutil.copyfile(self.model, out)
        data = np.memmap(out, mode="r+")
        for tensor in GGUFReader(self.model).tensors:
            raw = data[tensor.data_offset : tensor.data_offset + tensor.n_bytes]
            if tensor.tensor_type.name == "F32":
                norm = raw.view(np.float32)
                norm[:] = norm[self.order].copy()
            else:
                matrix = raw.view(np.uint16).reshape([int(n) for n in tensor.shape[::-1]])
                matrix[:] = self.matrix(tensor.name, matrix.copy())
        data.flush()

    def write_imatrix(self, imatrix, out):
        """The model's importance matrix so, in the file `out`."""
        shutil.copyfile(imatrix, out)
        data = np.memmap(out, mode="r+")
        for tensor in GGUFReader(imatrix).tensors:
            if not tensor.name.endswith(".in_sum2") or ".attn_output." in tensor.name:
                continue
            layer = re.match(r"blk\.(\d+)\.ffn_down", tensor.name)
            sums = data[tensor.data_offset : tensor.data_offset + tensor.n_bytes].view(np.float32)
            sums[:] = sums[self.hidden[int(layer[1])][0] if layer else self.order].copy()
        data.flush()
