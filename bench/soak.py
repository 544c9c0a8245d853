#!/usr/bin/env python3
"""Soaks the daemon: random mixed load, while it is killed, restarted, short of disk, memory and models; then looks for leaks.

    cargo build --release --bin mlxrd
    bench/soak.py --minutes 60 [--model FILE.gguf ...] [--seed N] [--clients 12] [--json REPORT]

Needs Python 3.10 and nothing else; with root rights on Linux the folder of pages is a small tmpfs that is filled up and
made read-only, otherwise it is a folder with a small budget, and a file stands where the folder should be.

Time is cut into rounds, each with a daemon of its own settings (arena, draft model, models at once, state of the disk) over
the same folder of pages. In a round clients ask for all models by all protocols: some read slowly, leave in the middle,
leave at once, ask for several choices, ask nonsense, unload models. A round ends by `kill -9` under load, or by silence:
then no page and no sequence may be held, and after unloading no memory; processes' files, threads and memory are compared
over rounds. Every greedy text is compared with what a daemon without disk, drafts, batches and other clients said alone.
"""

import argparse
import http.client
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAX_TOKENS = 96
TIMEOUT_S = 180
STATES = ["free", "free", "small", "full", "read-only", "none", "file"]
OPENINGS = ["", "You answer in one sentence. ", "You are a patient teacher of small children. " * 12,
            "These are the rules of the house, and they hold for everyone who lives in it. " * 24]  # fmt: skip
QUESTIONS = [
    "What is the capital of France?", "Tell me a story about a fox and a bear.", "How do I boil an egg?",
    "Count from one to thirty.", "Write a Python function that adds two numbers.", "What does 'lucid' mean?",
    "Repeat this: the quick brown fox jumps over the lazy dog, the quick brown fox jumps over the lazy dog.",
    "Give me a list of ten animals.", "Was ist das? Antworte kurz.", "🦊 und 🐻?",
]  # fmt: skip


class Failure(Exception):
    pass


class Daemon:
    """The real binary with some settings, on a port of its own."""

    def __init__(self, binary, models, log, *flags):
        command = [binary, "--host", "127.0.0.1:0", "--models", models, *flags]
        self.log = open(log, "ab")
        self.process = subprocess.Popen([str(c) for c in command], stderr=subprocess.PIPE, env={"HOME": str(models)})
        line = ""
        while "listening on" not in line:
            line = self.process.stderr.readline().decode()
            if not line:
                raise Failure(f"the daemon did not start: {command}, exit code {self.process.wait()}")
            self.log.write(line.encode())
        self.port = int(line.rsplit(":", 1)[1])
        threading.Thread(target=self.copy_log, daemon=True).start()

    def copy_log(self):
        for line in self.process.stderr:
            self.log.write(line)
            self.log.flush()

    def open(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": "application/json"})
        return connection, connection.getresponse()

    def ask(self, method, path, body=None):
        connection, response = self.open(method, path, body)
        data = response.read()
        connection.close()
        return response.status, data.decode()

    def metrics(self):
        sums = {}
        for line in self.ask("GET", "/metrics")[1].splitlines():
            if not line.startswith("#"):
                name, value = re.match(r"([\w:]+)(?:\{.*\})? (\S+)$", line).groups()
                sums[name] = sums.get(name, 0) + float(value)
        return sums

    def usage(self):
        proc = Path(f"/proc/{self.process.pid}")
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        return {
            "files": len(list((proc / "fd").iterdir())),
            "threads": int(status["Threads"]),
            "rss_mib": int(status["VmRSS"].split()[0]) >> 10,
        }

    def end(self, how):
        self.process.send_signal(how)
        return self.process.wait(TIMEOUT_S)


class Disk:
    """The folder of pages and what is wrong with it."""

    def __init__(self, folder):
        self.folder, self.is_mount = folder, False
        folder.mkdir()
        if os.geteuid() == 0 and sys.platform == "linux":
            done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)], capture_output=True)
            self.is_mount = done.returncode == 0
        self.filler = folder / "filler"

    def remount(self, how):
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.folder)], check=True)

    def flags(self, state):
        """Puts the folder into a state; returns the daemon's flags."""
        if self.is_mount:
            self.remount("rw")
        self.filler.unlink(missing_ok=True)
        if state == "none":
            return ["--no-disk"]
        if state == "file":
            file = self.folder.parent / "not-a-folder"
            file.touch()
            return ["--disk", file]
        if state == "small":
            return ["--disk", self.folder, "--disk-size", "2MiB"]
        if self.is_mount and state == "full":
            try:
                # The pages of a round before may have filled it already: then not even this opens.
                with open(self.filler, "wb") as file:
                    while True:
                        file.write(bytes(1 << 16))
                        file.flush()
            except OSError:
                pass
        if self.is_mount and state == "read-only":
            self.remount("ro")
        return ["--disk", self.folder, "--disk-size", "24MiB" if state == "free" else "1GiB"]

    def close(self):
        if self.is_mount:
            subprocess.run(["umount", str(self.folder)], check=True)


