"""Checks of the data and training code that need no data: `python3 -m pytest test_embedded.py`."""

import json
import os
import random

import numpy as np
import torch
from tokenizers import Tokenizer

import build
import chat
import evaluate
import names
import sgd
import tools
from gguf_state import interleave, separate
from model import END, MODELS, START, Llama, dense_mask, document_mask, rotate, weights
from train import Muon, copies, orthogonal, schedule, shorten

HERE = os.path.dirname(os.path.abspath(__file__))


def test_packing_keeps_every_document_whole():
    rng = random.Random(5)
    documents = [np.array([rng.randrange(3, 99) for _ in range(rng.randrange(1, 900))], dtype=np.uint16) for _ in range(200)]
    rows = build.pack(documents, END, False, 7)
    assert rows.shape[1] == build.ROW
    found = sorted(tuple(d) for r in rows for d in np.split(r, np.flatnonzero(r == END) + 1) if len(d) > 1)
    assert found == sorted(tuple(np.append(d, END)) for d in documents)
    short = shorten(rows, 512)
    assert short.shape[1] == 512
    kept = sorted(tuple(d) for r in short for d in np.split(r, np.flatnonzero(r == END) + 1) if len(d) > 1)
    assert kept == [d for d in found if len(d) <= 512]


def test_attention_stays_inside_a_document():
    tokens = torch.tensor([[5, 6, END, 7, 8, END, 9, 9]])
    seen = dense_mask(tokens)[0, 0].int().tolist()
    assert seen[4] == [0, 0, 0, 1, 1, 0, 0, 0] and seen[2] == [1, 1, 1, 0, 0, 0, 0, 0]
    torch.manual_seed(1)
    tokens = torch.randint(3, 99, (2, 256))
    tokens[:, ::37] = END
    model = Llama(MODELS["tiny"]).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        a, b = model.hidden(tokens, dense_mask(tokens)), model.hidden(tokens, document_mask(tokens))
    assert (a - b).abs().max() < 0.1 and (a - b).abs().mean() < 5e-3


def test_weights_follow_the_speaker():
    tok = Tokenizer.from_file(os.path.join(HERE, "tokenizer.json"))
    text = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyo<|im_end|>\n<|endoftext|>plain"
    tokens = torch.tensor([tok.encode(text).ids])
    got = weights(tokens, {tok.token_to_id("user"): 0.25, tok.token_to_id("system"): 0.0})[0].tolist()
    shown = [(tok.id_to_token(t), round(w, 2)) for t, w in zip(tokens[0].tolist()[1:], got)]
    assert shown[0] == ("user", 0.25) and ("hi", 0.25) in shown and ("yo", 1.0) in shown
    assert dict(shown)["plain"] == 0.0 and got[-1] == 0.0
    assert tokens[0, 0] == START


def test_template_and_tokenizer_round_trip():
    render = build.template()
    tok = Tokenizer.from_file(os.path.join(HERE, "tokenizer.json"))
    assert tok.get_vocab_size() == build.N_VOCAB
    for talk in tools.conversations(20, 3):
        text = render.render(tools=talk["tools"], messages=talk["messages"])
        ids = tok.encode(text).ids
        assert tok.decode(ids, skip_special_tokens=False) == text
        for message in talk["messages"]:
            for call in message.get("tool_calls", ()):
                assert f'<tool_call>\n{{"name": "{call["name"]}", "arguments": {json.dumps(call["arguments"])}}}\n</tool_call>' in text
    plain = render.render(messages=[{"role": "user", "content": "hi"}], add_generation_prompt=True)
    assert plain == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_rotation_layouts_agree():
    """Rotating neighbours of interleaved rows gives the scores that rotating halves gives."""
    torch.manual_seed(2)
    weight, x = torch.randn(2 * 64, 32), torch.randn(5, 32)
    angle = torch.outer(torch.arange(5.0), 10000 ** (-torch.arange(0, 64, 2) / 64))
    halves = rotate((x @ weight.T).view(5, 2, 64).transpose(0, 1), angle.cos(), angle.sin())
    y = (x @ interleave(weight, 2).T).view(5, 2, 32, 2).transpose(0, 1)
    c, s = angle.cos(), angle.sin()
    assert torch.equal(separate(interleave(weight, 2), 2), weight)
    pairs = torch.stack((y[..., 0] * c - y[..., 1] * s, y[..., 0] * s + y[..., 1] * c), -1).flatten(-2)
    assert torch.allclose(halves @ halves.mT, pairs @ pairs.mT, atol=1e-3)


