"""Trains the main model, or the draft model on the main model's predictions.

    python3 train.py --model main  --data DATA --seconds 480 --out main.safetensors
    python3 train.py --model draft --data DATA --seconds 230 --out draft.safetensors --plan draft --teacher mlxr-small.gguf
    python3 train.py --model main  --data DATA --seconds 225 --out main2.safetensors --plan copy --init main.safetensors --lr-matrix 4e-3
    python3 train.py --model main  --data DATA --seconds 270 --out main3.safetensors --plan names --init mlxr-small.gguf --lr-matrix 3e-3
    python3 train.py --plan cpu --model draft --data DATA --seconds 3000 --out small.safetensors --attention dense --eager

The number of steps follows from the measured speed and --seconds; --steps fixes it. Learning rate:
warm-up, constant, then linear to zero; the last 30% of the steps draw more conversations. The plan
`copy` goes on from --init and adds rows of made-up repetitions, which teach to copy any token that
stands before (a function's name, a rare word), where text alone teaches it for common ones. `names` goes
on with functions that have another name in every dialogue, and more text. The plan `draft` is for a draft model: what the teacher is asked most, and repetitions. A teacher may be a GGUF
file, the one that ships: what is to be predicted is what it says rounded.
"""

import argparse
import glob
import json
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from gguf_state import read_gguf
from model import END, MODELS, Llama, create_block_mask, dense_mask, document_mask, weights

SEED = 20261123
COPIES = "copies"
# Tokens a row, and rows of each pool in a batch before and after the change at 70% of the steps.
PLANS = {
    "gpu": (2048, {"text": 36, "sgd": 14, "tools": 4, "chat": 10}, {"text": 12, "sgd": 20, "tools": 8, "chat": 24}),
    "copy": (2048, {"text": 12, "sgd": 14, "tools": 4, "chat": 26, COPIES: 8}, {"text": 6, "sgd": 18, "tools": 6, "chat": 28, COPIES: 6}),
    "names": (2048, {"text": 24, "sgd": 4, "names": 12, "tools": 4, "chat": 12, "common": 3, COPIES: 5},
              {"text": 10, "sgd": 6, "names": 13, "tools": 6, "chat": 20, "common": 5, COPIES: 4}),
    "draft": (2048, {"text": 8, "sgd": 8, "names": 10, "tools": 6, "chat": 24, "common": 3, COPIES: 5},
              {"text": 4, "sgd": 6, "names": 10, "tools": 8, "chat": 28, "common": 4, COPIES: 4}),
    "cpu": (512, {"chat": 12, "tools": 4}, {"chat": 12, "tools": 4}),
    "test": (512, {"text": 1, "sgd": 1, "tools": 1, "chat": 1}, {"tools": 1, "chat": 2})}
MIX_CHANGE, DECAY_START, WARMUP_STEPS = 0.7, 0.55, 100
LR_MATRIX, LR_EMBED, WEIGHT_DECAY, MOMENTUM = 2e-3, 3e-3, 0.1, 0.95
ROLE_WEIGHT = {"system": 0.0, "user": 0.1}


def shorten(rows, n_context):
    """Rows packed anew with fewer tokens; documents longer than that are left out."""
    if rows.shape[1] == n_context:
        return rows
    out, row = [], []
    for document in np.split(rows.ravel(), np.flatnonzero(rows.ravel() == END) + 1):
        if 1 < len(document) <= n_context:
            if len(row) + len(document) > n_context:
                out.append(row + [END] * (n_context - len(row)))
                row = []
            row += document.tolist()
    out.append(row + [END] * (n_context - len(row)))
    return np.array(out, dtype=rows.dtype)


