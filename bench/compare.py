#!/usr/bin/env python3
"""Runs `mlx-run bench` and llama.cpp's `llama-bench` by turns on the same file and prints the ratio of medians.

    bench/compare.py MODEL.gguf --peer PATH_TO_LLAMA_BENCH [--pairs 5] [-p 512] [-n 64] [-t 2]

The peer runs with flash attention off and on, and the better median counts. Machines are shared and noisy: only ratios
of medians of one run mean something. Results of record: bench/RESULTS.md.
"""

import argparse
import json
import statistics
import subprocess


def run(command):
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {("pp" if row["n_prompt"] else "tg"): row for row in json.loads(out)}


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("model")
    args.add_argument("--peer", required=True, help="path of llama-bench")
    args.add_argument("--mlx-run", default="target/release/mlx-run")
    args.add_argument("--pairs", type=int, default=5)
    args.add_argument("-p", default="512")
    args.add_argument("-n", default="64")
    args.add_argument("-t", default="2")
    args = args.parse_args()
    work = ["-p", args.p, "-n", args.n, "-t", args.t, "-r", "1"]
    ours = [args.mlx_run, "bench", "--model", args.model, *work, "--json"]
    peers = {fa: [args.peer, "-m", args.model, *work, "-fa", fa, "-o", "json"] for fa in ("0", "1")}
    samples = {}
    for _ in range(args.pairs):
        for name, command in [("ours", ours), *peers.items()]:
            for test, row in run(command).items():
                samples.setdefault(test, {}).setdefault(name, []).append(row["avg_ts"])
    print("| test | mlx-run t/s (min-max) | llama.cpp t/s (min-max) | ratio of medians |\n|---|---:|---:|---:|")
    for test, by in samples.items():
        peer = max((by["0"], by["1"]), key=statistics.median)
        show = lambda x: f"{statistics.median(x):.1f} ({min(x):.1f}-{max(x):.1f})"
        ratio = statistics.median(by["ours"]) / statistics.median(peer)
        print(f"| {test}{args.p if test == 'pp' else args.n} | {show(by['ours'])} | {show(peer)} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