def test_copies_mark_what_stands_before():
    tokens, known = copies(4, 512, 8192, 1)
    assert tokens.shape == known.shape == (4, 512) and 0.2 < known.mean() < 0.7
    for row, mark in zip(tokens, known):
        starts = np.flatnonzero(np.append(END, row[:-1]) == END)
        for t in np.flatnonzero(mark):
            begin = starts[starts <= t].max()
            seen = row[begin:t]
            assert any(seen[i - 1] == row[t - 1] and seen[i] == row[t] for i in range(1, len(seen)))


def test_optimizer_learns_and_schedule_ends_at_zero():
    g = torch.randn(3, 64, 96)
    singular = torch.linalg.svdvals(orthogonal(g).float())
    assert singular.max() < 1.35 and singular.min() > 0.4
    torch.manual_seed(3)
    w, x, y = torch.nn.Parameter(torch.zeros(16, 16)), torch.randn(64, 16), torch.randn(64, 16)
    muon, losses = Muon([w]), []
    for step in range(60):
        loss = (x @ w.T - y).square().mean()
        loss.backward()
        losses.append(loss.item())
        muon.step(0.05)
    assert losses[-1] < 0.9 * losses[0]
    assert schedule(0, 1000) < 0.02 and schedule(400, 1000) == 1 and schedule(1000, 1000) == 0


def test_made_up_names_are_of_one_conversation_and_unique():
    def slot(variant, i):
        return {"name": f"field_{i}" if variant % 2 else "city", "description": f"Where it is, {variant}", "is_categorical": False, "possible_values": []}

    def service(variant):
        intent = {"description": f"Find the place number {variant}", "required_slots": ["city", "field_1"], "optional_slots": {"field_2": ""}}
        rows = [{**slot(variant, i), "name": slot(variant, i)["name"] if variant else ("city", "field_1", "field_2")[i]} for i in range(3)]
        return {"slots": rows, "intents": [{**intent, "name": name} for name in ("FindAPlace", "SeePlace")]}

    schemas, seen = {"s": [service(v) for v in range(6)]}, set()
    for seed in range(40):
        made = names.Renamed(schemas, ["tern", "gannet", "fulmar"], seed)
        a, b = (made.describe("s", intent)["function"] for intent in ("FindAPlace", "SeePlace"))
        assert a["name"] != b["name"] and len(a["parameters"]["properties"]) == 3
        assert a["parameters"]["required"] == [made.names("s")[k] for k in ("city", "field_1")]
        assert made.function_name("s", "SeePlace") == b["name"] and a["parameters"] == b["parameters"]
        seen |= {a["name"], b["name"]}
    assert len(seen) >= 50
    assert names.split("MakeATableOn2Days") == ["make", "a", "table", "on2", "days"] and names.split("a_bC-d") == ["a", "b", "c", "d"]
    assert [names.written(["see", "new", "days"], s) for s in ("pascal", "camel", "snake", "kebab", "flat")] == \
        ["SeeNewDays", "seeNewDays", "see_new_days", "see-new-days", "seenewdays"]
    assert sgd.Functions(schemas, 0, True).function_name("s", "SeePlace") == "see_place"


def test_seed_conversations_are_well_formed():
    rng = random.Random(1)
    units = chat.seeds(rng)
    assert len(units) > 200
    for unit in units:
        for ask, reply in unit(rng):
            assert ask and reply and "|" not in ask and not reply.startswith(("Q:", "A:"))


def test_tool_call_parsing():
    parse = evaluate.parse
    assert parse("hello") is None and parse("<tool_call>\n{") == {}
    assert parse('<tool_call>\n{"name": "f", "arguments": {"a": {"b": 1}}}\n</tool_call>')["arguments"] == {"a": {"b": 1}}