def copies(n_row, n_context, n_vocab, seed):
    """Rows of repetitions and which of their tokens follow from what stands before: both [n_row, n_context].

    A document is a run of random tokens, other tokens, and a part of the run again; or random pairs, and
    the same pairs in another order, where the second of a pair follows from the first."""
    rng = np.random.default_rng(seed)
    tokens, known = np.full((n_row, n_context), END, np.int64), np.zeros((n_row, n_context), bool)
    fresh = lambda n: rng.integers(3, n_vocab, n)
    for row in range(n_row):
        at = 0
        while at < n_context - 2:
            n = int(rng.integers(3, 80))
            if rng.random() < 0.67:
                run, start = fresh(n), int(rng.integers(0, n - 2))
                before, again = np.concatenate((run, fresh(int(rng.integers(0, 60))))), run[start:]
                follows = np.arange(len(again)) > 0
            else:
                first = rng.choice(np.arange(3, n_vocab), n, replace=False)
                pairs = np.stack((first, fresh(n)), 1)
                before, again = pairs.ravel(), rng.permutation(pairs).ravel()
                follows = np.arange(2 * n) % 2 == 1
            document = np.concatenate((before, again, [END]))
            mark = np.concatenate((np.zeros(len(before), bool), follows, [False]))
            kept = min(len(document), n_context - at)
            tokens[row, at:at + kept], known[row, at:at + kept] = document[:kept], mark[:kept]
            at += kept
    return tokens, known


class Pools:
    """Rows of every pool on the device, each drawn in a new shuffled order per epoch."""

    def __init__(self, folder, names, n_context, device):
        read = lambda n: shorten(np.load(os.path.join(folder, n + ".npy")), n_context).astype(np.int16)
        self.rows = {n: torch.from_numpy(read(n)).to(device) for n in names if n != COPIES}
        if COPIES in names:
            tokens, known = copies(6000, n_context, MODELS["main"].n_vocab, SEED)
            # The sign says which tokens are known: the loss of such a row is on these.
            self.rows[COPIES] = torch.from_numpy(np.where(known, -tokens, tokens).astype(np.int16)).to(device)
        self.random = torch.Generator().manual_seed(SEED)
        self.order, self.at = {n: [] for n in names}, {n: 0 for n in names}

    def draw(self, mix):
        parts = []
        for name, count in mix.items():
            if self.at[name] + count > len(self.order[name]):
                self.order[name], self.at[name] = torch.randperm(len(self.rows[name]), generator=self.random), 0
            index = self.order[name][self.at[name]:self.at[name] + count]
            self.at[name] += count
            parts.append(self.rows[name][index.to(self.rows[name].device)])
        return torch.cat(parts).long()


def orthogonal(g):
    """Newton-Schulz iteration of a stack of matrices [n, a, b] towards the nearest semi-orthogonal ones."""
    x = g.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.mT if tall else x


class Muon:
    """Momentum with orthogonalized updates, matrices of one shape stacked."""

    def __init__(self, params):
        shapes = {}
        for p in params:
            shapes.setdefault(p.shape, []).append(p)
        self.groups = [(ps, torch.zeros((len(ps), *shape), device=ps[0].device)) for shape, ps in shapes.items()]

    @torch.no_grad()
    def step(self, lr):
        for params, momentum in self.groups:
            g = torch.stack([p.grad for p in params])
            momentum.lerp_(g, 1 - MOMENTUM)
            update = orthogonal(g.lerp(momentum, MOMENTUM)).float() * (0.2 * max(g.shape[-2:]) ** 0.5)
            for p, u in zip(params, update):
                p.mul_(1 - lr * WEIGHT_DECAY).add_(u, alpha=-lr)
                p.grad = None


def schedule(step, steps):
    progress = step / steps
    return min(1.0, (step + 1) / WARMUP_STEPS, max(0.0, (1 - progress) / (1 - DECAY_START)))


def hard_loss(logits, target, weight):
    loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
    return (loss * weight.flatten()).sum() / weight.sum()


