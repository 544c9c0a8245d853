#!/usr/bin/env python3
"""Makes crates/compute/tests/data/quant/*.bin: encoded weights and the f32 that they mean.

Never needed to build, test or run MLXR; the vectors are committed. To make them anew:

    python3 -m venv venv && venv/bin/pip install numpy gguf==0.19.0 ml_dtypes mlx==0.32.2 mlx-cpu==0.32.2
    venv/bin/python xtask/golden/quant_vectors.py [libq.so]

With `libq.so`, ggml's own encoders (see `encode_ggml_cases`), encode_ggml.bin is made too. With `-` and libggml-base.so
of llama.cpp (0.25.3), only encode_ggml_iq.bin is made, with `- mlx` only encode_mlx.bin.

Oracles: `gguf` (GGUF blocks), `mlx` (MLX affine and float formats), `ml_dtypes` (FP8); GPTQ, AWQ, bitsandbytes
and Q8_K are written out below from the formats' definitions, with plain loops over numpy, apart from the Rust code.

A file is a list of cases. A case, little endian:

    u32 n_out, u32 n_in, u32 n_param, u32 param[n_param], u32 n_part, { u32 size, u8 bytes[size] }[n_part],
    u32 bits of f32 [n_out, n_in]

What the parameters and parts mean is said where a case is written, and in crates/compute/tests/quant_*.rs.
"""

import struct
import sys
from pathlib import Path

import numpy as np

OUT = Path(__file__).resolve().parents[2] / "crates/compute/tests/data/quant"
rng = None  # set by `Cases`


class Cases:
    """Cases of one file."""

    def __init__(self, name):
        global rng  # of its own for each file, so that a new file leaves the others as they are
        rng = np.random.default_rng([20260821, *name.encode()])
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
        "iq4_nl": [0], "iq4_xs": [0], "tq1_0": [52], "tq2_0": [64], "mxfp4": [], "nvfp4": [], "q1_0": [0], "q2_0": [0],
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
        own = {"q1_0": (128, 18), "q2_0": (64, 18)}.get(name)  # types that `gguf` cannot decode
        dtype = None if own else gguf.GGMLQuantizationType[name.upper()]
        block, size = own or gguf.GGML_QUANT_SIZES[dtype]
        cases = Cases(name.lower())
        n = 24 if block < 256 else 6
        blocks = random_blocks(name, f16_at, 2 * n, size)
        with np.errstate(over="ignore"):
            if name == "q8_K":  # `gguf` has no Q8_K: d * q
                d = blocks[:, :4].copy().view(np.float32)
                weights = d * blocks[:, 4:260].view(np.int8).astype(np.float32)
            elif own:  # d * (bit ? 1 : -1), d * (two bits - 1)
                d = blocks[:, :2].copy().view(np.float16).astype(np.float32)
                bits = np.unpackbits(blocks[:, 2:], axis=1, bitorder="little").astype(np.int8)
                q = 2 * bits - 1 if name == "q1_0" else bits[:, 0::2] + 2 * bits[:, 1::2] - 1
                weights = d * q.astype(np.float32)
            else:
                weights = gguf.quants.dequantize(blocks, dtype)
        cases.add([], [blocks], weights.reshape(2, n * block))
        cases.write()


# ---- Encodings of several parts ----------------------------------------------------------------------------------
# Scales: 0 f32, 1 f16, 2 bf16.


def as_scale(kind, x):
    """`x` rounded to the scale's type: its bytes, its f32 values."""
    import ml_dtypes

    dtype = [np.float32, np.float16, ml_dtypes.bfloat16][kind]
    stored = np.asarray(x, dtype=np.float32).astype(dtype)
    return stored.view([np.uint32, np.uint16, np.uint16][kind]), stored.astype(np.float32)


def bit_stream(codes, bits):
    """Rows of codes as rows of little-endian u32 words, one code after another."""
    codes = np.asarray(codes, dtype=np.uint8)
    stream = np.unpackbits(codes[..., None], axis=-1, bitorder="little")[..., :bits].reshape(len(codes), -1)
    return np.packbits(stream, axis=-1, bitorder="little").view("<u4")


