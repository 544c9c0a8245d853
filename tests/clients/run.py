#!/usr/bin/env python3
"""The official clients `openai`, `ollama` and `anthropic` against a running server.

    python3 -m venv venv && venv/bin/pip install openai ollama anthropic
    venv/bin/python tests/clients/run.py http://127.0.0.1:11434 MODEL [--script]

With `--script` the server has the fake model of crates/server/tests, which answers a prompt that holds `@[text]@` by
`text`, so that answers are known. Without, MODEL is a real one, and only the shape of its answers is checked.
"""

import sys
import traceback

import anthropic_client
import ollama_client
import openai_client


def main():
    url, model = sys.argv[1].rstrip("/"), sys.argv[2]
    scripted = "--script" in sys.argv[3:]
    failed = 0
    for module in (openai_client, ollama_client, anthropic_client):
        client = module.connect(url)
        for name, test in vars(module).items():
            if not name.startswith("test_") or (name.startswith("test_script") and not scripted):
                continue
            try:
                test(client, model)
                print(f"ok      {module.__name__}.{name}")
            except Exception:
                failed += 1
                print(f"FAILED  {module.__name__}.{name}")
                traceback.print_exc()
    if failed:
        sys.exit(f"{failed} tests failed")
    print("all passed")


main()
