#!/usr/bin/env python3
"""Speed beside mlx-lm on one GPU, in one run: prefill, decode at several batch sizes, 16 clients of mixed length.

    python3 bench/beside_mlx_lm.py make MODEL                       # an 8B-shaped Llama of random weights, 4 bits, group 64
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

SHAPE = dict(
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
DEPTH, N_GEN = 512, 128
# A trial of mlx-lm's batch generator ends after this many seconds, and its rate is that of the tokens made until then.
LIMIT_S = 30


def make(folder):
    import mlx.core as mx

    folder.mkdir(parents=True, exist_ok=True)
    d, d_ff, n_vocab = SHAPE["hidden_size"], SHAPE["intermediate_size"], SHAPE["vocab_size"]
    d_kv = SHAPE["num_key_value_heads"] * SHAPE["head_dim"]
    weights = {}

    def matrix(name, n_out, n_in):
        scales = mx.random.uniform(0.5, 1.5, (n_out, n_in // 64)) * (0.2 / n_in**0.5)
        halves = [mx.random.randint(0, 1 << 16, (n_out, n_in // 8), mx.uint32) for _ in range(2)]
        weights[f"{name}.weight"] = halves[0] * 65536 + halves[1]
        weights[f"{name}.scales"] = scales.astype(mx.bfloat16)
        weights[f"{name}.biases"] = (-7.5 * scales).astype(mx.bfloat16)

    matrix("model.embed_tokens", n_vocab, d)
    matrix("lm_head", n_vocab, d)
    weights["model.norm.weight"] = mx.ones(d, mx.bfloat16)
    for i in range(SHAPE["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        for name, n_out, n_in in [
            ("self_attn.q_proj", d, d),
            ("self_attn.k_proj", d_kv, d),
            ("self_attn.v_proj", d_kv, d),
            ("self_attn.o_proj", d, d),
            ("mlp.gate_proj", d_ff, d),
            ("mlp.up_proj", d_ff, d),
            ("mlp.down_proj", d, d_ff),
        ]:
            matrix(f"{layer}.{name}", n_out, n_in)
        for name in ["input_layernorm", "post_attention_layernorm"]:
            weights[f"{layer}.{name}.weight"] = mx.ones(d, mx.bfloat16)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(SHAPE))


def clients(seed=1, n=16):
    """Lengths of prompts and replies."""
    rng = random.Random(seed)
    return [(rng.randint(32, 1024), rng.randint(32, 256)) for _ in range(n)]


def of_mlx_lm(folder, batches, prompts, n_trial):
    import mlx.core as mx
    from mlx_lm.generate import BatchGenerator, generate_step
    from mlx_lm.utils import load_model

    model, _ = load_model(folder)
    n_vocab = SHAPE["vocab_size"]
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
    commands.add_parser("make").add_argument("model", type=Path)
    run = commands.add_parser("run")
    run.add_argument("model", type=Path)
    run.add_argument("--mlx-run", help="leave out to measure mlx-lm alone")
    run.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32])
    run.add_argument("--prompts", type=int, nargs="*", default=[512, 4096])
    run.add_argument("--trials", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.command == "make":
        return make(arguments.model)
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
