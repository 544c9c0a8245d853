#!/usr/bin/env python3
"""Makes crates/tools/tests/data/recipes.txt from llama.cpp's own tables of which recipe gives which tensor which type.

    cargo xtask golden recipe_tables --python PYTHON -- LLAMA_CPP/tests/snapshots

The snapshots list, for each model and recipe, the tensors whose type is not the recipe's own. They do not list shapes:
whether a row is whole blocks of 256 is read off the recipes that would give a matrix a type of such blocks, and what
is written is that one fact (columns of 256 or of 32). The tensors are the union of all that a snapshot names; what
MXFP4_MOE leaves at its own type has three dimensions, and of experts all layers are taken that one role names.

A model's part of the file:

    model NAME ARCH n_layer n_head n_head_kv n_expert
    tensor COLUMNS DIMENSIONS NAME LAYERS
    recipe NAME TYPE
    TYPE NAME LAYERS

LAYERS are the values of `*` in NAME, as ranges.
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

OUT = Path(__file__).resolve().parents[2] / "crates/tools/tests/data/recipes.txt"
ARCHS = {
    "deepseek-v3.1": "deepseek2", "gemma-3-4b-it": "gemma3", "glm-4.6v": "glm4moe", "gpt-oss-120b": "gpt-oss",
    "meta-llama-3.1-70b-instruct": "llama", "nvidia-nemotron-3-nano-30b-a3b": "nemotron_h_moe", "qwen3-0.6b": "qwen3",
    "qwen3-14b": "qwen3", "qwen3-coder-next": "qwen3next", "qwen3.5-397b-a17b": "qwen35moe", "qwen3.6-27b": "qwen35",
    "step-3.5-flash": "step35",
}  # fmt: skip
# What `tensor_type_fallback` gives where a row is not whole blocks of 256.
SMALL = {"q4_0", "q5_0", "q5_1", "q8_0", "iq4_nl"}


def ranges(numbers):
    parts, numbers = [], sorted(numbers)
    while numbers:
        end = next((i for i in range(len(numbers)) if numbers[i] != numbers[0] + i), len(numbers))
        parts.append(str(numbers[0]) if end == 1 else f"{numbers[0]}-{numbers[end - 1]}")
        numbers = numbers[end:]
    return ",".join(parts)


def grouped(names):
    """Names as (pattern, layers); those without a layer have none."""
    groups = defaultdict(list)
    for name in names:
        found = re.match(r"blk\.(\d+)\.(.*)", name)
        groups[f"blk.*.{found[2]}" if found else name].extend([int(found[1])] if found else [])
    return sorted((pattern, ranges(layers)) for pattern, layers in groups.items())


def sections(text):
    found = {}
    for line in text.splitlines():
        if line.startswith("["):
            name, default = line[1:].split("] ")
            found[name] = (default, current := {})
        elif line and not line.startswith("#"):
            tensor, dtype = line.rsplit(" ", 1)
            current[tensor] = dtype
    return found


def model(path):
    text = path.read_text()
    head = {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", text.splitlines()[1])}
    tables = sections(text)
    named = {name for _, table in tables.values() for name in table}
    experts = {name for name in named if "_exps." in name}
    # Recipes name only some layers of a role: its others are those of its sibling.
    roles = {re.sub(r"^blk\.\d+\.", "", name) for name in experts}
    if roles:
        layers = {re.match(r"blk\.(\d+)\.", name)[1] for name in experts}
        experts = {f"blk.{layer}.{role}" for layer in layers for role in roles}
    small = {name for name, dtype in tables["Q3_K_S"][1].items() if dtype in SMALL}
    deep = {name for name in named | experts if name not in tables["MXFP4_MOE"][1] and name.startswith("blk.")}
    lines = [f"model {path.stem} {ARCHS[path.stem]} {head['n_layer']} {head['n_head']} {head['n_head_kv']} {head.get('n_expert', 0)}"]
    for columns, dims, names in (
        (256, 2, named - deep - small), (32, 2, (named - deep) & small), (256, 3, deep - small), (32, 3, deep & small),
    ):  # fmt: skip
        lines += [f"tensor {columns} {dims} {pattern} {layers}".rstrip() for pattern, layers in grouped(names)]
    for recipe, (default, table) in tables.items():
        lines.append(f"recipe {recipe} {default}")
        by_type = defaultdict(list)
        for name, dtype in table.items():
            by_type[dtype].append(name)
        for dtype, names in sorted(by_type.items()):
            lines += [f"{dtype} {pattern} {layers}".rstrip() for pattern, layers in grouped(names)]
    return lines


lines = [
    "# Made by xtask/golden/recipe_tables.py from llama.cpp's tests/snapshots/*.schema, in short form.",
    "# llama.cpp: MIT License, Copyright (c) 2023-2026 The ggml authors; the text is in recipes.LICENSE.",
]
for path in sorted(Path(sys.argv[1]).glob("*.schema")):
    lines += model(path)
OUT.parent.mkdir(parents=True, exist_ok=True)
OUT.write_text("\n".join(lines) + "\n")
print(f"{OUT.name}: {len(lines)} lines, {OUT.stat().st_size} bytes")