def soft_loss(logits, teacher, weight):
    """Cross-entropy against the teacher's distribution."""
    loss = -(teacher.softmax(-1) * logits.log_softmax(-1)).sum(-1)
    return (loss * weight).sum() / weight.sum()


def load(name, path, device):
    model = Llama(MODELS[name]).to(device)
    state = read_gguf(path, MODELS[name]) if path.endswith(".gguf") else load_file(path)
    state = {k.removeprefix("model."): v.float() for k, v in state.items()}
    model.load_state_dict(state)
    return model


@torch.no_grad()
def evaluate(model, teacher, sets, roles, device, mask_of, tool_tokens, n_row):
    """Per validation set: perplexity, share of next tokens right, tool calls whose every token is
    right given the text before, and how often the model's first choice is the teacher's."""
    report, (call_token, call_end) = {}, tool_tokens
    for name, rows in sets.items():
        total = {"nll": 0.0, "n": 0.0, "right": 0.0, "agree": 0.0, "calls": 0, "calls_right": 0}
        for at in range(0, len(rows), n_row):
            tokens = torch.full((n_row, rows.shape[1]), END, device=device)
            tokens[:len(rows) - at] = torch.from_numpy(rows[at:at + n_row].astype(np.int64)).to(device)
            mask = mask_of(tokens)
            with torch.autocast(device.type, torch.bfloat16):
                logits = model.logits(model.hidden(tokens, mask))
            weight = (weights(tokens, {k: 0.0 for k in roles}) > 0.5).float()
            target = torch.roll(tokens, -1, 1)
            nll = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view_as(weight)
            best = logits.argmax(-1)
            total["nll"] += (nll * weight).sum().item()
            total["n"] += weight.sum().item()
            total["right"] += ((best == target) * weight).sum().item()
            if teacher is not None:
                with torch.autocast(device.type, torch.bfloat16):
                    theirs = teacher.logits(teacher.hidden(tokens, mask)).argmax(-1)
                total["agree"] += ((best == theirs) * weight).sum().item()
            wrong = ((best != target) & (weight > 0)).long().cumsum(1).cpu()
            spoken = weight.cpu()
            for r, t in (target == call_token).nonzero().tolist():
                end = (target[r, t:] == call_end).nonzero()
                if spoken[r, t] > 0 and len(end):
                    total["calls"] += 1
                    total["calls_right"] += int(wrong[r, t + end[0, 0].item()] - (wrong[r, t - 1] if t else 0) == 0)
        n = max(1.0, total["n"])
        report[name] = {"perplexity": round(float(np.exp(total["nll"] / n)), 3), "tokens": int(n), "accuracy": round(total["right"] / n, 4)}
        if teacher is not None:
            report[name]["agreement"] = round(total["agree"] / n, 4)
        if total["calls"]:
            report[name]["calls"], report[name]["calls_exact"] = total["calls"], round(total["calls_right"] / total["calls"], 4)
    return report


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--teacher")
    parser.add_argument("--init", help="weights to go on from")
    parser.add_argument("--lr-matrix", type=float, default=LR_MATRIX)
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--plan", choices=PLANS, default="gpu")
    parser.add_argument("--attention", choices=("flex", "dense", "row"), default="flex",
                        help="document masks in blocks, as a matrix, or none")
    parser.add_argument("--eager", action="store_true", help="do not compile (for a test on a CPU)")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(SEED)
    torch.set_float32_matmul_precision("high")
    tok = Tokenizer.from_file(os.path.join(args.data, "tokenizer.json"))
    roles = {tok.token_to_id(k): v for k, v in ROLE_WEIGHT.items()}
    assert tok.token_to_id("<|endoftext|>") == END and None not in roles
    n_context, *mixes = PLANS[args.plan]
    pools = Pools(args.data, mixes[0], n_context, device)
    model = load(args.model, args.init, device) if args.init else Llama(MODELS[args.model]).to(device)
    teacher = load("main" if args.model == "draft" else args.model, args.teacher, device).eval().requires_grad_(False) if args.teacher else None
    build, loss_of = create_block_mask, soft_loss if teacher else hard_loss
    if not args.eager:
        for m in filter(None, (model, teacher)):
            for layer in m.layers:
                layer.compile()
        build, loss_of = torch.compile(create_block_mask), torch.compile(loss_of)
        globals()["orthogonal"] = torch.compile(orthogonal)
    mask_of = {"flex": lambda t: document_mask(t, build), "dense": dense_mask, "row": lambda t: None}[args.attention]
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.dim() != 2 or "embed" in n]
    muon, adam = Muon(matrices), torch.optim.AdamW(others, lr=LR_EMBED, betas=(0.9, 0.95), weight_decay=0.0, fused=device.type == "cuda")
    n_param = sum(p.numel() for p in model.parameters())
    steps, step, started, log = args.steps or 10 ** 9, 0, time.time(), []
    n_tok = sum(mixes[0].values()) * n_context
    print(f"{args.model}: {n_param / 1e6:.2f} M parameters, {n_tok} tokens a step, torch {torch.__version__}", flush=True)
    while step < steps:
        drawn = pools.draw(mixes[step >= MIX_CHANGE * steps])
        tokens = drawn.abs()
        mask = mask_of(tokens)
        weight, target = weights(tokens, roles), torch.roll(tokens, -1, 1)
        if n_copy := mixes[step >= MIX_CHANGE * steps].get(COPIES, 0):
            weight[-n_copy:] = (torch.roll(drawn[-n_copy:], -1, 1) < 0).float()
        with torch.autocast(device.type, torch.bfloat16):
            logits = model.logits(model.hidden(tokens, mask))
            if teacher is None:
                loss = loss_of(logits, target, weight)
            else:
                with torch.no_grad():
                    theirs = teacher.logits(teacher.hidden(tokens, mask))
                loss = loss_of(logits, theirs, weight)
        loss.backward()
        factor = schedule(step, steps)
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for group in adam.param_groups:
            group["lr"] = LR_EMBED * factor
        adam.step()
        adam.zero_grad()
        muon.step(args.lr_matrix * factor)
        step += 1
        if step == 10:
            loss.item()
            warm = time.time()
        if step == 40 and not args.steps:
            loss.item()
            per_step = (time.time() - warm) / 30
            steps = max(step, int((args.seconds - (time.time() - started)) / per_step) + 40)
            print(f"{n_tok / per_step / 1e6:.3f} M tokens/s, {steps} steps, start took {warm - started:.0f} s", flush=True)
        if step % 50 == 0 or step == steps:
            log.append((step, round(loss.item(), 4)))
            if step % 50 == 0 or step == steps:
                print(f"step {step} loss {log[-1][1]} {time.time() - started:.0f} s", flush=True)
    save_file({"model." + k: v.detach().to(torch.bfloat16).contiguous().cpu() for k, v in model.state_dict().items()}, args.out)
    model.load_state_dict({k: v.to(torch.bfloat16).float() for k, v in model.state_dict().items()})
    tool = (tok.token_to_id("<tool_call>"), tok.token_to_id("</tool_call>"))
    sets = {k: v for n in sorted(glob.glob(os.path.join(args.data, "valid-*.npz"))) for k, v in np.load(n).items()}
    if n_context != 2048:
        sets = {k: shorten(v, n_context)[:32] for k, v in sets.items() if k in mixes[0]}
    report = evaluate(model.eval(), teacher, sets, roles, device, mask_of, tool, sum(mixes[0].values()))
    json.dump({"model": args.model, "parameters": n_param, "steps": step, "tokens": step * n_tok, "log": log, "valid": report,
               "seconds": round(time.time() - started)}, open(args.out.replace(".safetensors", ".json"), "w"), indent=1)
    for name, row in report.items():
        print(name, row)


if __name__ == "__main__":
    main()
