"""docs/convert.md: what converted.py found, in numbers."""

from collections import Counter
from importlib.metadata import version

KINDS = {
    "ok": "agrees",
    "known": "computes otherwise, proven",
    "same": "computes otherwise without us too",
    "none": "it or GGUF does not have it",
    "BAD": "unexplained",
}

PAGE = """# Conversion

`mlx-run convert MODEL OUT` writes a GGUF file (`OUT` ends in `.gguf`) or a folder as mlx-lm or Hugging Face's library
read it (`--to mlx`, `--to hf`), tensor by tensor, and says what the written form cannot hold; `mlx-run convert --help` lists
the types. What it costs in memory stands in [quantization.md](quantization.md).

## Read by others

`xtask/golden/converted.py` converts the {n} golden checkpoints (small models of random weights, one for each
architecture or variant, whose logits transformers computed), opens what was written with its owner's own program and
compares logits. This page is written by it. transformers {transformers}, mlx-lm {mlx_lm}.

{table}
Agrees: NMSE below 1e-6, for 8 bits beside `mlx-run logits` of the same values. Computes otherwise: the owner does one thing
that transformers does not; of a checkpoint edited so that this one thing cannot show it gives the right logits.

mlx-lm says that it does not have {absent} (OLMo: not without another
package). GGUF has no FlexOLMo and no GPT-J.

| checkpoint | reader | what it does |
|---|---|---|
{known}
"""


def page(results):
    openings = list(dict.fromkeys(opening for _, opening in results))
    kinds = [kind for kind in KINDS if any(kind == found for found, *_ in results.values())]
    rows = ["| written for, made of | " + " | ".join(KINDS[kind] for kind in kinds) + " |", "|---" + "|---:" * len(kinds) + "|"]
    for opening in openings:
        counts = Counter(kind for (_, o), (kind, *_) in results.items() if o == opening)
        rows.append(f"| {opening} | " + " | ".join(str(counts[kind]) for kind in kinds) + " |")
    reasons = {}
    for (name, opening), (_, _, reason) in results.items():
        if reason:
            reasons.setdefault((name, reason), []).append(opening)
    return PAGE.format(
        n=len({name for name, _ in results}), table="\n".join(rows) + "\n", transformers=version("transformers"),
        mlx_lm=version("mlx-lm"),
        absent=", ".join(name for (name, opening), (kind, *_) in results.items() if (kind, opening) == ("none", "mlx-lm")),
        known="\n".join(f"| {name} | {'; '.join(of)} | {reason} |" for (name, reason), of in reasons.items()),
    )
