#!/usr/bin/env python3
"""Golden renderings of chat templates, made by Jinja2 in the sandbox that `transformers` gives to templates.

    python3 -m venv venv && venv/bin/pip install jinja2==3.1.6
    venv/bin/python xtask/golden/templates.py crates/text/tests/data/chat [OUT.json]

Reads every `*.jinja` of the folder (and `cases.json`, the conversations) and writes `golden.json`: for each pair of a
template and a conversation the text, or that it is an error and, when the template raised it, the message.
The clock stands at 2026-11-22 09:08:07. Any folder of templates will do, so that the templates which vendors publish
can be compared without being copied into the repository: give the folder, and `MLXR_FIXTURES/templates` for OUT.
"""

import json
import pathlib
import sys
from datetime import datetime

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime(2026, 11, 22, 9, 8, 7)


class Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what the assistant wrote; it renders as its body."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("body"), [], [], body).set_lineno(line)

    def body(self, caller):
        return caller()


def environment():
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


def render(source, case):
    try:
        text = environment().from_string(source).render(
            messages=case["messages"],
            tools=case.get("tools"),
            documents=case.get("documents"),
            add_generation_prompt=case.get("add_generation_prompt", True),
            bos_token="<bos>",
            eos_token="<eos>",
            **case.get("extra", {}),
        )
        return {"text": text}
    except jinja2.exceptions.TemplateError as error:
        raised = type(error) is jinja2.exceptions.TemplateError
        return {"raised": str(error)} if raised else {"error": f"{type(error).__name__}: {error}"}
    except Exception as error:  # a template may fail in any way that Python can
        return {"error": f"{type(error).__name__}: {error}"}


def main():
    folder = pathlib.Path(sys.argv[1])
    out = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else folder / "golden.json"
    cases = json.loads((pathlib.Path(__file__).parents[2] / "crates/text/tests/data/chat/cases.json").read_text())
    golden = []
    for path in sorted(folder.glob("*.jinja")):
        source = path.read_text()
        for case in cases:
            golden.append({"template": path.name, "case": case["name"], **render(source, case)})
    rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in golden)
    out.write_text(f"[\n{rows}\n]\n")
    texts = sum("text" in row for row in golden)
    print(f"{out}: {len(golden)} rows, {texts} texts, {len(golden) - texts} errors")


main()
