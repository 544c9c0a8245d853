#!/usr/bin/env python3
"""Writes docs/quantization.md: for each recipe size, loss and encode speed, beside llama.cpp's quantizer on the same file.

    bench/quantization.py MODEL-bf16.gguf --text HELD_OUT.txt --importance-text TRAINING.txt --peer FOLDER_OF_LLAMA_CPP \\
        --speed-model LARGE-f16.gguf [--only Q4_K_M,...] [--pairs 3] [-t 2]

Loss: perplexity over the held-out text and the KL divergence from the unquantized model, both by `mlx-run perplexity`
for either file, and our file's perplexity once more by llama-perplexity, which shows that llama.cpp reads it. Speed:
weights a second of whole processes on the speed model (`cargo xtask random-model --types f16` makes one), by turns,
median of the pairs; `--pure`, so that a row is about one type. Recipes that want an importance matrix get one, made of
the importance text by `mlx-run imatrix`; the same file goes to both programs.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Recipe, and whether it gets the importance matrix.
RECIPES = [
    ("F16", False), ("Q8_0", False), ("Q6_K", False), ("Q5_K_M", False), ("Q5_K_S", False), ("Q5_1", False),
    ("Q5_0", False), ("Q4_K_M", False), ("Q4_K_M", True), ("Q4_K_S", False), ("IQ4_NL", False), ("IQ4_XS", False),
    ("Q4_1", False), ("Q4_0", False), ("Q4_0", True), ("Q3_K_L", False), ("Q3_K_M", False), ("Q3_K_M", True),
    ("Q3_K_S", False), ("IQ3_M", True), ("IQ3_S", True), ("IQ3_XS", True), ("IQ3_XXS", True), ("Q2_K", False),
    ("Q2_K", True), ("Q2_K_S", True), ("IQ2_M", True), ("IQ2_S", True), ("IQ2_XS", True), ("IQ2_XXS", True),
    ("IQ1_M", True), ("IQ1_S", True), ("TQ2_0", False), ("TQ1_0", False), ("Q2_0", False), ("Q1_0", False),
]  # fmt: skip
OURS_ONLY = ["MXFP4", "NVFP4"]  # llama-quantize has no recipe of these for dense models


class Bench:
    def __init__(self, args, folder):
        self.args, self.folder = args, folder
        self.base = folder / "base.logits"
        self.imatrix = folder / "imatrix.gguf"
        self.speed_imatrix = folder / "speed-imatrix.gguf"

    def run(self, *command):
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{command}: {done.stderr[-600:]}")
        return done.stdout + done.stderr

    def loss(self, model):
        report = self.run(self.args.mlx_run, "perplexity", "--json", "-m", model, "--kl-divergence-base", self.base)
        report = json.loads(report[report.index("{") : report.rindex("}") + 1])
        return report["ppl"]["value"], report["kld"]["value"]

    def peers_perplexity(self, model):
        args = self.args
        command = [f"{args.peer}/llama-perplexity", "-m", model, "-f", args.text, "-c", args.ctx, "--chunks", args.chunks]
        return float(re.search(r"PPL = ([\d.]+)", self.run(*command))[1])

    def quantize(self, ours, recipe, imatrix, model, out, pure):
        options = [*(["--imatrix", imatrix] if imatrix else []), *(["--pure"] if pure else [])]
        program = [self.args.mlx_run, "quant", "-t", self.args.t] if ours else [f"{self.args.peer}/llama-quantize"]
        start = time.perf_counter()
        self.run(*program, *options, model, out, recipe, *([] if ours else [self.args.t]))
        return time.perf_counter() - start

    def speeds(self, recipe, imatrix):
        """Seconds of each program on the speed model."""
        times = {True: [], False: []}
        for _ in range(self.args.pairs):
            for ours in (True, False) if recipe not in OURS_ONLY else (True,):
                model, out = self.args.speed_model, self.folder / "speed.gguf"
                times[ours].append(self.quantize(ours, recipe, imatrix, model, out, True))
        return [statistics.median(times[ours]) if times[ours] else None for ours in (True, False)]

    def row(self, recipe, important):
        imatrix = self.imatrix if important else None
        files = [self.folder / name for name in ("ours.gguf", "peer.gguf")]
        found = []
        for ours, file in zip((True, False), files):
            if not ours and recipe in OURS_ONLY:
                found.append((None, None))
                continue
            self.quantize(ours, recipe, imatrix, self.args.model, file, False)
            found.append(self.loss(file))
        size = os.path.getsize(files[0])
        check = self.peers_perplexity(files[0])
        speed = self.speeds(recipe, self.speed_imatrix if important else None)
        return size, found, check, speed


def shown(value, digits):
    return "" if value is None else f"{value:.{digits}f}"


def n_weight(mlx_run, model):
    text = subprocess.run([mlx_run, "quant", "--dry-run", model, "COPY"], capture_output=True, text=True).stdout
    shapes = re.findall(r"^\S+ +(\d+(?: x \d+)*) ", text, re.M)
    product = lambda shape: eval(shape.replace("x", "*"))  # digits and signs only, by the pattern
    return sum(product(shape) for shape in shapes)


def even_imatrix(bench, model):
    """For the speed model, whose vocabulary is none: importance of every column, the same."""
    import numpy as np
    from gguf import GGUFReader, GGUFWriter

    writer = GGUFWriter(str(bench.speed_imatrix), "imatrix")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["even"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 512)
    for tensor in GGUFReader(model).tensors:
        if tensor.name.startswith("blk.") and len(tensor.shape) == 2:
            rng = np.random.default_rng(1)
            writer.add_tensor(f"{tensor.name}.in_sum2", rng.gamma(0.5, 1.0, (1, int(tensor.shape[0]))).astype(np.float32))
            writer.add_tensor(f"{tensor.name}.counts", np.ones((1, 1), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", required=True)
    parser.add_argument("--importance-text", required=True)
    parser.add_argument("--peer", required=True, help="folder of llama-quantize and llama-perplexity")
    parser.add_argument("--speed-model", required=True)
    parser.add_argument("--mlx-run", default="target/release/mlx-run")
    parser.add_argument("--only", default="")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--ctx", default="512")
    parser.add_argument("--chunks", default="40")
    parser.add_argument("-t", default="2")
    parser.add_argument("--machine", default="two cores of a shared AMD EPYC")
    parser.add_argument("--out", default=ROOT / "docs/quantization.md")
    args = parser.parse_args()
    only = [name for name in args.only.split(",") if name]
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, Path(folder))
        text = ["-f", args.text, "-c", args.ctx, "--chunks", args.chunks]
        bench.run(args.mlx_run, "perplexity", "-m", args.model, *text, "--save-all-logits", bench.base)
        importance = ["-f", args.importance_text, "-o", bench.imatrix]
        bench.run(args.mlx_run, "imatrix", "-m", args.model, *importance)
        even_imatrix(bench, args.speed_model)
        weights, speed_weights = n_weight(args.mlx_run, args.model), n_weight(args.mlx_run, args.speed_model)
        base_loss = bench.loss(args.model)
        lines = []
        for recipe, important in RECIPES + [(name, False) for name in OURS_ONLY]:
            if only and recipe not in only:
                continue
            size, (ours, peer), check, (fast, slow) = bench.row(recipe, important)
            ratio = "" if slow is None else f"{slow / fast:.1f}"
            cells = [
                recipe + (" +i" if important else ""), f"{8 * size / weights:.2f}", f"{size / 1e6:.1f}",
                shown(ours[1], 5), shown(peer[1], 5), shown(ours[0], 3), shown(peer[0], 3), shown(check, 3),
                f"{speed_weights / fast / 1e6:.0f}", "" if slow is None else f"{speed_weights / slow / 1e6:.0f}", ratio,
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    name = Path(args.model).name
    Path(args.out).write_text(
        f"""# Quantization

What `mlx-run quant` makes of the embedded model ({name}, {weights / 1e6:.1f} M weights, perplexity {base_loss[0]:.3f} before), beside
llama-quantize on the same file. Made by `bench/quantization.py`, whose header says how each figure comes about.
`+i`: with an importance matrix (`mlx-run imatrix`). KL: mean divergence from the unquantized model, in nats; PPL:
perplexity of held-out text; both for the two quantizers' files under `mlx-run perplexity`, then our file's under
llama-perplexity. Speed: million weights a second of whole processes, {args.machine}, on random weights with one
type for all matrices ({args.pairs} pairs by turns, medians).

| recipe | bits/weight | MB | KL | KL, llama.cpp's | PPL | PPL, llama.cpp's | PPL of ours in llama.cpp | M weights/s | llama.cpp's | times |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|
"""
        + "\n".join(lines)
        + "\n"
    )


if __name__ == "__main__":
    main()