class Request:
    """A random request: where it goes, what it says, and what must come back."""

    def __init__(self, rng, models):
        self.model = rng.choice(models)
        self.prompt = rng.choice(OPENINGS) + rng.choice(QUESTIONS)
        self.n_token = rng.choice([1, 2, 7, 16, 40, MAX_TOKENS])
        self.is_greedy = rng.random() < 0.8
        self.streams = rng.random() < 0.7
        self.kind = rng.choice(["chat", "completions", "ollama"])
        self.n = 2 if rng.random() < 0.1 and self.kind != "ollama" else 1
        self.user = f"user-{rng.randrange(5)}"

    def wire(self):
        temperature = 0 if self.is_greedy else 1.1
        if self.kind == "ollama":
            options = {"num_predict": self.n_token, "temperature": temperature, "repeat_penalty": 1.0}
            body = {"model": self.model, "prompt": self.prompt, "raw": True, "options": options}
            return "/api/generate", {**body, "stream": self.streams}
        body = {"model": self.model, "max_tokens": self.n_token, "temperature": temperature, "repeat_penalty": 1.0}
        body |= {"stream": self.streams, "n": self.n, "user": self.user}
        if self.kind == "chat":
            return "/v1/chat/completions", {**body, "messages": [{"role": "user", "content": self.prompt}]}
        return "/v1/completions", {**body, "prompt": self.prompt}

    def key(self):
        return (self.model, self.kind == "chat", self.prompt)

    def texts(self, lines):
        """The choices' texts in an answer's lines, and whether it is whole."""
        texts, whole = [""] * self.n, False
        for line in lines:
            line = line.strip().removeprefix("data: ")
            if not line:
                continue
            if line == "[DONE]":
                return texts, True
            event = json.loads(line)
            if "error" in event:
                raise Failure(f"an answer ended in {event}")
            if self.kind == "ollama":
                texts[0] += event["response"]
                whole = event["done"]
                continue
            for choice in event["choices"]:
                part = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
                texts[choice["index"]] += part.get("content") or ""
            whole = not self.streams
        return texts, whole


