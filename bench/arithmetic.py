#!/usr/bin/env python3
"""What a program's arithmetic loses, apart from the quantizer: KL divergence from f32 on the same file, MLXR and llama.cpp.

    bench/arithmetic.py MODEL-bf16.gguf TEXT --peer FOLDER_OF_LLAMA_CPP [--chunks 32] [TYPE ...]

Of each type `mlx-run quant --pure` makes a file of MODEL, and of that file one of the same weights in f32, whose logits in f32
(keys and values too) are the base. From it `mlx-run perplexity` and `llama-perplexity` measure the mean divergence of the
quantized file in their own arithmetic, both with keys and values in f16. Prints a table. The embedded model before it was
quantized and held-out text are what assets/embedded/export.py and bench/quantization.py make.
"""

import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CTX = 512
TYPES = ["Q4_K_M", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K_S", "Q4_K_S", "Q5_K_S", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4",
         "NVFP4", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_M", "IQ3_XXS", "IQ3_S", "TQ1_0", "TQ2_0", "F16", "BF16"]  # fmt: skip
MIXED = {"Q4_K_M"}


def run(*command):
    made = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if made.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: {(made.stdout + made.stderr)[-800:]}")
    return made.stdout + made.stderr


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("types", nargs="*", default=TYPES)
    parser.add_argument("--peer", required=True, help="folder of llama-perplexity")
    parser.add_argument("--mlx-run", default=ROOT / "target/release/mlx-run")
    parser.add_argument("--isa", action="append", default=[], help="instruction sets besides the best")
    parser.add_argument("--chunks", default="32")
    args = parser.parse_args()
    ours = args.mlx_run
    print(f"| type | {' | '.join(['mlx-run', *(f'mlx-run, {isa}' for isa in args.isa)])} | llama.cpp | ratio |")
    print("|---" + "|---:" * (3 + len(args.isa)) + "|")
    with tempfile.TemporaryDirectory() as folder:
        quantized, exact, base, imatrix = (Path(folder) / n for n in ("q.gguf", "f32.gguf", "logits", "imatrix.gguf"))
        run(ours, "imatrix", "-m", args.model, "-f", args.text, "-o", imatrix, "--chunks", args.chunks)
        for name in args.types:
            pure = [] if name in MIXED else ["--pure"]
            run(ours, "quant", *pure, "--imatrix", imatrix, args.model, quantized, name)
            run(ours, "quant", "--pure", "--allow-requantize", quantized, exact, "F32")
            run(ours, "perplexity", "-m", exact, "-f", args.text, "-c", CTX, "--chunks", args.chunks, "--save-all-logits", base)
            found = []
            for isa in [None, *args.isa]:
                options = ["--isa", isa] if isa else []
                text = run(ours, "perplexity", "--json", "-m", quantized, "--kl-divergence-base", base, "--kv-type", "f16", *options)
                found.append(json.loads(text[text.index("{") : text.rindex("}") + 1])["kld"]["value"])
            text = run(f"{args.peer}/llama-perplexity", "-m", quantized, "--kl-divergence-base", base, "--kl-divergence")
            peer = float(re.search(r"Mean +KLD: +([-\d.]+)", text)[1])
            ratio = f"{found[0] / peer:.2f}" if peer > 0 else ""
            print(f"| {name} | {' | '.join(f'{kl:.6f}' for kl in found)} | {peer:.6f} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
