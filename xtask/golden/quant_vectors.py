#!/usr/bin/env python3
"""Makes crates/compute/tests/data/quant/*.bin: encoded weights and the f32 that they mean.

Never needed to build, test or run MLXR; the vectors are committed. To make them anew:

    python3 -m venv venv && venv/bin/pip install numpy gguf==0.19.0 ml_dtypes mlx==0.32.2 mlx-cpu==0.32.2
    venv/bin/python xtask/golden/quant_vectors.py

Oracles: `gguf` (GGUF blocks), `mlx` (MLX affine and float formats), `ml_dtypes` (FP8); GPTQ, AWQ, bitsandbytes
and Q8_K are written out below from the formats' definitions, with plain loops over numpy, apart from the Rust code.

A file is a list of cases. A case, little endian:

    u32 n_out, u32 n_in, u32 n_param, u32 param[n_param], u32 n_part, { u32 size, u8 bytes[size] }[n_part],
    u32 bits of f32 [n_out, n_in]

What the parameters and parts mean is said where a case is written, and in crates/compute/tests/quant_*.rs.
"""

import struct
from pathlib import Path

import numpy as np

OUT = Path(__file__).resolve().parents[2] / "crates/compute/tests/data/quant"
rng = np.random.default_rng(20260821)


class Cases:
    """Cases of one file."""

    def __init__(self, name):
        self.path, self.data = OUT / f"{name}.bin", b""

    def add(self, params, parts, weights):
        weights = np.ascontiguousarray(weights, dtype=np.float32)
        n_out, n_in = weights.shape
        self.data += struct.pack("<3I", n_out, n_in, len(params)) + struct.pack(f"<{len(params)}I", *params)
        self.data += struct.pack("<I", len(parts))
        for part in parts:
            part = np.ascontiguousarray(part).tobytes()
            self.data += struct.pack("<I", len(part)) + part
        self.data += weights.tobytes()

    def write(self):
        self.path.write_bytes(self.data)
        print(f"{self.path.name}: {len(self.data)} bytes")


# ---- GGUF blocks: one file a type, no parameters, one part -------------------------------------------------------

# Scales that every type is tried with: ordinary, negative, zero, negative zero, subnormal, smallest, largest.
F16_EDGES = np.array(
    [0x2E66, 0xAE66, 0x0000, 0x8000, 0x03FF, 0x8155, 0x0001, 0x0400, 0x7BFF, 0xFBFF, 0x3C00, 0x1234], dtype=np.uint16
)


def gguf_types():
    """Type, offsets of its f16 fields."""
    return {
        "q4_0": [0], "q4_1": [0, 2], "q5_0": [0], "q5_1": [0, 2], "q8_0": [0],
        "q2_K": [80, 82], "q3_K": [108], "q4_K": [0, 2], "q5_K": [0, 2], "q6_K": [208], "q8_K": [],
        "iq1_s": [0], "iq1_m": [], "iq2_xxs": [0], "iq2_xs": [0], "iq2_s": [0], "iq3_xxs": [0], "iq3_s": [0],
        "iq4_nl": [0], "iq4_xs": [0], "tq1_0": [52], "tq2_0": [64], "mxfp4": [], "nvfp4": [],
    }  # fmt: skip


def random_blocks(name, f16_at, n, size):
    """`n` random blocks of `size` bytes whose f16 fields are the edges, then random ordinary numbers."""
    blocks = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for k, at in enumerate(f16_at):
        d = (rng.standard_normal(n) * 0.1).astype(np.float16).view(np.uint16)
        edges = np.roll(F16_EDGES, 5 * k)[:n]
        d[: len(edges)] = edges
        blocks[:, at : at + 2] = d.view(np.uint8).reshape(n, 2)
    if name == "iq1_m":  # the scale lies in the high nibbles of four u16
        d = np.resize(F16_EDGES, n)
        for k in range(4):
            high = ((d >> (4 * k)) & 15).astype(np.uint8) << 4
            blocks[:, 49 + 2 * k] = (blocks[:, 49 + 2 * k] & 15) | high
    if name == "mxfp4":
        blocks[:, 0] = np.resize(np.array([0, 1, 2, 3, 126, 127, 128, 240, 118], dtype=np.uint8), n)
    if name == "nvfp4":
        edges = np.array([0, 1, 7, 8, 9, 0x38, 0x7E, 0x7F, 0x40, 0x77], dtype=np.uint8)
        blocks[:, :4] = np.resize(edges, (n, 4))
    if name == "q8_K":
        d = np.resize(np.array([0.01, -0.3, 0.0, -0.0, 1e-40, 3e37], dtype=np.float32), n)
        blocks[:, :4] = d.view(np.uint8).reshape(n, 4)
    return blocks


def gguf_cases():
    import gguf

    for name, f16_at in gguf_types().items():
        dtype = gguf.GGMLQuantizationType[name.upper()]
        block, size = gguf.GGML_QUANT_SIZES[dtype]
        n = 24 if block < 256 else 6
        blocks = random_blocks(name, f16_at, 2 * n, size)
        with np.errstate(over="ignore"):
            if name == "q8_K":  # `gguf` has no Q8_K: d * q
                d = blocks[:, :4].copy().view(np.float32)
                weights = d * blocks[:, 4:260].view(np.int8).astype(np.float32)
            else:
                weights = gguf.quants.dequantize(blocks, dtype)
        cases = Cases(name.lower())
        cases.add([], [blocks], weights.reshape(2, n * block))
        cases.write()


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    gguf_cases()
