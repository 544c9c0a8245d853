#!/usr/bin/env bash
# The processor's table of bench/RESULTS.md: for each type a model of random weights, MLXR and llama.cpp by turns.
#   bench/cpu.sh LLAMA_BENCH [TYPE ...]
# SHAPE (llama-3.2-1b), THREADS (2), PAIRS (3), PROMPT (512), DECODE (64), DEPTH (0), MORE (further arguments
# of `mlx-run bench`) and MODELS (a folder for the files, which are removed again) come from the environment.
set -euo pipefail
peer=$1
shift
root=$(cd "$(dirname "$0")/.." && pwd)
types=("$@")
if [ $# -eq 0 ]; then
  types=(q4_k_m q4_0 q5_k_m q8_0 q6_k iq4_xs iq4_nl mxfp4 q2_k q3_k iq2_xxs iq2_xs iq2_s iq3_xxs iq3_s iq1_s iq1_m
    q4_1 q5_0 q5_1 tq1_0 tq2_0 f16 bf16)
fi
shape=${SHAPE:-llama-3.2-1b}
models=${MODELS:-$(mktemp -d)}
for type in "${types[@]}"; do
  file=$models/$shape-$type.gguf
  "$root/target/release/xtask" random-model --shape "$shape" --types "$type" --out "$file"
  printf '\n## %s %s, %s threads\n' "$shape" "$type" "${THREADS:-2}"
  # shellcheck disable=SC2086 # several arguments
  "$root/target/release/mlx-run" bench -m "$file" -p "${PROMPT:-512}" -n "${DECODE:-64}" -d "${DEPTH:-0}" \
    -t "${THREADS:-2}" -r "${PAIRS:-3}" ${MORE:-} --compare llama.cpp="$peer"
  rm -f "$file"
done
