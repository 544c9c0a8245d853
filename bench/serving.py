#!/usr/bin/env python3
"""Serves the same model by `mlx-run serve` and by llama.cpp's `llama-server`, by turns, under the load of NVIDIA's aiperf.

    cargo xtask random-model --vocab LLAMA_CPP/models/ggml-vocab-llama-bpe.gguf --out 1b-text-q4_k_m.gguf
    cargo build --release --bin mlx-run
    python3 -m venv VENV && VENV/bin/pip install aiperf
    bench/serving.py --model 1b-text-q4_k_m.gguf --peer LLAMA_CPP/build/bin --aiperf VENV/bin/aiperf [--only NAME,...] \\
        [--runs 3] [-t 2]

Weights are random, so replies are too: they are sampled at temperature 0.8 from the 40 likeliest tokens, end at their
length, and speculation finds nothing in them. aiperf sends the prompts of a file, by clients or by a timetable, and notes
when each piece of each reply came. Each server runs alone; runs alternate; medians count. What is compared:

    clients8, clients16   a new system prompt of 512 tokens that all share, a request a client, 128 tokens out
    arrival               4 streams of 128 tokens; after a second comes a prompt of 4096 tokens: the gaps of the streams
    conversation          20 turns that grow to 8k tokens, the history sent again each time; then a turn warm, after a
                          restart, and cold (ours without its disk; the peer keeps nothing)
    arena                 64 clients at once on memory for 8 of them (ours): how long each waits
    overhead              32 clients: the part of a step in which the model does not compute (ours, by /metrics)
    draft, lookup         one stream of the built-in model with its draft model, and on a prompt whose reply repeats it, with
                          and without speculation (ours)
"""

import argparse
import atexit
import json
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORDS = """time year people way day man thing woman life child world school state family student group country problem hand
part place case week company system program question work government number night point home water room mother area money
story fact month lot right study book eye job word business issue side kind head house service friend father power hour game
line end member law car city community name president team minute idea body information back parent face others level office
door health person art war history party result change morning reason research girl guy moment air teacher force education
foot boy age policy music market sense nation plan college interest death experience effect use class control field
development role effort rate heart drug show leader light voice wife police mind price report decision son view relationship
town road arm difference value building action season society tax director position player record paper space ground form
event official matter center couple site project activity star table need court oil situation cost industry figure street
image phone data picture practice piece land product doctor wall patient worker news test movie north love support
technology step baby computer type attention film tree source organization hair look century evidence window""".split()


def words(rng, n):
    return " ".join(rng.choice(WORDS) for _ in range(n))


