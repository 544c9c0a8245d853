#!/bin/sh
# Makes the two small GGUF files of the trained checkpoints: quantize.sh LLAMA_QUANTIZE WORK [OUT]
# WORK holds main.safetensors and draft.safetensors; the files appear in OUT, beside this script by default.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${3:-$here}
for model in main draft; do
    python3 "$here/export.py" --model $model --weights "$2/$model.safetensors" \
        --tokenizer "$here/tokenizer.json" --out "$2/$model-bf16.gguf"
done
"$1" --tensor-type ffn_gate=q5_k --tensor-type ffn_up=q5_k "$2/main-bf16.gguf" "$out/mlxr-small.gguf" Q6_K
"$1" "$2/draft-bf16.gguf" "$out/mlxr-draft.gguf" Q4_K_M
