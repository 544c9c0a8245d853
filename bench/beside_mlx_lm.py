#!/usr/bin/env python3
"""Speed beside mlx-lm on one GPU, in one run: prefill, decode at several batch sizes, 16 clients of mixed length.

    python3 bench/beside_mlx_lm.py make MODEL                       # an 8B-shaped Llama of random weights, 4 bits, group 64
    python3 bench/beside_mlx_lm.py make MODEL --shape qwen3-moe     # see SHAPES
    python3 bench/beside_mlx_lm.py run MODEL --mlx-run target/release/mlx-run

Needs `pip install mlx-lm==0.32.2` (Linux: `mlx[cuda13]==0.32.2`), and for mlx-run MLXR_MLX_DIR, see docs/macos.md.
Both programs decode after 512 stored tokens, greedily; mlx-run's figures come first, then mlx-lm's, then ratios.
"""

import argparse
import json
import multiprocessing
import random
import statistics
import subprocess
import time
from pathlib import Path

LLAMA = dict(
    model_type="llama",
    architectures=["LlamaForCausalLM"],
    hidden_size=4096,
    num_hidden_layers=32,
    intermediate_size=14336,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    rms_norm_eps=1e-5,
    vocab_size=128256,
    rope_theta=500000.0,
    max_position_embeddings=131072,
    tie_word_embeddings=False,
    torch_dtype="bfloat16",
    bos_token_id=1,
    eos_token_id=2,
    quantization=dict(group_size=64, bits=4),
)
QWEN = LLAMA | dict(rms_norm_eps=1e-6, vocab_size=151936, rope_theta=1000000.0, max_position_embeddings=40960)
SHAPES = {
    "llama": LLAMA,
    # Qwen3 8B: norms of heads between product and rotation.
    "qwen3": QWEN
    | dict(model_type="qwen3", architectures=["Qwen3ForCausalLM"], num_hidden_layers=36, intermediate_size=12288),
    # A quarter of the layers of Qwen3 30B A3B.
    "qwen3-moe": QWEN
    | dict(
        model_type="qwen3_moe",
        architectures=["Qwen3MoeForCausalLM"],
        hidden_size=2048,
        num_hidden_layers=12,
        intermediate_size=6144,
        num_key_value_heads=4,
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=768,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        mlp_only_layers=[],
    ),
}
DEPTH, N_GEN = 512, 128
# A trial of mlx-lm's batch generator ends after this many seconds, and its rate is that of the tokens made until then.
LIMIT_S = 30


