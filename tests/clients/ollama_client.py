"""The `ollama` package, unchanged."""

import asyncio
import json
import typing

import ollama
import pydantic


def connect(url):
    return ollama.Client(host=url, timeout=120)


def say(text):
    return [{"role": "user", "content": text}]


def test_list_show_ps(client, model):
    listed = client.list()
    assert model in [m.model for m in listed.models], listed
    assert listed.models[0].details.format
    shown = client.show(model)
    assert shown.details and shown.modelinfo and shown.capabilities, shown
    client.generate(model=model)
    assert model in [m.model for m in client.ps().models]


def test_chat(client, model):
    reply = client.chat(model=model, messages=say("Say @[hello]@"), options={"num_predict": 8})
    assert reply.done and reply.done_reason in ("stop", "length")
    assert reply.message.role == "assistant"
    assert reply.total_duration > 0 and reply.prompt_eval_count > 0 and reply.eval_count > 0


def test_chat_stream(client, model):
    ask = lambda stream: client.chat(
        model=model, messages=say("Tell a story"), options={"num_predict": 24, "temperature": 0}, stream=stream
    )
    whole, parts = ask(False), list(ask(True))
    assert "".join(p.message.content or "" for p in parts) == whole.message.content
    assert [p.done for p in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count == whole.eval_count


def test_generate(client, model):
    ask = lambda stream: client.generate(
        model=model, prompt="Once upon a time", raw=True, options={"num_predict": 8, "temperature": 0}, stream=stream
    )
    whole, parts = ask(False), list(ask(True))
    assert whole.response and "".join(p.response for p in parts) == whole.response
    again = client.generate(model=model, prompt="go on", options={"num_predict": 2})
    assert again.context


class Pet(pydantic.BaseModel):
    kind: typing.Literal["cat", "dog"]
    name: typing.Annotated[str, pydantic.Field(max_length=10)]
    age: typing.Annotated[int, pydantic.Field(ge=0, le=30)] | None


def test_format(client, model):
    schema = Pet.model_json_schema()
    for temperature in (0, 1.2):
        options = {"temperature": temperature, "seed": 1}
        ask = {"model": model, "format": schema, "options": options, "think": False}
        reply = client.chat(messages=say("Name a pet as JSON"), **ask)
        assert reply.done_reason == "stop" and Pet.model_validate_json(reply.message.content)
        parts = client.generate(prompt="A pet", stream=True, **ask)
        assert Pet.model_validate_json("".join(part.response for part in parts))
    options = {"num_predict": 200, "temperature": 0}
    reply = client.generate(model=model, prompt="x", format="json", options=options, think=False)
    assert reply.done_reason == "length" or isinstance(json.loads(reply.response), dict), reply


def test_seed(client, model):
    options = {"num_predict": 12, "temperature": 1.1, "seed": 5}
    ask = lambda: client.generate(model=model, prompt="Invent", raw=True, options=options).response
    assert ask() == ask()


def test_async(client, model):
    async def ask():
        aio = ollama.AsyncClient(host=str(client._client.base_url))
        one = lambda i: aio.chat(model=model, messages=say(f"Count {i}"), options={"num_predict": 8})
        return await asyncio.gather(*(one(i) for i in range(4)))

    assert len(asyncio.run(ask())) == 4


def test_errors(client, model):
    for ask, status in [
        (lambda: client.chat(model="no-such-model", messages=say("x")), 404),
        (lambda: client.show("no-such-model"), 404),
        (lambda: client.chat(model=model, messages=say("x"), format={"type": "thing"}), 400),
        (lambda: client.chat(model=model, messages=say("x"), options={"temperature": -1}), 400),
    ]:
        try:
            ask()
        except ollama.ResponseError as error:
            assert error.status_code == status and error.error, error
        else:
            raise AssertionError("was accepted")


def test_script_text(client, model):
    assert client.chat(model=model, messages=say("Say @[Grüße 🦜]@")).message.content == "Grüße 🦜"
    parts = client.chat(model=model, messages=say("Say @[Grüße 🦜]@"), stream=True)
    assert "".join(p.message.content for p in parts) == "Grüße 🦜"


def add(a: int, b: int) -> int:
    """Adds two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return a + b


def test_script_tools_and_thinking(client, model):
    call = '@[<think>I add.</think><tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>]@'
    reply = client.chat(model=model, messages=say(call), tools=[add], think=True)
    assert reply.message.thinking == "I add.", reply
    used = reply.message.tool_calls[0].function
    assert (used.name, add(**used.arguments)) == ("add", 3)
    messages = say(call) + [reply.message, {"role": "tool", "tool_name": "add", "content": "@[It is 3.]@"}]
    assert client.chat(model=model, messages=messages, tools=[add]).message.content == "It is 3."