def mlx_affine_cases():
    """Parameters: bits, group, scale."""
    import mlx.core as mx

    cases = Cases("mlx_affine")
    for bits in (2, 3, 4, 5, 6, 8):
        for group in (32, 64, 128):
            for kind in (0, 1, 2) if group == 64 else (1,):
                n_out, n_in = 3, 2 * group
                words = rng.integers(0, 2**32, (n_out, n_in * bits // 32), dtype=np.uint32)
                scales, scale = as_scale(kind, rng.standard_normal((n_out, 2)) * 0.05)
                biases, bias = as_scale(kind, rng.standard_normal((n_out, 2)) * 0.3)
                args = dict(group_size=group, bits=bits, mode="affine")
                weights = mx.dequantize(mx.array(words), mx.array(scale), mx.array(bias), **args)
                cases.add([bits, group, kind], [words, scales, biases], np.array(weights))
    cases.write()


def mlx_float_cases():
    """Parameters: 0 mxfp4, 1 mxfp8, 2 nvfp4. Every code meets ordinary and extreme scales.

    Without the NaN of e4m3, 0x7f and 0xff: MLX reads them as 480, MLXR as NaN, and no encoder writes them.
    """
    import mlx.core as mx

    cases = Cases("mlx_float")
    for kind, (mode, bits, group) in enumerate([("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)]):
        n_out, n_in = 8, 4 * group
        words = rng.integers(0, 2**32, (n_out, n_in * bits // 32), dtype=np.uint32)
        if bits == 8:
            codes = words.view(np.uint8)
            codes[(codes & 0x7F) == 0x7F] ^= 1
        scales = rng.integers(100, 140, (n_out, 4)).astype(np.uint8)
        scales[0] = [1, 2, 120, 127] if group == 32 else [0, 1, 0x7E, 0x38]
        if group == 16:
            scales[1:] = rng.integers(0, 0x7F, (n_out - 1, 4))
        args = dict(group_size=group, bits=bits, mode=mode, dtype=mx.float32)
        weights = mx.dequantize(mx.array(words), mx.array(scales), **args)
        cases.add([kind], [words, scales], np.array(weights))
    cases.write()


def gptq_cases():
    """Parameters: bits, group, zero_plus_one, scale. Parts as `Encoding::Gptq`.

    w[out][in] = scale[g][out] * (q - zero[g][out]) in f32, g = g_idx[in]; a stored zero of a "v1" file is
    zero - 1 modulo 2^bits.
    """
    cases = Cases("gptq")
    for bits in (2, 3, 4, 8):
        for group, act_order, v1, kind in [(32, 0, 1, 1), (16, 1, 1, 2), (48, 0, 0, 0), (10**9, 0, 1, 1)]:
            n_out, n_in = (160, 32) if (bits, group) == (4, 32) else (32, 96)
            n_group = -(-n_in // group)
            codes = rng.integers(0, 2**bits, (n_out, n_in), dtype=np.uint8)
            zeros = rng.integers(0, 2**bits, (n_group, n_out), dtype=np.uint8)
            scales, scale = as_scale(kind, np.abs(rng.standard_normal((n_group, n_out))) * 0.02)
            g_idx = np.arange(n_in, dtype=np.int32) // group
            if act_order:
                g_idx = rng.permutation(g_idx).astype(np.int32)
            weights = np.zeros((n_out, n_in), dtype=np.float32)
            for i in range(n_in):
                g = g_idx[i]
                weights[:, i] = scale[g] * (codes[:, i].astype(np.float32) - zeros[g].astype(np.float32))
            stored = (zeros - v1) & (2**bits - 1)
            qweight = bit_stream(codes, bits).T
            parts = [qweight, bit_stream(stored, bits), scales, g_idx if act_order or group == 32 else g_idx[:0]]
            cases.add([bits, min(group, 2**32 - 1), v1, kind], parts, weights)
    cases.write()


def awq_cases():
    """Parameters: group, scale. Nibble n of a word holds output [0, 2, 4, 6, 1, 3, 5, 7][n] of its eight."""

    def pack(codes):
        words = np.zeros((codes.shape[0], codes.shape[1] // 8), dtype=np.uint32)
        for n, output in enumerate([0, 2, 4, 6, 1, 3, 5, 7]):
            words |= codes[:, output::8].astype(np.uint32) << np.uint32(4 * n)
        return words

    cases = Cases("awq")
    for n_out, n_in, group, kind in [(264, 32, 32, 1), (40, 128, 64, 2), (8, 256, 128, 0), (24, 136, 100, 1)]:
        n_group = -(-n_in // group)
        codes = rng.integers(0, 16, (n_in, n_out), dtype=np.uint8)
        zeros = rng.integers(0, 16, (n_group, n_out), dtype=np.uint8)
        scales, scale = as_scale(kind, rng.standard_normal((n_group, n_out)) * 0.02)
        weights = np.zeros((n_out, n_in), dtype=np.float32)
        for i in range(n_in):
            g = i // group
            weights[:, i] = scale[g] * (codes[i].astype(np.float32) - zeros[g].astype(np.float32))
        cases.add([group, kind], [pack(codes), pack(zeros), scales], weights)
    cases.write()


# The values of bitsandbytes' data types, `bitsandbytes/functional.py`.
NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip
FP4 = [0.0, 0.0052083333, 0.6666667, 1.0, 0.33333333, 0.5, 0.16666667, 0.25]


def bnb_cases():
    """Parameters: block, nested_block, bits of the f32 nested_offset. Parts as `Encoding::Bnb4`."""
    cases = Cases("bnb")
    fp4 = np.array(FP4 + [-x for x in FP4], dtype=np.float32)
    for shape, block, nested, values in [
        ((4, 256), 64, 0, NF4), ((4, 256), 64, 0, fp4), ((6, 320), 128, 4, NF4), ((3, 96), 64, 2, fp4),
        ((5, 33), 64, 0, NF4), ((40, 448), 64, 256, NF4),
    ]:  # fmt: skip
        n = shape[0] * shape[1]
        n_block = -(-n // block)
        codes = rng.integers(0, 16, n + n % 2, dtype=np.uint8)
        values = np.array(values, dtype=np.float32)
        offset = np.float32(0.0625 if nested else 0)
        if nested:
            stored = rng.integers(0, 256, n_block, dtype=np.uint8)
            nested_map = np.sort(rng.uniform(-1, 1, 256)).astype(np.float32)
            nested_absmax = rng.uniform(0.01, 0.1, -(-n_block // nested)).astype(np.float32)
            absmax = np.array([nested_map[c] * nested_absmax[k // nested] for k, c in enumerate(stored)]) + offset
        else:
            stored = absmax = rng.uniform(0.01, 0.1, n_block).astype(np.float32)
            nested_map = nested_absmax = np.zeros(0, dtype=np.float32)
        weights = np.array([values[codes[i]] * absmax[i // block] for i in range(n)], dtype=np.float32)
        packed = codes[0::2] << 4 | codes[1::2]
        params = [block, nested, int(offset.view(np.uint32))]
        cases.add(params, [packed, stored, values, nested_absmax, nested_map], weights.reshape(shape))
    cases.write()


def fp8_cases():
    """Parameters: 0 e4m3 or 1 e5m2, rows, cols, scale (3: e8m0). All 256 codes, NaN and infinities included."""
    import ml_dtypes

    cases = Cases("fp8")
    everything = 2**32 - 1
    for dtype, rows, cols, kind in [
        (0, everything, everything, 0), (1, everything, everything, 2), (0, 1, everything, 0), (1, 1, everything, 1),
        (0, 4, 64, 0), (0, 4, 64, 2), (1, 5, 50, 0), (0, 4, 32, 3),
    ]:  # fmt: skip
        n_out, n_in = 9, 176
        codes = rng.integers(0, 256, (n_out, n_in), dtype=np.uint8)
        codes.reshape(-1)[:256] = np.arange(256)
        values = codes.view([ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2][dtype]).astype(np.float32)
        n_scale = (-(-n_out // rows), -(-n_in // cols))
        if kind == 3:
            scales = rng.integers(110, 130, n_scale).astype(np.uint8)
            scale = scales.view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
        else:
            scales, scale = as_scale(kind, rng.uniform(1e-3, 0.1, n_scale))
        weights = np.zeros((n_out, n_in), dtype=np.float32)
        for j in range(n_out):
            for i in range(n_in):
                weights[j, i] = values[j, i] * scale[j // rows, i // cols]
        cases.add([dtype, rows, cols, kind], [codes, scales], weights)
    cases.write()


# ---- Encoders ----------------------------------------------------------------------------------------------------


def encode_cases():
    """Parameter: the type's number in GGUF. Part: what `gguf` makes of the weights."""
    import gguf

    cases = Cases("encode")
    weights = rng.standard_normal((4, 256)).astype(np.float32) * np.array([[0.02], [1.0], [1e-3], [1e-6]], np.float32)
    weights[0, :32] = 0
    weights[1, 32:64] = 3.5
    weights[1, 64:96] = np.linspace(-8, 7.5, 32)
    weights[2, :8] *= 50
    for name in ("F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0"):
        dtype = gguf.GGMLQuantizationType[name]
        cases.add([int(dtype)], [gguf.quants.quantize(weights, dtype)], weights)
    cases.write()


def encode_ggml_cases(library):
    """Parameter: the type's number in GGUF. Parts: ggml's blocks without and with importance; importance per column.

    `library` is ggml's src/ggml-quants.c @ d99724f2 as a shared library, with stubs for the functions of ggml.c that it names:
    gcc -O2 -fPIC -shared -ffp-contract=off -Iinclude -Isrc src/ggml-quants.c stub.c -o libq.so -lm
    """
    import ctypes

    import gguf

    cases = Cases("encode_ggml")
    lib = ctypes.CDLL(library)
    # Rows that are normal, heavy-tailed, of few outliers, and shifted.
    weights = rng.standard_normal((4, 512)).astype(np.float32) * np.float32(0.02)
    weights[1] = rng.standard_t(3, 512) * 0.02
    weights[2, rng.integers(0, 512, 20)] *= 12
    weights[3] += np.float32(0.03)
    importance = rng.gamma(0.5, 1.0, 512).astype(np.float32)
    pointer = ctypes.POINTER(ctypes.c_float)
    for name in ("q2_K", "q3_K", "q4_K", "q5_K", "q6_K", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl", "iq4_xs", "mxfp4", "nvfp4", "q1_0", "q2_0"):
        dtype, (block, size) = {"q1_0": (41, (128, 18)), "q2_0": (42, (64, 18))}.get(name) or (
            int(gguf.GGMLQuantizationType[name.upper()]), gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name.upper()]]
        )  # fmt: skip
        quantize, parts = getattr(lib, f"quantize_{name}"), []
        quantize.restype = ctypes.c_size_t
        quantize.argtypes = [pointer, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, pointer]
        for imatrix in (None, importance.ctypes.data_as(pointer)):
            blocks = np.zeros(weights.size // block * size, dtype=np.uint8)
            quantize(weights.ctypes.data_as(pointer), blocks.ctypes.data, *weights.shape, imatrix)
            parts.append(blocks)
        cases.add([dtype], [*parts, importance], weights)
    cases.write()


def encode_mlx_cases():
    """Parameters: bits, group and scale of an affine format, or kind of a float format. Parts: MLX's."""
    import mlx.core as mx

    mx.set_default_device(mx.cpu)
    cases = Cases("encode_mlx")

    def weights(n_in):
        w = (rng.standard_normal((4, n_in)) * 0.02).astype(np.float32)
        w[1, ::17] *= 9
        w[2] = np.abs(w[2])
        w[3, : n_in // 2] = 0
        return w

    for bits in (2, 3, 4, 5, 6, 8):
        for group in (32, 64, 128):
            kind = ("float16", "bfloat16", "float32")[(bits + group // 32) % 3]
            w = mx.array(weights(2 * group)).astype(getattr(mx, kind))
            q, s, b = mx.quantize(w, group_size=group, bits=bits)
            raw = [np.array(x.view(mx.uint16) if kind != "float32" else x) for x in (s, b)]
            number = ("float16", "bfloat16", "float32").index(kind)
            cases.add([bits, group, number], [np.array(q), *raw], np.array(w.astype(mx.float32)))
    for kind, (mode, bits, group) in enumerate([("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)]):
        w = weights(128)
        q, s = mx.quantize(mx.array(w), group_size=group, bits=bits, mode=mode)
        cases.add([kind], [np.array(q), np.array(s)], w)
    cases.write()


# Types that ggml encodes with importance only: without, they get even importance.
NEED_IMPORTANCE = {"iq1_s", "iq1_m", "iq2_xxs", "iq2_xs"}


def encode_ggml_iq_cases(library):
    """As `encode_ggml_cases`, of the types with codebooks; `library` is libggml-base.so of llama.cpp."""
    import ctypes

    import gguf

    cases = Cases("encode_ggml_iq")
    lib = ctypes.CDLL(library)
    weights = rng.standard_normal((4, 512)).astype(np.float32) * np.float32(0.02)
    weights[1] = rng.standard_t(3, 512) * 0.02
    weights[2, rng.integers(0, 512, 20)] *= 12
    weights[3] += np.float32(0.03)
    importance = rng.gamma(0.5, 1.0, 512).astype(np.float32)
    even = np.ones(512, dtype=np.float32)
    pointer = ctypes.POINTER(ctypes.c_float)
    for name in ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s"):
        dtype = gguf.GGMLQuantizationType[name.upper()]
        block, size = gguf.GGML_QUANT_SIZES[dtype]
        lib.ggml_quantize_init(int(dtype))
        quantize, parts = getattr(lib, f"quantize_{name}"), []
        quantize.restype = ctypes.c_size_t
        quantize.argtypes = [pointer, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, pointer]
        for imatrix in (even if name in NEED_IMPORTANCE else None, importance):
            blocks = np.zeros(weights.size // block * size, dtype=np.uint8)
            given = None if imatrix is None else imatrix.ctypes.data_as(pointer)
            quantize(weights.ctypes.data_as(pointer), blocks.ctypes.data, *weights.shape, given)
            parts.append(blocks)
        cases.add([int(dtype)], [*parts, importance], weights)
    cases.write()


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    if len(sys.argv) == 3:
        encode_mlx_cases() if sys.argv[2] == "mlx" else encode_ggml_iq_cases(sys.argv[2])
        sys.exit()
    for make in (
        gguf_cases, mlx_affine_cases, mlx_float_cases, gptq_cases, awq_cases, bnb_cases, fp8_cases, encode_cases,
    ):  # fmt: skip
        make()
    if len(sys.argv) == 2:
        encode_ggml_cases(sys.argv[1])
