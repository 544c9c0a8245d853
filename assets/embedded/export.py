"""Writes a trained checkpoint as GGUF (bf16; llama.cpp's quantizer makes the small files of it).

    python3 export.py --model main --weights main.safetensors --tokenizer tokenizer.json --out mlxr-small-bf16.gguf
"""

import argparse
import json
import os

import gguf
import torch
from safetensors.torch import load_file

from build import CONTROL, MARKUP
from gguf_state import gguf_name, interleave
from model import MODELS

HERE = os.path.dirname(os.path.abspath(__file__))
NAMES = {"main": "MLXR small", "draft": "MLXR draft"}
ABOUT = {"main": "The small chat model inside MLXR: greetings, word meanings, commands, simple facts and tool calls.",
         "draft": "Draft model for speculative decoding with MLXR small; same vocabulary, distilled from it."}
# What a program that asks for nothing else samples with: a small model is right most often near its first choice.
SAMPLING = {"temp": 0.3, "top_k": 40, "top_p": 0.95}


def add_tokenizer(writer, path):
    model = json.load(open(path))
    vocab = {**model["model"]["vocab"], **{t["content"]: t["id"] for t in model["added_tokens"]}}
    tokens = [t for t, _ in sorted(vocab.items(), key=lambda kv: kv[1])]
    assert [vocab[t] for t in tokens] == list(range(len(tokens)))
    kind = {**{t: gguf.TokenType.CONTROL for t in CONTROL}, **{t: gguf.TokenType.USER_DEFINED for t in MARKUP}}
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([kind.get(t, gguf.TokenType.NORMAL) for t in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(vocab["<|endoftext|>"])
    writer.add_eos_token_id(vocab["<|im_end|>"])
    writer.add_eot_token_id(vocab["<|im_end|>"])
    writer.add_pad_token_id(vocab["<|endoftext|>"])
    writer.add_add_bos_token(False)
    writer.add_chat_template(open(os.path.join(HERE, "template.jinja")).read())
    return len(tokens)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=("main", "draft"), required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    c = MODELS[args.model]
    writer = gguf.GGUFWriter(args.out, "llama")
    writer.add_name(NAMES[args.model])
    writer.add_description(ABOUT[args.model])
    writer.add_author("The MLXR project")
    writer.add_version("1")
    writer.add_license("cc-by-sa-4.0")
    writer.add_license_name("Creative Commons Attribution-ShareAlike 4.0 International")
    writer.add_license_link("https://creativecommons.org/licenses/by-sa/4.0/")
    writer.add_languages(["en"])
    for name, value in SAMPLING.items():
        writer.add_key_value(f"general.sampling.{name}", value, gguf.GGUFValueType.INT32 if name == "top_k" else gguf.GGUFValueType.FLOAT32)
    writer.add_tags(["text-generation", "tool-use", "small"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_context_length(c.n_context)
    writer.add_embedding_length(c.d_model)
    writer.add_block_count(c.n_layer)
    writer.add_feed_forward_length(c.d_ff)
    writer.add_head_count(c.n_head)
    writer.add_head_count_kv(c.n_kv_head)
    writer.add_rope_dimension_count(c.d_head)
    writer.add_rope_freq_base(c.rope_base)
    writer.add_layer_norm_rms_eps(c.norm_eps)
    writer.add_vocab_size(add_tokenizer(writer, args.tokenizer))
    for name, value in load_file(args.weights).items():
        if ".q_proj" in name or ".k_proj" in name:
            value = interleave(value, c.n_head if ".q_proj" in name else c.n_kv_head)
        shown = gguf_name(name)
        if value.dim() == 1:
            writer.add_tensor(shown, value.float().numpy())
        else:
            raw = value.to(torch.bfloat16).contiguous().view(torch.uint8).numpy()
            writer.add_tensor(shown, raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
