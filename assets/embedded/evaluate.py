"""Asks a running server: sample chats, and tool calls on held-out dialogues.

    mlx-run serve &
    python3 evaluate.py --model mlxr-small --data DATA --out samples.json

Any server of OpenAI's API does (llama-server with --jinja); every reply is greedy.
"""

import argparse
import json
import os
import re
import urllib.request

from build import template

CHATS = [
    ["Hello!", "Who are you?", "What can you do?"],
    ["What is the capital of France?", "And of Japan?"],
    ["What does generous mean?"],
    ["What is 7 + 5?"],
    ["My name is Anna.", "What is my name?"],
    ["How do I extract a tar file?"],
    ["Tell me a story about a dragon."],
    ["Tell me a joke"],
    ["Why is the sky blue?"],
    ["Write a Python function that adds two numbers."],
    ["How do I get a larger model?"],
    ["Who won the football match yesterday?"],
    ["Name three kinds of bird."],
    ["I feel sad today.", "My cat is sick."],
    ["What is the opposite of hot?"],
    ["Explain quantum physics to me."],
    ["Tom is in the kitchen. Mary is in the garden. Where is Mary?"],
    ["What does stubborn mean?"],
    ["Name three kinds of drink."],
    ["How do I rename a branch in Git?"],
    ["Thanks, bye!"],
]
WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "Get the current weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "Name of the city"}}, "required": ["city"]}}}
LIBRARY = {"type": "function", "function": {
    "name": "borrow_book", "description": "Borrow a book from the library",
    "parameters": {"type": "object", "properties": {
        "title": {"type": "string", "description": "Title of the book"},
        "weeks": {"type": "integer", "description": "Number of weeks"}}, "required": ["title", "weeks"]}}}
CALLS = [([WEATHER], "What is the weather in Lisbon?"), ([WEATHER, LIBRARY], "I want to borrow Treasure Island for 3 weeks"),
         ([WEATHER, LIBRARY], "Hello, who are you?"), ([LIBRARY, WEATHER], "Is it raining in Oslo?")]


class Server:
    def __init__(self, url, model):
        self.url, self.model = url, model

    def post(self, path, **body):
        data = json.dumps({"model": self.model, "temperature": 0, "seed": 1, **body}).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["choices"][0]


def ask(server, **body):
    return server.post("/v1/chat/completions", max_tokens=300, **body)["message"]


def chats(server):
    out = []
    for turns in CHATS:
        messages = []
        for text in turns:
            messages.append({"role": "user", "content": text})
            messages.append({"role": "assistant", "content": ask(server, messages=messages)["content"]})
        out.append({"messages": messages})
    for offered, text in CALLS:
        reply = ask(server, messages=[{"role": "user", "content": text}], tools=offered)
        calls = [{"name": c["function"]["name"], "arguments": c["function"]["arguments"]} for c in reply.get("tool_calls") or []]
        out.append({"tools": offered, "messages": [{"role": "user", "content": text},
                    {"role": "assistant", "content": reply.get("content") or "", "tool_calls": calls}]})
    return out


def parse(text):
    """The first tool call in a reply, None without one, {} where it is not valid JSON."""
    found = re.search(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", text, re.S)
    if not found:
        return {} if "<tool_call>" in text else None
    try:
        return json.loads(found.group(1))
    except json.JSONDecodeError:
        return {}


def tool_accuracy(server, talks, limit):
    """Each assistant turn of held-out conversations, given the true text before it: is a call made
    exactly where the corpus makes one, is it the right function, are all arguments right?"""
    render = template()
    n = {"turns": 0, "calls": 0, "call_made": 0, "valid_json": 0, "right_tool": 0, "right_call": 0, "arguments": 0,
         "right_arguments": 0, "talk": 0, "needless_call": 0}
    for talk in talks:
        if n["turns"] >= limit:
            break
        for i, message in enumerate(talk["messages"]):
            if message["role"] != "assistant" or n["turns"] >= limit:
                continue
            prompt = render.render(tools=talk.get("tools"), messages=talk["messages"][:i], add_generation_prompt=True)
            if len(prompt) > 7000:
                continue
            reply = server.post("/v1/completions", prompt=prompt, max_tokens=160 if message.get("tool_calls") else 8)
            got = parse(reply["text"])
            n["turns"] += 1
            if not message.get("tool_calls"):
                n["talk"] += 1
                n["needless_call"] += got is not None
                continue
            want = message["tool_calls"][0]
            n["calls"] += 1
            n["call_made"] += got is not None
            n["valid_json"] += bool(got)
            if not got:
                n["arguments"] += len(want["arguments"])
                continue
            n["right_tool"] += got.get("name") == want["name"]
            given = got.get("arguments") if isinstance(got.get("arguments"), dict) else {}
            n["right_call"] += got.get("name") == want["name"] and given == want["arguments"]
            n["arguments"] += len(want["arguments"])
            n["right_arguments"] += sum(given.get(k) == v for k, v in want["arguments"].items())
    share = lambda a, b: round(n[a] / max(1, n[b]), 4)
    return {**n, "share_call_made": share("call_made", "calls"), "share_right_tool": share("right_tool", "calls"),
            "share_right_arguments": share("right_arguments", "arguments"), "share_right_call": share("right_call", "calls"),
            "share_needless_call": share("needless_call", "talk")}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", default="http://127.0.0.1:11434")
    parser.add_argument("--model", default="mlxr-small")
    parser.add_argument("--data", help="folder of build.py, for the held-out conversations")
    parser.add_argument("--limit", type=int, default=400, help="assistant turns per set")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    server = Server(args.url, args.model)
    report = {"chats": chats(server)}
    if args.data:
        talks = {}
        for pool in ("sgd", "tools"):
            talks |= json.load(open(os.path.join(args.data, f"checks-{pool}.json")))
        report["tool_accuracy"] = {k: tool_accuracy(server, v, args.limit) for k, v in talks.items()}
        print(json.dumps(report["tool_accuracy"], indent=1))
    json.dump(report, open(args.out, "w"), indent=1, ensure_ascii=False)
    for talk in report["chats"]:
        print(*(f"{m['role'][:4]}: {m['content']} {m.get('tool_calls', '') or ''}" for m in talk["messages"]), sep="\n", end="\n\n")


if __name__ == "__main__":
    main()
