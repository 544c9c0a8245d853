#!/usr/bin/env python3
"""What speculation gains and costs, prompt by prompt: processor time a token of the built-in model, plain and with drafts.

    cargo build --release --bin mlx-run
    bench/speculation.py [--mlx-run PROGRAM] [--only NAME,...] [--runs 3] [--draft MODEL] [--base OTHER_PROGRAM] [-t 1]
                         [--held-out DATA [--conversations 8]]

One server drafts (`--draft mlxr-draft`, prompt lookup), the other does not (`--draft-max 0`). Each prompt goes to both by
turns, under a cache salt of its own, so that its reading counts too. Processor time of the server's threads is read from
/proc (Linux): what other programs do to the machine matters little. Texts must be the same, for the same seed: it is an
error if they are not. Rows are prompts that the pair of models was trained on, others that repeat themselves, questions that it was not trained on,
and free text on which the two disagree; each at temperature 0 and 0.8. `gain` is plain over drafted: 1.5 is half more tokens a second. `told` is what
the server itself says (`mlxr:spec_decode_saved_seconds`): by undisturbed times. Requests
for a single token tell what reading a prompt takes without drafts: `decoding` is the gain of what is left without that.
With `--held-out` the longest replies of the first conversations of each kind that the pair of models was not trained on are added;
DATA is what assets/embedded/build.py makes. With `--base` the second server is another program's with the same flags: before and after a change.
"""

import argparse
import atexit
import json
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from serving import CODE, ROOT, free_port

RESTAURANT = {"type": "function", "function": {
    "name": "find_restaurants", "description": "Find restaurants by cuisine and city", "parameters": {
        "type": "object", "properties": {"city": {"type": "string", "description": "City of the restaurant"},
                                         "cuisine": {"type": "string", "description": "Cuisine of food served"}},
        "required": ["city", "cuisine"]}}}  # fmt: skip


def ask(*said, **more):
    roles = ["user", "assistant"]
    return {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(said)], **more}


# What people may ask of the model inside that it was never trained on.
ASKED = {
    "lake": "What is the difference between a lake and a river?", "sleep": "Give me three tips for sleeping better.",
    "rain": "Write a short poem about rain.", "cook": "What should I cook tonight?", "computer": "Explain what a computer does.",
    "brazil": "Tell me something about Brazil.", "friend": "Write a letter to a friend who moved away.",
    "day": "What can I do on a rainy day?", "forest": "Describe a walk in the forest.", "sum": "What is 17 plus 25?",
    "swim": "How can I learn to swim?", "station": "Where is the train station?", "book": "Can you recommend a good book?",
    "window": "How do I clean a window?"}  # fmt: skip

# Kind, name, request: conversations or, as a text, the beginning of one.
PROMPTS = [
    ("draft", "story", ask("Tell me a story about a fox and a bear.")),
    ("draft", "tea", ask("How do I make tea?")),
    ("draft", "map", ask("Write a story about a girl who finds a map.")),
    ("draft", "dragon", ask("Tell me a story about a dragon.")),
    ("draft", "heart", ask("What does the heart do?")),
    ("draft", "restaurant", ask("I want to eat something.", "What kind of food, and in which city?",
                                "Italian food in San Jose would be great.", tools=[RESTAURANT])),
    ("lookup", "code 1", ask(f"Repeat this code and change 8080 to 9090:\n\n{CODE}")),
    ("lookup", "code 2", ask(f"Repeat this code and change 30 to 60:\n\n{CODE}")),
    ("lookup", "code 3", f"File settings.py:\n\n{CODE}\nThe same file with another port:\n\ndef load_settings(path):\n"),
    *(("asked", name, ask(text)) for name, text in ASKED.items()),
    ("free", "committee", "The committee met on Tuesday to discuss the new proposal, and after a long debate it"),
    ("free", "harbour", "It was a cold morning in the harbour, and the captain had not slept. He looked at"),
    ("free", "python", "class Matrix:\n    def __init__(self, rows):\n        self.rows = rows\n\n    def multiply(self,"),
    ("free", "law", "Article 12. The contracting parties shall, without prejudice to the provisions of Article 9,"),
    ("free", "german", "Der Zug nach Hamburg hatte an diesem Morgen mehr als eine Stunde"),
    ("free", "numbers", "3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9,"),
    ("free", "poem", "O wind that comes across the sea,\nWhat is the song you bring to me?\n"),
]  # fmt: skip


def held_out(data, n):
    """Prompts of the first `n` held-out conversations of each kind: what is before their longest reply."""
    prompts = []
    for path in sorted(Path(data).glob("checks-*.json")):
        for kind, conversations in json.loads(path.read_text()).items():
            for i, conversation in enumerate(conversations[:n]):
                messages = conversation["messages"]
                replies = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
                longest = max(replies, key=lambda at: len(json.dumps(messages[at])))
                messages = [openai(message) for message in messages[:longest]]
                tools = {"tools": conversation["tools"]} if conversation.get("tools") else {}
                prompts.append(("held-out", f"{kind} {i + 1}", {"messages": messages, **tools}))
    return prompts