class Server:
    """A server process that answers, until `stop`."""

    def __init__(self, name, command, model, log):
        self.name, self.model = name, model
        self.port = free_port()
        command = [str(part).replace("PORT", str(self.port)) for part in command]
        self.log = open(log, "ab")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        atexit.register(self.process.kill)
        self.url = f"http://127.0.0.1:{self.port}"
        self.wait()

    def wait(self):
        """Until a first reply has come, so that the model is loaded."""
        body = {"model": self.model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
        for _ in range(600):
            if self.process.poll() is not None:
                raise SystemExit(f"{self.name} ended: {self.log.name}")
            try:
                request = urllib.request.Request(f"{self.url}/v1/chat/completions", json.dumps(body).encode())
                request.add_header("Content-Type", "application/json")
                urllib.request.urlopen(request, timeout=120).read()
                return
            except OSError:
                time.sleep(0.2)
        raise SystemExit(f"{self.name} does not answer: {self.log.name}")

    def numbers(self):
        """Our own metrics of the only model."""
        text = urllib.request.urlopen(f"{self.url}/metrics").read().decode()
        found = re.findall(r"^(mlxr:\w+)(?:\{.*\})? (\S+)$", text, re.MULTILINE)
        return {name: float(value) for name, value in found}

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.log.close()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Bench:
    def __init__(self, args, folder):
        self.args, self.folder = args, folder
        self.n_load = 0
        (folder / "models").mkdir()
        # aiperf wants some tokenizer, though the servers count the tokens.
        self.tokenizer = folder / "tokenizer"
        self.tokenizer.mkdir()
        shutil.copy(ROOT / "assets/embedded/tokenizer.json", self.tokenizer)
        (self.tokenizer / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
        self.disk = folder / "disk"

    def ours(self, parallel, *flags, model=None):
        args = self.args
        file = model or args.model
        command = [args.mlx_run, "serve", file, "--host", "127.0.0.1:PORT", "-t", args.threads, "--parallel", parallel]
        command += ["--models", self.folder / "models", *flags]
        if "--no-disk" not in flags:
            command += ["--disk", self.disk]
        return Server("mlx-run", command, Path(file).stem, self.folder / "mlx-run.log")

    def peer(self, parallel, context):
        """llama-server with what makes it fastest: flash attention, a slot for each client, reuse of cached parts."""
        args = self.args
        command = [Path(args.peer) / "llama-server", "-m", args.model, "--host", "127.0.0.1", "--port", "PORT"]
        command += ["-t", args.threads, "-fa", "on", "--parallel", parallel, "-c", context * parallel]
        command += ["--cache-reuse", 256, "--no-webui", *args.peer_flags.split()]
        return Server("llama-server", command, Path(args.model).stem, self.folder / "llama-server.log")

    def load(self, server, lines, *, clients=None):
        """Lets aiperf send the requests of `lines`; returns what it noted of each, in the order of their starts."""
        self.n_load += 1
        out = self.folder / f"load{self.n_load}"
        out.mkdir()
        file = out / "requests.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        command = [self.args.aiperf, "profile", "--model", server.model, "--url", server.url, "--endpoint-type", "chat"]
        command += ["--streaming", "--use-server-token-count", "--use-legacy-max-tokens", "--tokenizer", self.tokenizer]
        command += ["--input-file", file, "--custom-dataset-type", "mooncake_trace", "--artifact-dir", out]
        command += ["--ui", "none", "--no-gpu-telemetry", "--no-server-metrics", "--workers-max", 2]
        command += ["--record-processors", 1, "--export-level", "records", "--connection-reuse-strategy", "never"]
        command += ["--request-timeout-seconds", 1800]
        command += ["--extra-inputs", json.dumps(self.extra(lines))]
        timed = any("timestamp" in line for line in lines)
        command += ["--fixed-schedule"] if timed else ["--concurrency", clients, "--request-count", len(lines)]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        found = list(out.rglob("profile_export.jsonl"))
        if done.returncode or not found:
            raise SystemExit(f"{command}: {done.stdout[-3000:]} {done.stderr[-3000:]}")
        records = [json.loads(line) for line in found[0].read_text().splitlines()]
        wrong = [record["error"] for record in records if record.get("error")]
        if wrong or len(records) != len(lines):
            raise SystemExit(f"{len(records)} of {len(lines)} answered: {wrong[:3]}")
        return sorted(map(Record, records), key=lambda record: record.start_s)

    def extra(self, lines):
        greedy = any(line.get("greedy") for line in lines)
        chosen = {"temperature": 0} if greedy else {"temperature": 0.8, "top_k": 40, "top_p": 0.95}
        return chosen | ({} if greedy else {"ignore_eos": True})

    def alternate(self, runs, *servers):
        """`runs` times each server in turn: a list of results for each."""
        results = [[] for _ in servers]
        for run in range(runs):
            for result, server in zip(results, servers):
                result.append(server(run))
        return results


class Record:
    """What aiperf noted of a request."""

    def __init__(self, record):
        meta, metrics = record["metadata"], record["metrics"]
        self.session = meta.get("conversation_id")
        self.start_s, self.end_s = meta["request_start_ns"] / 1e9, meta["request_end_ns"] / 1e9
        value = lambda name: metrics[name]["value"] if name in metrics else None
        self.first_ms = value("time_to_first_token")
        self.latency_ms = value("request_latency")
        self.gaps_ms = value("inter_chunk_latency") or []
        self.n_out = value("output_sequence_length") or value("usage_completion_tokens")
        self.n_prompt = value("usage_prompt_tokens")
        self.n_cached = value("usage_prompt_cache_read_tokens")

    def rate(self):
        """Tokens a second after the first."""
        return (self.n_out - 1) / (self.latency_ms - self.first_ms) * 1e3


def message(text, n_out, **more):
    messages = text if isinstance(text, list) else [{"role": "user", "content": text}]
    return {"messages": messages, "output_length": n_out, **more}


def percentile(values, part):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def clients(bench, n):
    """Aggregate tokens a second."""

    def once(start):
        def run(run):
            rng = random.Random(run)
            system = {"role": "system", "content": words(rng, 512)}
            asks = [{"role": "user", "content": words(rng, 40)} for _ in range(n)]
            server = start()
            records = bench.load(server, [message([system, ask], 128) for ask in asks], clients=n)
            server.stop()
            seconds = max(r.end_s for r in records) - min(r.start_s for r in records)
            return sum(r.n_out for r in records) / seconds, statistics.median(r.first_ms for r in records)

        return run

    ours, peer = bench.alternate(bench.args.runs, once(lambda: bench.ours(n)), once(lambda: bench.peer(n, 1024)))
    for name, at, unit in [("tokens a second", 0, "t/s"), ("time to first token", 1, "ms")]:
        compare(f"{n} clients, {name}", [r[at] for r in ours], [r[at] for r in peer], unit)


def arrival(bench):
    """Gaps between pieces of four streams beside which a long prompt is read."""

    def once(start):
        def run(run):
            rng = random.Random(run)
            lines = [message(words(rng, 60), 128, timestamp=i * 50, session_id=f"stream{i}") for i in range(4)]
            lines.append(message(words(rng, 4096), 16, timestamp=1000, session_id="long"))
            server = start()
            records = bench.load(server, lines)
            server.stop()
            streams = [r for r in records if r.n_prompt < 1000]
            gaps = [gap for r in streams for gap in r.gaps_ms]
            long = next(r for r in records if r.n_prompt > 1000)
            return percentile(gaps, 0.99), max(gaps), statistics.median(gaps), long.first_ms

        return run

    ours, peer = bench.alternate(bench.args.runs, once(lambda: bench.ours(5)), once(lambda: bench.peer(5, 5120)))
    for at, name in enumerate(["99th percentile of the gaps", "longest gap", "median gap", "first token of the prompt"]):
        compare(f"arrival, {name}", [r[at] for r in ours], [r[at] for r in peer], "ms")


def turns(rng, n):
    """A conversation of `n` turns and what is sent at each."""
    messages, sent = [], []
    for _ in range(n):
        messages.append({"role": "user", "content": words(rng, 270)})
        sent.append(list(messages))
        messages.append({"role": "assistant", "content": words(rng, 130)})
    return messages, sent


def last_turn(bench, server, history, seed):
    ask = {"role": "user", "content": words(random.Random(seed), 270)}
    return bench.load(server, [message([*history, ask], 8)], clients=1)[0].first_ms


def conversation(bench):
    def lines(sent):
        return [message(messages, 8, session_id="talk") for messages in sent]

    def ours(run):
        history, sent = turns(random.Random(run), 20)
        server = bench.ours(4)
        records = bench.load(server, lines(sent), clients=1)
        warm = last_turn(bench, server, history, f"warm{run}")
        server.stop()
        server = bench.ours(4)
        restarted = last_turn(bench, server, history, f"restarted{run}")
        server.stop()
        server = bench.ours(4, "--no-disk")
        cold = last_turn(bench, server, history, f"cold{run}")
        server.stop()
        return records, warm, restarted, cold

    def peer(run):
        history, sent = turns(random.Random(run), 20)
        server = bench.peer(4, 10240)
        records = bench.load(server, lines(sent), clients=1)
        warm = last_turn(bench, server, history, f"warm{run}")
        server.stop()
        server = bench.peer(4, 10240)
        restarted = last_turn(bench, server, history, f"restarted{run}")
        server.stop()
        return records, warm, restarted

    ours, peer = bench.alternate(bench.args.runs, ours, peer)
    print("| turn | prompt tokens | cached | first token ms | llama-server ms |\n|---|---:|---:|---:|---:|")
    for turn in range(20):
        mine, other = [r[0][turn] for r in ours], [r[0][turn] for r in peer]
        median = lambda rows: statistics.median(row.first_ms for row in rows)
        print(f"| {turn + 1} | {mine[0].n_prompt} | {mine[0].n_cached or 0} | {median(mine):.0f} | {median(other):.0f} |")
    for at, name in [(1, "warm"), (2, "after a restart")]:
        compare(f"turn 21, {name}", [r[at] for r in ours], [r[at] for r in peer], "ms")
    show("turn 21, cold (ours)", [r[3] for r in ours], "ms")
    show("restart over warm (ours)", [r[2] / r[1] for r in ours], "x")
    show("cold over restart (ours)", [r[3] / r[2] for r in ours], "x")


def arena(bench):
    """64 clients at once, pages for eight."""
    waits, fair = [], []
    for run in range(bench.args.runs):
        rng = random.Random(run)
        server = bench.ours(64, "--kv-tokens", 8 * 256, "--no-disk")
        records = bench.load(server, [message(words(rng, 100), 100) for _ in range(64)], clients=64)
        server.stop()
        start, end = min(r.start_s for r in records), max(r.end_s for r in records)
        alone = statistics.median(r.latency_ms - r.first_ms for r in records) / 1e3
        waits.append(percentile([r.first_ms / 1e3 for r in records], 0.95))
        # Were the last of them to begin when it must to end with the rest, and the others evenly before.
        fair.append(0.95 * (end - start - alone))
    show("arena, 95th percentile of the wait", waits, "s")
    show("arena, the same if all were served evenly", fair, "s")
    show("arena, ratio", [wait / even for wait, even in zip(waits, fair)], "x")


def overhead(bench):
    """What the engine itself takes of its steps at a batch of 32."""
    shares, steps = [], []
    for run in range(bench.args.runs):
        rng = random.Random(run)
        server = bench.ours(32, "--no-disk")
        before = server.numbers()
        bench.load(server, [message(words(rng, 60), 128) for _ in range(32)], clients=32)
        after = server.numbers()
        server.stop()
        spent = {name: after[name] - before[name] for name in after}
        busy = spent["mlxr:busy_seconds_total"]
        shares.append(100 * (1 - spent["mlxr:computing_seconds_total"] / busy))
        steps.append(1e3 * busy / spent["mlxr:steps_total"])
    show("overhead, engine's part of a step", shares, "%")
    show("overhead, mean step", steps, "ms")


CODE = '''def load_settings(path):
    with open(path) as file:
        settings = json.load(file)
    settings.setdefault("host", "localhost")
    settings.setdefault("port", 8080)
    settings.setdefault("debug", False)
    settings.setdefault("timeout", 30)
    return settings
'''


def speculation(bench, flags, prompts):
    """Tokens a second of one stream of the built-in model, with and without."""

    def once(*flags):
        def run(_):
            server = bench.ours(1, "--no-disk", *flags, model="mlxr-small")
            records = bench.load(server, [message(prompt, 200, greedy=True) for prompt in prompts], clients=1)
            server.stop()
            return statistics.median(r.rate() for r in records if r.n_out > 20)

        return run

    return bench.alternate(bench.args.runs, once(*flags), once("--draft-max", "0"))


def draft(bench):
    prompts = ["Tell me a story about a fox and a bear.", "How do I make tea?", "What is a good plan for a rainy day?",
               "Write a story about a girl who finds a map.", "Tell me about the sea.", "What does the heart do?"]  # fmt: skip
    compare("draft model", *speculation(bench, ["--draft", "mlxr-draft"], prompts), "t/s", "plain")


def lookup(bench):
    prompts = [f"Repeat this code and change {a} to {b}:\n\n{CODE}" for a, b in [("8080", "9090"), ("30", "60")]]
    compare("prompt lookup", *speculation(bench, [], prompts), "t/s", "plain")


def compare(name, ours, peer, unit, peer_name="llama-server"):
    a, b = statistics.median(ours), statistics.median(peer)
    span = lambda values: f"{min(values):.1f}-{max(values):.1f}"
    print(f"| {name} | {a:.1f} ({span(ours)}) {unit} | {peer_name} {b:.1f} ({span(peer)}) {unit} | {a / b:.3f} |", flush=True)


def show(name, values, unit):
    print(f"| {name} | {statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f}) {unit} | | |", flush=True)


ROWS = {
    "clients8": lambda bench: clients(bench, 8),
    "clients16": lambda bench: clients(bench, 16),
    "arrival": arrival,
    "conversation": conversation,
    "arena": arena,
    "overhead": overhead,
    "draft": draft,
    "lookup": lookup,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--peer", required=True, help="folder with llama-server")
    parser.add_argument("--peer-flags", default="", help="more flags of llama-server")
    parser.add_argument("--aiperf", required=True)
    parser.add_argument("--mlx-run", default=ROOT / "target/release/mlx-run")
    parser.add_argument("--only", default=",".join(ROWS))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("-t", "--threads", type=int, default=2)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mlxr-serving-"))
    bench = Bench(args, folder)
    for name in args.only.split(","):
        ROWS[name](bench)


if __name__ == "__main__":
    main()
