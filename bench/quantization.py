#!/usr/bin/env python3
"""Writes docs/quantization.md: size, loss and encode speed of every recipe and type, beside llama.cpp's quantizer on the
same file, and what calibration gains.

    bench/quantization.py MODEL-bf16.gguf --data DATA --peer FOLDER_OF_LLAMA_CPP [--results FILE.json] [--pairs 3] [--large FILE.gguf]

MODEL is the embedded model before it was quantized and DATA what it was trained on: what assets/embedded/export.py and
build.py make. The loss is measured on the first row (2048 tokens) of every pool of held-out text, importance and
calibration come from training rows of text. Losses of both programs' files are by `mlx-run perplexity`; llama-perplexity
reads ours once more, which shows that llama.cpp loads them. Times are CPU seconds (user and system) and wall seconds of
whole processes on the same file, by turns, medians of the pairs. Peak memory is measured on what is made of a --large
model, which takes about ten times its size on the disk. What was measured is kept in the results' file, so that
a run goes on where the last one stopped; --write makes the page of what is there. Needs numpy, tokenizers and gguf.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from equivalents import Equivalent
from gguf import GGUFReader, GGUFWriter
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[1]
CTX, CALIBRATION_ROWS = 512, 64
# Recipe, and whether it gets the importance matrix.
RECIPES = [
    ("BF16", False), ("F16", False), ("Q8_0", False), ("Q6_K", False), ("Q5_K_M", False), ("Q5_K_S", False), ("Q5_1", False),
    ("Q5_0", False), ("Q4_K_M", False), ("Q4_K_M", True), ("Q4_K_S", False), ("IQ4_NL", False), ("IQ4_XS", False),
    ("NVFP4", False), ("NVFP4", True), ("Q4_1", False), ("Q4_0", False), ("Q4_0", True), ("MXFP4", False), ("MXFP4", True),
    ("Q3_K_L", False), ("Q3_K_M", False), ("Q3_K_M", True), ("Q3_K_S", False), ("IQ3_M", True), ("IQ3_S", True), ("IQ3_XS", True), ("IQ3_XXS", True), ("Q2_K", False),
    ("Q2_K", True), ("Q2_K_S", True), ("IQ2_M", True), ("IQ2_S", True), ("IQ2_XS", True), ("IQ2_XXS", True),
    ("IQ1_M", True), ("IQ1_S", True), ("TQ2_0", False), ("TQ1_0", False), ("Q2_0", False), ("Q1_0", False),
]  # fmt: skip
# Types without a recipe: all matrices get them.
BARE = {"MXFP4", "NVFP4"}
# Type, its bits a weight, and the recipe whose main type it is; without one, tensors are named.
TYPES = [
    ("bf16", 16, "BF16"), ("f16", 16, "F16"), ("q8_0", 8.5, "Q8_0"), ("q6_K", 6.5625, "Q6_K"), ("q5_K", 5.5, "Q5_K_S"),
    ("q5_1", 6, "Q5_1"), ("q5_0", 5.5, "Q5_0"), ("q4_K", 4.5, "Q4_K_S"), ("iq4_nl", 4.5, "IQ4_NL"),
    ("iq4_xs", 4.25, "IQ4_XS"), ("q4_1", 5, "Q4_1"), ("q4_0", 4.5, "Q4_0"), ("mxfp4", 4.25, None),
    ("nvfp4", 4.5, None), ("q3_K", 3.4375, "Q3_K_S"), ("iq3_s", 3.4375, "IQ3_S"), ("iq3_xxs", 3.0625, "IQ3_XXS"),
    ("q2_K", 2.625, "Q2_K"), ("iq2_s", 2.5625, "IQ2_M"), ("iq2_xs", 2.3125, "IQ2_XS"),
    ("iq2_xxs", 2.0625, "IQ2_XXS"), ("iq1_m", 1.75, "IQ1_M"), ("iq1_s", 1.5625, "IQ1_S"), ("tq2_0", 2.0625, "TQ2_0"),
    ("tq1_0", 1.6875, "TQ1_0"), ("q2_0", 2.25, "Q2_0"), ("q1_0", 1.125, "Q1_0"),
]  # fmt: skip
PLAIN = {"bf16", "f16", "tq1_0", "tq2_0"}  # importance changes nothing
NEEDS = {"iq3_xxs", "iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s"}
# Recipes that are measured on equivalent models too, and how many of these.
EQUIVALENTS, N_EQUIVALENT = [("Q4_K_M", False), ("Q4_K_M", True), ("Q4_K_S", False)], 12
CALIBRATED = ["Q6_K", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K", "IQ2_XXS"]
MLX = [["--bits", "8"], ["--bits", "6"], ["--bits", "4"], ["--bits", "4", "--group", "32"], ["--bits", "3"], ["--bits", "2"],
       ["--recipe", "mixed_3_6"], ["--mode", "mxfp8"], ["--mode", "mxfp4"], ["--mode", "nvfp4"]]  # fmt: skip


# What happens to a large model: from and to what in the folder, and the command.
MEMORY = [
    ("GGUF to Hugging Face, bf16", "large.gguf", "large-hf", ["convert", "--to", "hf"]),
    ("Hugging Face to GGUF, bf16", "large-hf", "large-bf16.gguf", ["convert"]),
    ("GGUF to MLX, blocks packed anew", "large.gguf", "large-mlx", ["convert"]),
    ("GGUF to MLX, 4 bits", "large-bf16.gguf", "large-mlx-4", ["convert", "--bits", "4"]),
    ("MLX to GGUF, q8_0", "large-mlx-4", "large-q8_0.gguf", ["convert", "--type", "q8_0"]),
    ("`quant` Q4_K_M", "large-bf16.gguf", "large-q4_k_m.gguf", ["quant"]),
]

# Says the peak of a command. A process begins with the peak of the one that made it, and this one is small.
PEAK = """import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, "KiB")
sys.exit(code)"""


class Bench:
    def __init__(self, args, folder):
        self.args, self.folder = args, folder
        self.held_out, self.training = folder / "held-out.txt", folder / "training.txt"
        self.base, self.imatrix, self.full_imatrix = (folder / n for n in ("base.logits", "imatrix.gguf", "full.gguf"))
        self.results = json.loads(Path(args.results).read_text()) if Path(args.results).exists() else {}

    def kept(self, key, make):
        """What `make` gives, from the results' file if it is there; None if nothing is to be measured."""
        if key not in self.results and self.args.write:
            return None
        if key not in self.results:
            self.results[key] = make()
            Path(self.args.results).write_text(json.dumps(self.results, indent=1))
            print(key, self.results[key], flush=True)
        return self.results[key]

    def run(self, *command):
        """Output, CPU seconds and wall seconds of a process."""
        command = [str(c) for c in command]
        with tempfile.TemporaryFile() as out:
            start = time.perf_counter()
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            text = out.read().decode(errors="replace")
        if process.returncode:
            raise SystemExit(f"{' '.join(command)}: {text[-800:]}")
        return text, usage.ru_utime + usage.ru_stime, wall

    def prepare(self):
        """Texts, the unquantized model's logits, importance matrices."""
        data, tokenizer = Path(self.args.data), Tokenizer.from_file(str(Path(self.args.data) / "tokenizer.json"))
        text = lambda rows: "".join(tokenizer.decode(row.tolist(), skip_special_tokens=True) + "\n" for row in rows)
        pools = np.load(data / "valid-text.npz")
        self.held_out.write_text(text([pools[name][0] for name in pools.files if len(pools[name])]))
        rows = np.load(data / "text.npy", mmap_mode="r")
        self.training.write_text(text(rows[:: len(rows) // CALIBRATION_ROWS][:CALIBRATION_ROWS]))
        ours, model = self.args.mlx_run, self.args.model
        if not self.base.exists():
            text = ["-f", self.held_out, "-c", CTX, "--chunks", self.args.chunks]
            self.run(ours, "perplexity", "-m", model, *text, "--save-all-logits", self.base)
        if not self.imatrix.exists():
            self.run(ours, "imatrix", "-m", model, "-f", self.training, "-o", self.imatrix, "--chunks",
                     self.args.calibration_chunks)  # fmt: skip
        self.complete()

    def complete(self):
        """An importance matrix with an entry for every matrix, so that any type can be given to all."""
        made = {tensor.name: tensor.data for tensor in GGUFReader(self.imatrix).tensors}
        writer = GGUFWriter(str(self.full_imatrix), "imatrix")
        writer.add_type("imatrix")
        writer.add_array("imatrix.datasets", ["training.txt"])
        writer.add_uint32("imatrix.chunk_count", 64)
        writer.add_uint32("imatrix.chunk_size", CTX)
        for tensor in GGUFReader(self.args.model).tensors:
            if len(tensor.shape) == 2 and f"{tensor.name}.in_sum2" not in made:
                made[f"{tensor.name}.in_sum2"] = np.ones((1, int(tensor.shape[0])), np.float32)
                made[f"{tensor.name}.counts"] = np.ones((1, 1), np.float32)
        for name, numbers in made.items():
            writer.add_tensor(name, np.array(numbers, np.float32))
        for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
            step()

    def loss(self, model):
        report, _, _ = self.run(self.args.mlx_run, "perplexity", "--json", "-m", model, "--kl-divergence-base", self.base)
        report = json.loads(report[report.index("{") : report.rindex("}") + 1])
        return [report["ppl"]["value"], report["kld"]["value"]]

    def peers_perplexity(self, model):
        options = ["-f", self.held_out, "-c", CTX, "--chunks", self.args.chunks]
        for _ in range(3):  # sometimes its log ends before its last line
            text, _, _ = self.run(f"{self.args.peer}/llama-perplexity", "-m", model, *options)
            if found := re.search(r"PPL = ([\d.]+)", text):
                return float(found[1])
        raise SystemExit(f"llama-perplexity of {model}: no perplexity in {text[-800:]}")

    def quantize(self, ours, options, recipe, out, model=None):
        model, threads = model or self.args.model, self.args.t
        if ours:
            return self.run(self.args.mlx_run, "quant", "-t", threads, *options, model, out, recipe)[1:]
        _, cpu, wall = self.run(f"{self.args.peer}/llama-quantize", *options, model, out, recipe, threads)
        # Ours has its name when it is on the disk.
        before, start = os.times(), time.perf_counter()
        with open(out, "rb") as file:
            os.fsync(file.fileno())
        after = os.times()
        return cpu + sum(after[:2]) - sum(before[:2]), wall + time.perf_counter() - start

    def recipe(self, recipe, important):
        """Loss of both programs' files."""
        options = ["--imatrix", self.imatrix] if important else []
        if recipe in BARE:
            options, recipe = [*options, "--tensor-type", f".={recipe.lower()}"], "Q4_0"
        files = [self.folder / name for name in ("ours.gguf", "peer.gguf")]
        for ours, file in zip((True, False), files):
            self.quantize(ours, options, recipe, file)
        losses = [self.loss(file) for file in files]
        return {"bytes": os.path.getsize(files[0]), "losses": losses, "check": self.peers_perplexity(files[0])}

    def equivalents(self, recipe, important):
        """KL of both programs' files of each equivalent model, and the unquantized one's."""
        model, imatrix, out = (self.folder / f"equivalent{end}" for end in (".gguf", ".imatrix.gguf", ".out.gguf"))
        options, kls = ["--imatrix", imatrix] if important else [], []
        for seed in range(1, N_EQUIVALENT + 1):
            equivalent, row = Equivalent(self.args.model, seed), []
            equivalent.write(model)
            equivalent.write_imatrix(self.imatrix, imatrix)
            for ours in (True, False):
                self.quantize(ours, options, recipe, out, model)
                row.append(self.loss(out)[1])
            kls.append([*row, self.loss(model)[1]])
        return kls

    def speed(self, dtype, recipe, important):
        """CPU and wall seconds of both programs, one type for all matrices."""
        options = ["--imatrix", self.full_imatrix] if important else []
        options += ["--pure"] if recipe else ["--tensor-type", f".={dtype}"]
        times, model = {True: [], False: []}, None
        if dtype == "bf16":  # the model's own type: of its copy in f32
            model = self.folder / "f32.gguf"
            self.quantize(True, [], "F32", model)
        for _ in range(self.args.pairs):
            for ours in (True, False):
                times[ours].append(self.quantize(ours, options, recipe or "Q4_0", self.folder / "speed.gguf", model))
        return [[statistics.median(t[i] for t in times[ours]) for i in (0, 1)] for ours in (True, False)]

    def gptq(self, recipe):
        """Loss with calibration."""
        out = self.folder / "calibrated.gguf"
        self.quantize(True, ["--calibrate", self.training, "--calibrate-chunks", self.args.calibration_chunks], recipe, out)
        return self.loss(out)

    def memory(self):
        """Bytes of each source, and of the peak of its conversion."""
        large = self.folder / "large.gguf"
        large.unlink(missing_ok=True)
        large.symlink_to(Path(self.args.large).resolve())
        made = {}
        for what, source, out, (command, *options) in MEMORY:
            source, out = self.folder / source, self.folder / out
            recipe = ["Q4_K_M"] if command == "quant" else ["--no-tokenizer"]
            text, _, _ = self.run(sys.executable, "-c", PEAK, self.args.mlx_run, command, *options, source, out, *recipe)
            files = [source] if source.is_file() else source.glob("*.safetensors")
            made[what] = [sum(f.stat().st_size for f in files), int(re.search(r"peak (\d+) KiB", text)[1]) * 1024]
        return made

    def mlx(self, options, calibrated):
        if not self.args.source.exists():
            self.run(self.args.mlx_run, "convert", "--to", "mlx", self.args.model, self.args.source)
        out = self.folder / f"mlx-{len(self.results)}"
        text = ["--calibrate", self.training, "--calibrate-chunks", self.args.calibration_chunks] if calibrated else []
        report, _, _ = self.run(self.args.mlx_run, "convert", "--json", *options, *text, self.args.source, out)
        report = json.loads(report[report.index("{") : report.rindex("}") + 1])
        return {"bits": report["bytes"] * 8 / report["n_parameter"], "loss": self.loss(out)}


PAGE = """# Quantization

What `mlx-run quant` and `mlx-run convert` make of the embedded model ({name}, {weights:.1f} M weights, perplexity
{ppl:.3f} before), beside llama-quantize on the same file. This page is written by `bench/quantization.py`, whose header
says how each figure comes about. What is missing was not measured yet. A small model loses more than a large one; compare
within a row.

## Recipes

KL: mean divergence from the unquantized model in nats, over {chunks} windows of {ctx} tokens of held-out text. PPL: perplexity.
`+i`: with an importance matrix (`mlx-run imatrix`, the same file for both programs). Bits and size of the whole file; both
programs choose the same types, so it is that of either. MXFP4 and NVFP4 are types without a recipe, here of every matrix.

{losses}
KL of one file is partly chance: of equal blocks' errors some happen to matter. The same model can be written in other words
(`bench/equivalents.py`: channels and hidden units in another order and with other signs), which a quantizer cuts into other
blocks. Mean KL over {n_equivalent} such files (the largest KL of one before quantization: {unquantized:.1e}):

{equivalents}
## Speed of each type

One type for all matrices (bf16: of a copy in f32), `+i` with an importance matrix, of which some types cannot do without. CPU and
wall seconds of the whole process with {threads} threads on {machine};
medians of {pairs} pair(s) by turns. What is read lies in memory (page cache); what
is written is waited for until it is on the disk, as `mlx-run quant` does before the file gets its name (for llama-quantize, which does
not wait, the script does). The quickest types are little more than that writing: of bf16 nine tenths of the CPU time are the system's.

{times}
## Memory

Tensors are read, quantized and written one by one: peak resident memory of the process (`ru_maxrss`, parts of the mapped
source included); without a tokenizer.

{memory}
## Calibration

`mlx-run quant --calibrate TEXT` runs a text through the model and lets later columns of a matrix make up for the rounding of
earlier ones (GPTQ), block by block, with the text's importance matrix; here {calibration} windows
of training text. Gain: the smaller of the two KL before it, divided
by KL with it.

{gguf}
`mlx-run convert --calibrate TEXT` does so for MLX's formats; affine integers column by column. Gain over rounding to nearest,
which is what MLX's own converter does (the same bits):

{mlx}"""


def table(head, rows):
    if not rows:
        return "Not measured yet.\n"
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def recipes(bench, weights):
    rows = []
    for recipe, important in RECIPES:
        name = recipe + (" +i" if important else "")
        made = bench.kept(f"loss {name}", lambda: bench.recipe(recipe, important))
        if made is None:
            continue
        (ppl, kl), (peer_ppl, peer_kl) = made["losses"]
        rows.append([name, f"{8 * made['bytes'] / weights:.2f}", f"{made['bytes'] / 1e6:.1f}", f"{kl:.5f}", f"{peer_kl:.5f}",
                     f"{ppl:.3f}", f"{peer_ppl:.3f}", f"{made['check']:.3f}"])  # fmt: skip
    head = ["recipe", "bits/weight", "MB", "KL", "KL, llama.cpp's", "PPL", "PPL, llama.cpp's", "PPL of ours in llama.cpp"]
    return table(head, rows)


def equivalents(bench):
    """The table, and the largest KL of an equivalent model that is not quantized."""
    rows, unquantized = [], 0.0
    for recipe, important in EQUIVALENTS:
        name = recipe + (" +i" if important else "")
        made = bench.kept(f"equivalents {name}", lambda: bench.equivalents(recipe, important))
        if made is None:
            continue
        made = np.array(made)
        gain, unquantized = made[:, 1] - made[:, 0], max(unquantized, np.abs(made[:, 2]).max())
        spread = lambda of: f"{of.mean():.5f} ± {of.std(ddof=1) / len(of) ** 0.5:.5f}"
        rows.append([name, spread(made[:, 0]), spread(made[:, 1]), spread(gain), f"{made[:, 0].std(ddof=1):.5f}"])
    head = ["recipe", "KL", "KL, llama.cpp's", "llama.cpp's less ours", "standard deviation of one file"]
    return table(head, rows), unquantized


def speeds(bench):
    rows = []
    for dtype, bits, recipe in TYPES:
        for important in (False, True):
            if (important and dtype in PLAIN) or (not important and dtype in NEEDS):
                continue
            name = dtype + (" +i" if important else "")
            made = bench.kept(f"speed {name}", lambda: bench.speed(dtype, recipe, important))
            if made is None:
                continue
            (cpu, wall), (peer_cpu, peer_wall) = made
            rows.append([name, f"{bits:.4g}", f"{cpu:.2f}", f"{peer_cpu:.2f}", f"**{peer_cpu / cpu:.1f}**", f"{wall:.2f}",
                         f"{peer_wall:.2f}", f"{peer_wall / wall:.1f}"])  # fmt: skip
    head = ["type", "bits/weight", "CPU s", "llama.cpp's", "times", "wall s", "llama.cpp's", "times"]
    return table(head, rows)


def memory(bench):
    made = bench.kept("memory", bench.memory) if bench.args.large or "memory" in bench.results else {}
    rows = [[what, f"{size / 1e6:.0f}", f"{peak / 1e6:.0f}", f"{peak / size:.3f}"] for what, (size, peak) in (made or {}).items()]
    return table(["command", "source, MB", "peak, MB", "share"], rows)


def calibration(bench):
    rows = []
    for recipe in CALIBRATED:
        made = [bench.results.get(f"loss {recipe}{i}") for i in ("", " +i")]
        kls = [row and row["losses"][0][1] for row in made]
        made = bench.kept(f"gptq {recipe}", lambda: bench.gptq(recipe))
        if made is None or not any(kls):
            continue
        kl, best = made[1], min(k for k in kls if k is not None)
        shown = ["" if k is None else f"{k:.5f}" for k in kls]
        rows.append([recipe, *shown, f"{kl:.5f}", f"{best / kl:.2f}"])
    gguf = table(["recipe", "KL", "KL +i", "KL --calibrate", "gain"], rows)
    rows = []
    for options in MLX:
        name = " ".join(options)
        plain, made = (bench.kept(f"mlx {name} {how}", lambda: bench.mlx(options, how)) for how in (False, True))
        if plain is None or made is None:
            continue
        (ppl, kl), (own_ppl, own_kl) = plain["loss"], made["loss"]
        rows.append([f"`{name}`", f"{plain['bits']:.2f}", f"{kl:.5f}", f"{own_kl:.5f}", f"{kl / own_kl:.2f}",
                     f"{ppl:.3f}", f"{own_ppl:.3f}"])  # fmt: skip
    return gguf, table(["`convert --to mlx`", "bits/weight", "KL", "KL --calibrate", "gain", "PPL", "PPL --calibrate"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True, help="what assets/embedded/build.py made")
    parser.add_argument("--peer", required=True, help="folder of llama-quantize and llama-perplexity")
    parser.add_argument("--mlx-run", default=ROOT / "target/release/mlx-run")
    parser.add_argument("--results", default="quantization.json")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--large", help="a GGUF file of a gigabyte or more, for peak memory")
    parser.add_argument("-t", default="2")
    parser.add_argument("--chunks", default="40", help="windows of the held-out text")
    parser.add_argument("--calibration-chunks", default="64", help="windows of the training text")
    parser.add_argument("--write", action="store_true", help="measure nothing")
    parser.add_argument("--folder", help="where files are made and stay [default: a temporary folder]")
    parser.add_argument("--only", choices=["losses", "equivalents", "speeds", "memory", "calibration"], help="measure a part, write no page")
    parser.add_argument("--machine", default="two cores of an AMD EPYC (Zen 4)")
    parser.add_argument("--name", help="what the page calls the model [default: its file's name]")
    parser.add_argument("--out", default=ROOT / "docs/quantization.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, Path(args.folder or folder))
        args.source = bench.folder / "source"
        if not args.write:
            bench.prepare()
        weights = sum(int(np.prod(tensor.shape)) for tensor in GGUFReader(args.model).tensors)
        base = bench.kept("base", lambda: bench.loss(args.model))
        parts = {
            "losses": lambda: recipes(bench, weights),
            "equivalents": lambda: equivalents(bench),
            "speeds": lambda: speeds(bench),
            "memory": lambda: memory(bench),
            "calibration": lambda: calibration(bench),
        }
        if args.only:
            return print(parts[args.only]())
        losses, (same, unquantized), times, peaks, (gguf, mlx) = (make() for make in parts.values())
    Path(args.out).write_text(PAGE.format(
        name=args.name or Path(args.model).name, weights=weights / 1e6, ppl=base[0], losses=losses, times=times, gguf=gguf, mlx=mlx,
        machine=args.machine, pairs=args.pairs, threads=args.t, ctx=CTX, chunks=args.chunks,
        calibration=args.calibration_chunks, equivalents=same, memory=peaks, unquantized=unquantized, n_equivalent=N_EQUIVALENT,
    ))  # fmt: skip


if __name__ == "__main__":
    main()
