"""The Schema-Guided Dialogue corpus as conversations with tools.

Every service intent becomes a function with a JSON schema, every service call of the corpus a
tool call, its results the tool response. Names and descriptions vary over the corpus's own
paraphrased schemas (SGD-X), so that the model reads the schema instead of learning names.
"""

import hashlib
import json
import random
import re

import sources

TODAY = "Today is Friday, 2019-03-01."
TOOL_BUDGET_CHARS = 3400
RESULT_BUDGET_CHARS = 900


def snake(name):
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def load_schemas(tree, split):
    """{service: [variant 0 (original), 1 .. 5 (SGD-X)]}; slots and intents of variants align by position."""
    out = {}
    for version in range(6):
        under = f"{split}/schema.json" if version == 0 else f"sgd_x/data/v{version}/{split}/schema.json"
        for service in json.loads(next(iter(tree.read(under, lambda p: True)))[1]):
            name = service["service_name"] if version == 0 else service["service_name"][:-1]
            out.setdefault(name, []).append(service)
    return out


class Functions:
    """The functions of one conversation: a schema variant and a naming style."""

    def __init__(self, schemas, variant, snake_case):
        self.schemas, self.variant, self.snake_case = schemas, variant, snake_case

    def shown(self, service, kind):
        """Original name -> row of the variant; `kind` is "intents" or "slots"."""
        return dict(zip([row["name"] for row in self.schemas[service][0][kind]], self.schemas[service][self.variant][kind]))

    def names(self, service):
        """Original slot name -> shown name."""
        return {name: row["name"] for name, row in self.shown(service, "slots").items()}

    def value(self, service, slot, value):
        row = next((s for s in self.schemas[service][0]["slots"] if s["name"] == slot), None)
        kinds = row["possible_values"] if row else []
        if kinds and all(k.isdigit() for k in kinds) and value.isdigit():
            return int(value)
        if kinds and set(kinds) <= {"True", "False"} and value in kinds:
            return value == "True"
        return value

    def function_name(self, service, intent):
        name = self.shown(service, "intents")[intent]["name"]
        return snake(name) if self.snake_case else name

    def describe(self, service, intent):
        """The OpenAI-style function description of one intent."""
        names = self.names(service)
        base = next(i for i in self.schemas[service][0]["intents"] if i["name"] == intent)
        rows, slots = {row["name"]: row for row in self.schemas[service][0]["slots"]}, self.shown(service, "slots")
        properties = {}
        for slot in list(base["required_slots"]) + list(base["optional_slots"]):
            a, b = rows[slot], slots[slot]
            kinds = [self.value(service, slot, k) for k in a["possible_values"]] if a["is_categorical"] else []
            kind = "string"
            if kinds and all(isinstance(k, bool) for k in kinds):
                kind, kinds = "boolean", []
            elif kinds and all(isinstance(k, int) for k in kinds):
                kind, kinds = "integer", []
            properties[names[slot]] = {"type": kind, "description": b["description"]} | ({"enum": kinds} if kinds else {})
        return {"type": "function", "function": {
            "name": self.function_name(service, intent), "description": self.shown(service, "intents")[intent]["description"],
            "parameters": {"type": "object", "properties": properties,
                           "required": [names[s] for s in base["required_slots"]]}}}

    def results(self, service, method, rows):
        names = self.names(service)
        rows = [{names.get(k, k): self.value(service, k, v) for k, v in row.items()} for row in rows]
        transactional = next(i for i in self.schemas[service][0]["intents"] if i["name"] == method)["is_transactional"]
        if transactional and len(rows) == 1:
            return json.dumps(rows[0], ensure_ascii=False)
        shown = rows[:4]
        while len(shown) > 1 and len(json.dumps(shown)) > RESULT_BUDGET_CHARS:
            shown.pop()
        return json.dumps({"count": len(rows), "results": shown}, ensure_ascii=False)


def conversation(dialogue, functions, rng, services):
    """One dialogue as {"tools", "messages"}; cut before a call whose function would not fit the tool budget."""
    messages, tools, used = [], {}, 0
    for turn in dialogue["turns"]:
        text = sources.clean(turn["utterance"])
        if turn["speaker"] == "USER":
            messages.append({"role": "user", "content": text})
            continue
        for frame in turn["frames"]:
            call = frame.get("service_call")
            if not call:
                continue
            service, method = frame["service"], call["method"]
            key = (service, method)
            if key not in tools:
                described = functions.describe(service, method)
                if used + len(json.dumps(described)) > TOOL_BUDGET_CHARS or \
                        any(described["function"]["name"] == t["function"]["name"] for t in tools.values()):
                    messages.pop()
                    return finish(messages, tools, functions, rng, services, used)
                tools[key] = described
                used += len(json.dumps(described))
            names = functions.names(service)
            given = {names[k]: functions.value(service, k, v) for k, v in call["parameters"].items() if v != "dontcare"}
            order = tools[key]["function"]["parameters"]["properties"]
            arguments = {k: given[k] for k in order if k in given}
            messages.append({"role": "assistant", "content": "", "tool_calls": [
                {"name": functions.function_name(service, method), "arguments": arguments}]})
            messages.append({"role": "tool", "content": functions.results(service, method, frame["service_results"])})
        messages.append({"role": "assistant", "content": text})
    return finish(messages, tools, functions, rng, services, used)


def finish(messages, tools, functions, rng, services, used):
    """Adds unused functions of the same and of other services as distractors, and the system message."""
    extra = [(s, i["name"]) for s in services for i in functions.schemas[s][0]["intents"] if (s, i["name"]) not in tools]
    others = rng.sample(sorted(functions.schemas), min(3, len(functions.schemas)))
    extra += [(s, i["name"]) for s in others for i in functions.schemas[s][0]["intents"] if s not in services]
    limit = len(tools) + rng.choice((0, 1, 1, 2, 3))
    for key in extra:
        described = functions.describe(*key)
        size = len(json.dumps(described))
        clash = any(described["function"]["name"] == t["function"]["name"] for t in tools.values())
        if len(tools) < limit and used + size <= TOOL_BUDGET_CHARS and not clash and key not in tools:
            tools[key] = described
            used += size
    listed = list(tools.values())
    rng.shuffle(listed)
    system = rng.choice(("You are a helpful assistant. ", "", "", "You help people with everyday tasks. ")) + TODAY
    return {"tools": listed, "messages": [{"role": "system", "content": system}] + messages}


def conversations(root, splits, variants, copies, seed, limit=None):
    """All dialogues of the splits, `copies` times with different schema variants and distractors."""
    def functions(schemas, rng, key):
        return Functions(schemas, rng.choice(variants), rng.random() < 0.5)

    return told(root, splits, functions, copies, seed, limit)


def told(root, splits, functions, copies, seed, limit=None):
    """All dialogues of the splits, `copies` times with functions and distractors of their own."""
    tree = sources.git(root, "sgd")
    for split in splits:
        schemas = load_schemas(tree, split)
        count = 0
        for _, text in tree.read(split + "/", lambda p: "/dialogues_" in p):
            for dialogue in json.loads(text):
                for copy in range(copies):
                    key = f"{seed}/{split}/{dialogue['dialogue_id']}/{copy}"
                    rng = random.Random(hashlib.sha256(key.encode()).digest())
                    talk = conversation(dialogue, functions(schemas, rng, key), rng, dialogue["services"])
                    if any(m["role"] == "tool" for m in talk["messages"]):
                        yield talk
                        count += 1
                        if limit and count >= limit:
                            return