def make(folder, shape):
    import mlx.core as mx

    folder.mkdir(parents=True, exist_ok=True)
    d, d_head = shape["hidden_size"], shape["head_dim"]
    d_q, d_kv = shape["num_attention_heads"] * d_head, shape["num_key_value_heads"] * d_head
    n_expert = shape.get("num_experts")
    weights = {}

    def matrix(name, n_out, n_in, many=()):
        scales = mx.random.uniform(0.5, 1.5, (*many, n_out, n_in // 64)) * (0.2 / n_in**0.5)
        halves = [mx.random.randint(0, 1 << 16, (*many, n_out, n_in // 8), mx.uint32) for _ in range(2)]
        weights[f"{name}.weight"] = halves[0] * 65536 + halves[1]
        weights[f"{name}.scales"] = scales.astype(mx.bfloat16)
        weights[f"{name}.biases"] = (-7.5 * scales).astype(mx.bfloat16)
        mx.eval(*weights.values())

    def ones(name, n):
        weights[f"{name}.weight"] = mx.ones(n, mx.bfloat16)

    matrix("model.embed_tokens", shape["vocab_size"], d)
    matrix("lm_head", shape["vocab_size"], d)
    ones("model.norm", d)
    for i in range(shape["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        for name, n_out, n_in in [("q", d_q, d), ("k", d_kv, d), ("v", d_kv, d), ("o", d, d_q)]:
            matrix(f"{layer}.self_attn.{name}_proj", n_out, n_in)
        mlp, d_ff, many = f"{layer}.mlp", shape["intermediate_size"], ()
        if n_expert:
            weights[f"{mlp}.gate.weight"] = (mx.random.normal((n_expert, d)) / d**0.5).astype(mx.bfloat16)
            mlp, d_ff, many = f"{mlp}.switch_mlp", shape["moe_intermediate_size"], (n_expert,)
        for name, n_out, n_in in [("gate", d_ff, d), ("up", d_ff, d), ("down", d, d_ff)]:
            matrix(f"{mlp}.{name}_proj", n_out, n_in, many)
        for name in ["input_layernorm", "post_attention_layernorm"]:
            ones(f"{layer}.{name}", d)
        if "qwen3" in shape["model_type"]:
            ones(f"{layer}.self_attn.q_norm", d_head)
            ones(f"{layer}.self_attn.k_norm", d_head)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(shape))


def clients(seed=1, n=16):
    """Lengths of prompts and replies."""
    rng = random.Random(seed)
    return [(rng.randint(32, 1024), rng.randint(32, 256)) for _ in range(n)]


def of_mlx_lm(folder, batches, prompts, n_trial):
    import mlx.core as mx
    from mlx_lm.generate import BatchGenerator, generate_step
    from mlx_lm.utils import load_model

    # Experts of mlx-lm 0.32.2 pass a `global_scale` of None, which MLX 0.32.2 has no parameter for.
    of_mlx = mx.gather_qmm
    mx.gather_qmm = lambda *arrays, global_scale=None, **rest: of_mlx(*arrays, **rest)
    model, config = load_model(folder)
    n_vocab = config["vocab_size"]
    tokens = lambda n: mx.random.randint(0, n_vocab, (n,))
    rates = {}

    def trials(run, n=n_trial):
        run()
        return statistics.median(run() for _ in range(n))

    def prefill(n):
        start = time.perf_counter()
        next(generate_step(tokens(n), model, max_tokens=1))
        mx.synchronize()
        return n / (time.perf_counter() - start)

    def decode_one():
        steps = generate_step(tokens(DEPTH), model, max_tokens=N_GEN + 1)
        next(steps)
        start = time.perf_counter()
        n = sum(1 for _ in steps)
        return n / (time.perf_counter() - start)

    def decode(n_seq):
        generator = BatchGenerator(model, completion_batch_size=n_seq, prefill_batch_size=min(n_seq, 8))
        generator.insert([tokens(DEPTH).tolist() for _ in range(n_seq)], [N_GEN] * n_seq)
        seen, start, n = set(), None, 0
        while responses := generator.next_generated():
            if start is not None:
                n += len(responses)
            seen |= {r.uid for r in responses}
            if start is None and len(seen) == n_seq:
                start = time.perf_counter()
            late = start is not None and time.perf_counter() - start > LIMIT_S
            if late or any(r.finish_reason for r in responses):
                break
        rate = n / (time.perf_counter() - start)
        generator.close()
        return rate

    def many():
        lengths = clients()
        generator = BatchGenerator(model, completion_batch_size=32, prefill_batch_size=8)
        start = time.perf_counter()
        generator.insert([tokens(n).tolist() for n, _ in lengths], [n for _, n in lengths])
        n = 0
        while responses := generator.next_generated():
            n += len(responses)
            if time.perf_counter() - start > LIMIT_S:
                print(f"mlx-lm 16 clients: {n} of {sum(n for _, n in lengths)} tokens in {LIMIT_S} s", flush=True)
                break
        rate = n / (time.perf_counter() - start)
        generator.close()
        return rate

    for n in prompts:
        rates[f"pp{n}"] = trials(lambda: prefill(n))
        print(f"mlx-lm pp{n}: {rates[f'pp{n}']:.1f} tokens/s", flush=True)
    for n in batches:
        name = f"tg{N_GEN}" + (f" x{n}" if n > 1 else "")
        rates[name] = trials(decode_one if n == 1 else lambda: decode(n))
        print(f"mlx-lm {name}: {rates[name]:.1f} tokens/s", flush=True)
    rates["clients"] = trials(many, n_trial)
    print(f"mlx-lm 16 clients: {rates['clients']:.1f} tokens/s", flush=True)
    return rates


def of_mlx_run(program, folder, batches, prompts, n_trial):
    listed = lambda numbers: ",".join(map(str, numbers))
    # 'test' names a row as llama-bench does.
    base = [program, "bench", "-m", str(folder), "--backend", "mlx", "--json", "-r", str(n_trial)]
    rates = {}
    lengths = [f"{n}:{m}" for n, m in clients()]
    # Each process compiles our kernels anew, so there are few.
    for arguments in [
        ["-p", listed(prompts), "-n", "0"],
        ["-p", "0", "-n", str(N_GEN), "-d", str(DEPTH), "-b", listed(batches), "--clients", ",".join(lengths)],
    ]:
        out = subprocess.run(base + arguments, check=True, stdout=subprocess.PIPE).stdout
        for row in json.loads(out):
            name = row["test"].removesuffix(f" @ d{DEPTH}")
            rates[name] = statistics.median(row["samples_ts"])
            print(f"mlx-run {name}: {rates[name]:.1f} tokens/s", flush=True)
    return rates


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    maker = commands.add_parser("make")
    maker.add_argument("model", type=Path)
    maker.add_argument("--shape", choices=SHAPES, default="llama")
    run = commands.add_parser("run")
    run.add_argument("model", type=Path)
    run.add_argument("--mlx-run", help="leave out to measure mlx-lm alone")
    run.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32])
    run.add_argument("--prompts", type=int, nargs="*", default=[512, 4096])
    run.add_argument("--trials", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.command == "make":
        return make(arguments.model, SHAPES[arguments.shape])
    asked = (arguments.model, arguments.batches, arguments.prompts, arguments.trials)
    own = of_mlx_run(arguments.mlx_run, *asked) if arguments.mlx_run else {}
    # In a process of its own: MLX keeps a GPU's memory as long as it runs.
    pool = multiprocessing.get_context("spawn").Pool(1)
    peer = pool.apply(of_mlx_lm, asked)
    pool.close()
    pool.join()
    if not own:
        return
    print("| work | mlx-lm tokens/s | mlx-run tokens/s | ratio |\n|---|---|---|---|")
    for name in peer:
        print(f"| {name} | {peer[name]:.0f} | {own[name]:.0f} | {own[name] / peer[name]:.2f} |")


if __name__ == "__main__":
    main()
