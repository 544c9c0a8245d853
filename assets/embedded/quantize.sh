#!/bin/sh
# Makes a small GGUF file of a trained checkpoint by the project's own tools: quantize.sh MLX_RUN WORK main|draft [OUT]
# WORK holds main.safetensors or draft.safetensors; the file appears in OUT, beside this script by default.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${4:-$here}
python3 "$here/export.py" --model "$3" --weights "$2/$3.safetensors" --out "$2/$3"
"$1" convert --type bf16 "$2/$3" "$2/$3-bf16.gguf"
case $3 in
main) "$1" quant --tensor-type ffn_gate=q5_K --tensor-type ffn_up=q5_K "$2/main-bf16.gguf" "$out/mlxr-small.gguf" Q6_K ;;
draft) "$1" quant "$2/draft-bf16.gguf" "$out/mlxr-draft.gguf" Q6_K ;;
esac