def openai(message):
    """A message of the training data as OpenAI's clients write it."""
    message = dict(message)
    if calls := message.get("tool_calls"):
        message["tool_calls"] = [{"id": f"call_{i}", "type": "function",
                                  "function": {"name": call["name"], "arguments": json.dumps(call["arguments"])}}
                                 for i, call in enumerate(calls)]  # fmt: skip
    if message["role"] == "tool":
        message.setdefault("tool_call_id", "call_0")
    return message


class Server:
    def __init__(self, program, folder, flags):
        self.port = free_port()
        command = [program, "serve", "mlxr-small", "--host", f"127.0.0.1:{self.port}", "--no-disk", "--models", folder, *flags]
        self.process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        atexit.register(self.process.kill)
        for _ in range(600):
            try:
                self.get("/health")
                return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        raise SystemExit(f"{command} does not answer")

    def get(self, path):
        return urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}").read().decode()

    def post(self, path, body):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(request))

    def counts(self):
        text = self.get("/metrics")
        find = lambda name: sum(map(float, re.findall(rf"^{name}\S* (\S+)$", text, re.MULTILINE)))
        names = ["vllm:spec_decode_num_draft_tokens_total", "vllm:spec_decode_num_accepted_tokens_total", "mlxr:spec_decode_saved_seconds"]
        return [find(name) for name in names]

    def cpu_ns(self):
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def reply(server, prompt, temperature, max_tokens, salt):
    """Text, tokens and microseconds of processor time."""
    body = {"model": "mlxr-small", "temperature": temperature, "seed": 7, "max_tokens": max_tokens, "cache_salt": salt}
    before = server.cpu_ns()
    if isinstance(prompt, str):
        answer = server.post("/v1/completions", {**body, "prompt": prompt})
    else:
        answer = server.post("/v1/chat/completions", {**body, **prompt})
    spent = (server.cpu_ns() - before) / 1e3
    choice = answer["choices"][0]
    said = choice.get("text") or choice.get("message")
    # Calls are named at random.
    return re.sub(r'"id": "[^"]*"', "", json.dumps(said)), answer["usage"]["completion_tokens"], spent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mlx-run", default=ROOT / "target/release/mlx-run")
    parser.add_argument("--base", help="another program, which drafts too, in place of the plain server")
    parser.add_argument("--draft", default="mlxr-draft")
    parser.add_argument("--held-out", metavar="DATA", help="what assets/embedded/build.py made")
    parser.add_argument("--conversations", type=int, default=8, help="of each kind that is held out")
    parser.add_argument("--only", help="kinds or names of prompts")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("-t", "--threads", type=int, default=1)
    args = parser.parse_args()
    prompts = PROMPTS + (held_out(args.held_out, args.conversations) if args.held_out else [])
    chosen = [p for p in prompts if not args.only or {p[0], p[1]} & set(args.only.split(","))]
    folder = tempfile.mkdtemp(prefix="mlxr-speculation-")
    flags = ["-t", args.threads, "--parallel", 1]
    drafts = [*flags, "--draft", args.draft]
    drafted = Server(args.mlx_run, folder, drafts)
    plain = Server(args.base, folder, drafts) if args.base else Server(args.mlx_run, folder, [*flags, "--draft-max", 0])
    for server in [drafted, plain]:  # the first request packs the weights
        reply(server, ask("Hello."), 0, 8, "warm")
    print("| prompt | temperature | tokens | plain, us a token | drafted | gain | told | decoding | accepted of drafted |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    gains = {}
    for temperature in [0, 0.8]:
        for kind, name, prompt in chosen:
            spent, first, counts = ([], []), [], drafted.counts()
            for run in range(args.runs):
                salt = f"{name} {temperature} {run}"
                found = [reply(server, prompt, temperature, args.max_tokens, salt) for server in [drafted, plain]]
                if found[0][:2] != found[1][:2]:
                    sys.exit(f"{name}: {found[0][0]} with drafts, {found[1][0]} without")
                n = found[0][1]
                for i, (_, _, took) in enumerate(found):
                    spent[i].append(took)
                first.append(reply(plain, prompt, temperature, 1, f"{salt}, one token")[2])
            ours, theirs = map(statistics.median, spent)
            read = statistics.median(first)
            gain, decoding = theirs / ours, (theirs - read) / max(ours - read, 1)
            n_draft, n_accepted, saved = (after - before for after, before in zip(drafted.counts(), counts))
            told = theirs / max(theirs - saved / args.runs * 1e6, 1)
            gains.setdefault(f"{kind} at {temperature}", []).append((theirs, ours, read))
            accepted = f"{n_accepted / args.runs:.0f} of {n_draft / args.runs:.0f}"
            print(f"| {kind}: {name} | {temperature} | {n} | {theirs / n:.0f} | {ours / n:.0f} | {gain:.2f} | {told:.2f} | {decoding:.2f} | {accepted} |", flush=True)
    print("\n| group | all tokens | decoding | least to most | median |\n|---|---:|---:|---:|---:|")
    for kind, found in gains.items():
        only = [theirs / ours for theirs, ours, _ in found]
        theirs, ours, read = map(sum, zip(*found))
        whole, decoding = theirs / ours, (theirs - read) / (ours - read)
        print(f"| {kind} | {whole:.2f} | {decoding:.2f} | {min(only):.2f} to {max(only):.2f} | {statistics.median(only):.2f} |")
    drafted.stop()
    plain.stop()


if __name__ == "__main__":
    main()
