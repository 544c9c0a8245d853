"""Sources to token rows: trains the tokenizer, renders and tokenizes every pool, packs rows of 2048.

    python3 build.py --root SOURCES --out DATA

SOURCES holds the checkouts and unpacked packages of sources.json. DATA receives tokenizer.json and
per pool one uint16 array [n_row, 2048] of training rows (whole documents, each closed by
<|endoftext|>), validation rows, held-out conversations as JSON, and the hashes of all of it.
"""

import argparse
import hashlib
import json
import os
import random

import jinja2
import numpy as np
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import chat
import names
import sgd
import sources
import tools

HERE = os.path.dirname(os.path.abspath(__file__))
SEED, N_VOCAB, ROW, END = 20261123, 8192, 2048, 0
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MARKUP = ["<tools>", "</tools>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
# The pre-tokenizer that llama.cpp calls "qwen2".
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def template():
    env = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    env.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return env.from_string(open(os.path.join(HERE, "template.jinja")).read())


def train_tokenizer(texts):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=N_VOCAB, special_tokens=CONTROL + MARKUP, min_frequency=2,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tok.train_from_iterator(texts, trainer)
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in CONTROL])
    tok.add_tokens([AddedToken(t, special=False, normalized=False) for t in MARKUP])
    assert tok.get_vocab_size() == N_VOCAB
    assert all(len(tok.encode(w).ids) == 1 for w in ("user", "assistant", "system"))
    return tok


def held_out(name, index):
    """One document in 80 is kept for validation, chosen by a hash of its place."""
    return hashlib.sha256(f"{SEED}/{name}/{index}".encode()).digest()[0] * 80 < 256


def pack(documents, end, split_long, seed):
    """Token lists to rows [n, ROW] padded with `end`; first fit over the last 64 open rows."""
    pieces = []
    for ids in documents:
        ids = np.append(ids, end).astype(np.uint16)
        if len(ids) <= ROW:
            pieces.append(ids)
        elif split_long:
            pieces += [ids[i:i + ROW] for i in range(0, len(ids), ROW)]
    random.Random(seed).shuffle(pieces)
    closed, open_rows, used = [], [], []
    for piece in pieces:
        at = next((i for i, n in enumerate(used) if n + len(piece) <= ROW), None)
        if at is None:
            if len(used) == 64:
                fullest = used.index(max(used))
                closed.append(np.concatenate(open_rows.pop(fullest)))
                used.pop(fullest)
            open_rows.append([])
            used.append(0)
            at = len(used) - 1
        open_rows[at].append(piece)
        used[at] += len(piece)
    rows = closed + [np.concatenate(r) for r in open_rows]
    out = np.full((len(rows), ROW), end, dtype=np.uint16)
    for i, row in enumerate(rows):
        out[i, :len(row)] = row
    return out[np.random.default_rng(SEED).permutation(len(out))]


def encode(tok, texts):
    """Token ids of many texts as uint16 arrays, in portions that bound the memory."""
    out = []
    for at in range(0, len(texts), 256):
        out += [np.array(e.ids, dtype=np.uint16) for e in tok.encode_batch_fast(texts[at:at + 256])]
    return out


def shorten(talk, tok, render):
    """Drops trailing messages until the conversation fits a row."""
    messages = talk["messages"]
    while messages:
        ids = tok.encode(render.render(tools=talk.get("tools"), messages=messages)).ids
        if len(ids) < ROW and messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls"):
            return ids
        messages = messages[:-1]
    return []


def text_pool(root, tok, note):
    """Plain documents; one in 80 is held out, per source."""
    train, valid = [], {}
    for name, read in sources.TEXTS.items():
        texts = [text for _, text in read(root)]
        note(name, "\0".join(texts), len(texts))
        ids = encode(tok, texts)
        train += [x for i, x in enumerate(ids) if not held_out(name, i)]
        valid["text-" + name] = pack([x for i, x in enumerate(ids) if held_out(name, i)], END, True, SEED)[:48]
    return pack(train, END, True, SEED), valid, {}


