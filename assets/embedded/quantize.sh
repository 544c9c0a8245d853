#!/bin/sh
# Makes a small GGUF file of a trained checkpoint: quantize.sh LLAMA_QUANTIZE WORK main|draft [OUT]
# WORK holds main.safetensors or draft.safetensors; the file appears in OUT, beside this script by default.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${4:-$here}
python3 "$here/export.py" --model "$3" --weights "$2/$3.safetensors" --tokenizer "$here/tokenizer.json" --out "$2/$3-bf16.gguf"
case $3 in
main) "$1" --tensor-type ffn_gate=q5_k --tensor-type ffn_up=q5_k "$2/main-bf16.gguf" "$out/mlxr-small.gguf" Q6_K ;;
draft) "$1" "$2/draft-bf16.gguf" "$out/mlxr-draft.gguf" Q6_K ;;
esac
