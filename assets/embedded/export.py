"""Writes a trained checkpoint as a Hugging Face folder, of which `mlx-run convert` makes a GGUF file.

    python3 export.py --model main --weights main.safetensors --out WORK/main
"""

import argparse
import json
import os
import shutil

from build import END, HERE
from model import MODELS

NAMES = {"main": "MLXR small", "draft": "MLXR draft"}
ABOUT = {"main": "The small chat model inside MLXR: greetings, word meanings, commands, simple facts and tool calls.",
         "draft": "Draft model for speculative decoding with MLXR small; same vocabulary, distilled from it."}
# What a program that asks for nothing else samples with: a small model is right most often near its first choice.
SAMPLING = {"temperature": 0.3, "top_k": 40, "top_p": 0.95}
STOP = 2  # <|im_end|>
CARD = """---
model_name: {name}
description: "{about}"
author: The MLXR project
version: "2"
license: cc-by-sa-4.0
license_name: Creative Commons Attribution-ShareAlike 4.0 International
license_link: https://creativecommons.org/licenses/by-sa/4.0/
language:
- en
tags:
- text-generation
- tool-use
- small
---
"""


def config(c):
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "hidden_act": "silu",
        "hidden_size": c.d_model, "intermediate_size": c.d_ff, "num_hidden_layers": c.n_layer, "num_attention_heads": c.n_head,
        "num_key_value_heads": c.n_kv_head, "head_dim": c.d_head, "vocab_size": c.n_vocab, "max_position_embeddings": c.n_context,
        "rope_theta": c.rope_base, "rms_norm_eps": c.norm_eps, "tie_word_embeddings": True, "attention_bias": False,
        "mlp_bias": False, "bos_token_id": END, "eos_token_id": STOP, "pad_token_id": END}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=NAMES, required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--out", required=True, help="the folder")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|endoftext|>", "eos_token": "<|im_end|>",
                 "pad_token": "<|endoftext|>", "add_bos_token": False, "clean_up_tokenization_spaces": False}
    for name, fields in (("config", config(MODELS[args.model])), ("tokenizer_config", tokenizer), ("generation_config", SAMPLING)):
        with open(os.path.join(args.out, f"{name}.json"), "w") as file:
            json.dump(fields, file, indent=1)
    with open(os.path.join(args.out, "README.md"), "w") as file:
        file.write(CARD.format(name=NAMES[args.model], about=ABOUT[args.model]))
    shutil.copyfile(args.weights, os.path.join(args.out, "model.safetensors"))
    shutil.copyfile(os.path.join(HERE, "tokenizer.json"), os.path.join(args.out, "tokenizer.json"))
    shutil.copyfile(os.path.join(HERE, "template.jinja"), os.path.join(args.out, "chat_template.jinja"))


if __name__ == "__main__":
    main()