def talk_pool(name):
    """Conversations rendered by the chat template; the validation sets come from other dialogues or seeds."""
    def build(root, tok, note):
        render = template()
        train, checks = (make(root) for make in TALKS[name])
        note(name, json.dumps(train), len(train))
        ids = encode(tok, [render.render(tools=t.get("tools"), messages=t["messages"]) for t in train])
        ids = [x if len(x) < ROW else shorten(t, tok, render) for x, t in zip(ids, train)]
        valid = {k: pack([x for x in (shorten(t, tok, render) for t in talks) if x], END, False, SEED)[:96]
                 for k, talks in checks.items()}
        return pack([x for x in ids if len(x)], END, False, SEED), valid, checks
    return build


# Pool name: makers of the training conversations and of the validation sets.
TALKS = {
    "sgd": (lambda root: list(sgd.conversations(root, ["train"], [0, 0, 1, 2, 3, 4], 2, SEED)),
            lambda root: {"sgd-dev": list(sgd.conversations(root, ["dev"], [0], 1, SEED + 1, 200)),
                          "sgd-dev-x": list(sgd.conversations(root, ["dev"], [5], 1, SEED + 1, 200))}),
    "names": (lambda root: list(names.conversations(root, ["train"], 1, SEED + 2)),
              lambda root: {"names-dev": list(names.conversations(root, ["dev"], 1, SEED + 1, 100))}),
    "tools": (lambda root: list(tools.conversations(15000, SEED)),
              lambda root: {"tools": list(tools.conversations(300, SEED + 1))}),
    "common": (lambda root: list(chat.common(root, 16000, SEED)), lambda root: {}),
    "chat": (lambda root: list(chat.conversations(root, 100000, SEED)),
             lambda root: {"chat": list(chat.conversations(root, 600, SEED + 1, held_out=True))})}
POOLS = {"text": text_pool, **{name: talk_pool(name) for name in TALKS}}


def tokenizer_sample(root):
    """Every third document and a part of each kind of conversation."""
    render = template()
    for read in sources.TEXTS.values():
        yield from [text for _, text in read(root)][::3]
    for name, stride in (("sgd", 12), ("tools", 6), ("chat", 2)):
        for talk in TALKS[name][0](root)[::stride]:
            yield render.render(tools=talk.get("tools"), messages=talk["messages"])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--pools", default=",".join(POOLS))
    parser.add_argument("--train-tokenizer", action="store_true", help="train tokenizer.json anew instead of using the committed one")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    fresh = train_tokenizer(tokenizer_sample(args.root)) if args.train_tokenizer else None
    tok = fresh or Tokenizer.from_file(os.path.join(HERE, "tokenizer.json"))
    tok.save(os.path.join(args.out, "tokenizer.json"))
    assert tok.token_to_id(CONTROL[0]) == END
    for name in args.pools.split(","):
        digest = {}

        def note(source, text, count):
            digest[source] = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "documents": count, "characters": len(text)}

        rows, valid, checks = POOLS[name](args.root, tok, note)
        np.save(os.path.join(args.out, name + ".npy"), rows)
        np.savez(os.path.join(args.out, f"valid-{name}.npz"), **valid)
        json.dump(checks, open(os.path.join(args.out, f"checks-{name}.json"), "w"))
        digest["rows"] = {"sha256": hashlib.sha256(rows.tobytes()).hexdigest(), "rows": len(rows), "full": round(float((rows != END).mean()), 3)}
        json.dump(digest, open(os.path.join(args.out, f"digest-{name}.json"), "w"), indent=1)
        print(name, rows.shape, digest["rows"], {k: len(v) for k, v in valid.items()}, "tokenizers", tokenizers.__version__, flush=True)


if __name__ == "__main__":
    main()