class Soak:
    def __init__(self, args, folder):
        self.args, self.folder = args, folder
        self.rng = random.Random(args.seed)
        self.binary = Path(args.mlxrd)
        self.models = folder / "models"
        self.models.mkdir()
        self.names = ["mlxr-small", "mlxr-draft"]
        for file in map(Path, args.model):
            (self.models / file.name).symlink_to(file.resolve())
            self.names.append(file.stem)
        self.disk = Disk(folder / "pages")
        self.log = folder / "daemon.log"
        self.truth = {}
        self.lock = threading.Lock()
        self.counts, self.failures, self.usages = {}, [], []

    def count(self, what, n=1):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + n

    def fail(self, text):
        with self.lock:
            self.failures.append(text)
        print(f"FAILURE {text}", flush=True)

    def learn_truth(self):
        """What each prompt is answered alone."""
        flags = ["--no-disk", "--draft-max", "0", "--parallel", "1", "--max-models", "1"]
        daemon = Daemon(self.binary, self.models, self.log, *flags)
        for model in self.names:
            for prompt in (opening + question for opening in OPENINGS for question in QUESTIONS):
                for kind in ("chat", "completions"):
                    request = Request(random.Random(0), [model])
                    request.prompt, request.kind, request.n_token, request.n = prompt, kind, MAX_TOKENS, 1
                    request.is_greedy, request.streams = True, False
                    status, text = daemon.ask("POST", *request.wire())
                    if status != 200:
                        raise Failure(f"alone, {model}: {status} {text}")
                    self.truth[request.key()] = request.texts([text])[0][0]
        daemon.end(signal.SIGTERM)

    def judge(self, request, texts, is_whole):
        if not request.is_greedy:
            return
        truth = self.truth[request.key()]
        for text in texts:
            # What was cut may end within a character; whoever left has heard a part.
            heard = text.rstrip("\ufffd")
            is_right = truth.startswith(heard)
            if is_whole:
                is_right &= text == truth if request.n_token == MAX_TOKENS else request.n_token < 7 or heard != "" or truth == ""
            if not is_right:
                self.fail(f"{request.wire()}: {text!r} instead of {truth!r}")
        self.count("texts compared", len(texts))

    def client(self, daemon, seed, end, dies):
        """Asks until the end; errors of connections are right only where the daemon is killed."""
        rng = random.Random(seed)
        while time.monotonic() < end and not dies.is_set():
            try:
                self.act(daemon, rng)
            except (OSError, http.client.HTTPException) as error:
                if not dies.is_set():
                    self.fail(f"a request met {error!r}")
                return
            except Failure as error:
                if not dies.is_set():
                    self.fail(str(error))

    def act(self, daemon, rng):
        dice = rng.random()
        if dice < 0.03:
            status, text = daemon.ask("POST", "/api/generate", {"model": rng.choice(self.names), "keep_alive": 0})
            self.count("unloads")
            if status != 200:
                raise Failure(f"unloading: {status} {text}")
            return
        if dice < 0.06:
            wrong = rng.choice([{"model": "none"}, {"messages": 3}, {"model": self.names[0], "messages": [], "n": 99}])
            status, text = daemon.ask("POST", "/v1/chat/completions", wrong)
            self.count("nonsense")
            if not 400 <= status < 500:
                raise Failure(f"{wrong}: {status} {text}")
            return
        request = Request(rng, self.names)
        path, body = request.wire()
        connection, response = daemon.open("POST", path, body)
        try:
            self.hear(rng, request, response)
        finally:
            connection.close()

    def hear(self, rng, request, response):
        if response.status in (429, 503):
            response.read()
            self.count("refused")
            if not response.getheader("Retry-After"):
                raise Failure(f"{response.status} without Retry-After")
            time.sleep(0.2)
            return
        if response.status != 200:
            raise Failure(f"{request.wire()}: {response.status} {response.read()!r}")
        habit = rng.random()
        if habit < 0.1:
            self.count("left at once")
            return
        if not request.streams:
            texts, whole = request.texts([response.read().decode()])
        else:
            lines, limit = [], rng.randrange(1, 30) if habit < 0.3 else 1 << 30
            while (line := response.readline()) and len(lines) < limit:
                lines.append(line.decode())
                if habit > 0.95:
                    time.sleep(0.05)
            texts, whole = request.texts(lines)
            if not whole and len(lines) < limit:
                raise Failure(f"{request.wire()}: the answer broke off")
        self.judge(request, texts, whole)
        self.count("whole" if whole else "left in the middle")

    def round(self, number, seconds):
        rng = self.rng
        state = rng.choice(STATES)
        flags = self.disk.flags(state)
        flags += ["--kv-tokens", rng.choice([2048, 4096, 65536])]
        flags += ["--max-models", rng.choice([1, 2, 3]), "--parallel", rng.choice([2, 8, 16])]
        flags += ["--memory", "400MiB"] if rng.random() < 0.3 and not self.args.model else []
        flags += ["--queue", rng.choice([4, 256]), "--client-limit", rng.choice([0, 4])]
        flags += ["--limit", "mlxr-small:draft=mlxr-draft"] if rng.random() < 0.5 else []
        kills = rng.random() < 0.4
        daemon = Daemon(self.binary, self.models, self.log, *flags)
        print(f"round {number}: disk {state}, {'killed' if kills else 'silent'} at its end, {flags}", flush=True)
        before = daemon.usage()
        dies, end = threading.Event(), time.monotonic() + seconds
        seeds = [rng.getrandbits(32) for _ in range(self.args.clients)]
        clients = [threading.Thread(target=self.client, args=(daemon, seed, end, dies)) for seed in seeds]
        for client in clients:
            client.start()
        while any(client.is_alive() for client in clients):
            time.sleep(0.5)
            if daemon.process.poll() is not None:
                self.fail(f"the daemon ended by itself: {daemon.process.returncode}")
                break
            status, text = daemon.ask("GET", "/health")
            if status != 200:
                self.fail(f"health: {status} {text}")
            if kills and time.monotonic() > end - seconds / 3:
                dies.set()
                daemon.end(signal.SIGKILL)
                self.count("kills")
                break
            if time.monotonic() > end + TIMEOUT_S:
                self.fail("clients hang")
                break
        for client in clients:
            client.join(TIMEOUT_S)
        if not kills and daemon.process.poll() is None:
            self.silence(daemon, before)
            if (code := daemon.end(signal.SIGTERM)) != 0:
                self.fail(f"SIGTERM: exit code {code}")
        self.count("rounds")

    def silence(self, daemon, before):
        """Nothing may be held when nobody asks, and without models as little as at the start."""
        held = ["vllm:num_requests_running", "vllm:num_requests_waiting", "mlxr:kv_pages_used"]
        self.wait(daemon, lambda: not any(self.left(daemon, held).values()), lambda: self.left(daemon, held))
        busy = daemon.usage()
        for model in self.names:
            daemon.ask("POST", "/api/generate", {"model": model, "keep_alive": 0})
        taken = ["mlxr:memory_bytes"]
        self.wait(daemon, lambda: not any(self.left(daemon, taken).values()), lambda: self.left(daemon, taken))
        # Connections and threads that wait for work end by themselves; allocators keep some memory.
        room = {"files": 4, "threads": 4, "rss_mib": 200}
        less = lambda: all(n <= before[what] + room[what] for what, n in daemon.usage().items())
        self.wait(daemon, less, lambda: f"{daemon.usage()}, at the start {before}")
        after = daemon.usage()
        self.usages.append((before, busy, after))
        print(f"  start {before}, loaded {busy}, unloaded {after}", flush=True)

    def left(self, daemon, names):
        metrics = daemon.metrics()
        return {name: metrics.get(name, 0) for name in names}

    def wait(self, daemon, holds, what):
        end = time.monotonic() + 60
        while not holds():
            if time.monotonic() > end:
                self.fail(f"left over: {what()}")
                return
            time.sleep(0.2)

    def run(self):
        start = time.monotonic()
        self.learn_truth()
        print(f"{len(self.truth)} texts alone in {time.monotonic() - start:.0f} s", flush=True)
        end = time.monotonic() + self.args.minutes * 60
        number = 0
        while (left := end - time.monotonic()) > 5:
            number += 1
            self.round(number, min(self.args.round_seconds, left))
        parts = [str(path) for path in self.folder.rglob("*.part")]
        lost = self.counts.get("kills", 0)
        if len(parts) > 2 * lost:
            self.fail(f"unfinished files: {parts}")
        self.disk.close()
        return self.report(time.monotonic() - start)

    def report(self, seconds):
        report = {"seed": self.args.seed, "seconds": round(seconds), "counts": self.counts}
        report["usages"] = self.usages
        report["failures"] = self.failures
        print(json.dumps(report, indent=1, ensure_ascii=False))
        if self.args.json:
            Path(self.args.json).write_text(json.dumps(report, indent=1, ensure_ascii=False))
        return len(self.failures)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mlxrd", default=ROOT / "target/release/mlxrd")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--round-seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--model", action="append", default=[], help="a .gguf file besides the built-in models")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--json", help="where the report goes")
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="mlxr-soak-"))
    failures = Soak(args, folder).run()
    if failures:
        raise SystemExit(f"{failures} failures; the daemons' log: {folder / 'daemon.log'}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
