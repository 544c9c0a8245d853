"""The `openai` package, unchanged."""

import asyncio
import json
import re
import typing

import openai
import pydantic


def connect(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120)


def say(text):
    return [{"role": "user", "content": text}]


def test_models(client, model):
    listed = client.models.list()
    assert model in [m.id for m in listed.data], listed
    assert client.models.retrieve(model).id == model


def test_chat(client, model):
    reply = client.chat.completions.create(model=model, messages=say("Say @[hello]@"), max_tokens=8)
    assert reply.object == "chat.completion" and reply.model == model
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].finish_reason in ("stop", "length")
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens > 0


def test_chat_stream(client, model):
    whole = client.chat.completions.create(model=model, messages=say("Tell a story"), max_tokens=24, temperature=0)
    stream = client.chat.completions.create(
        model=model,
        messages=say("Tell a story"),
        max_tokens=24,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content, (text, whole)
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason


def test_seed(client, model):
    ask = lambda seed: client.chat.completions.create(
        model=model, messages=say("Invent a name"), max_tokens=16, temperature=1.2, seed=seed
    ).choices[0].message.content
    assert ask(7) == ask(7)


def test_n_and_logprobs(client, model):
    reply = client.chat.completions.create(
        model=model, messages=say("Tell"), max_tokens=4, n=2, logprobs=True, top_logprobs=3, temperature=0
    )
    assert [c.index for c in reply.choices] == [0, 1]
    for choice in reply.choices:
        for token in choice.logprobs.content:
            assert token.logprob <= 0 and len(token.top_logprobs) == 3
            assert token.top_logprobs[0].logprob >= token.logprob - 1e-4


def test_completion(client, model):
    reply = client.completions.create(model=model, prompt="Once upon a time", max_tokens=8, temperature=0)
    assert reply.object == "text_completion" and reply.choices[0].text
    stream = client.completions.create(
        model=model, prompt="Once upon a time", max_tokens=8, temperature=0, stream=True
    )
    assert "".join(c.choices[0].text for c in stream) == reply.choices[0].text


def test_async(client, model):
    async def ask():
        async with openai.AsyncOpenAI(base_url=client.base_url, api_key="none") as aio:
            one = lambda i: aio.chat.completions.create(model=model, messages=say(f"Count {i}"), max_tokens=8)
            return await asyncio.gather(*(one(i) for i in range(4)))

    assert len(asyncio.run(ask())) == 4


def test_errors(client, model):
    for change, kind, param in [
        ({"model": "no-such-model"}, openai.NotFoundError, "model"),
        ({"temperature": -1}, openai.BadRequestError, "temperature"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "x"}}}},
         openai.BadRequestError, "response_format"),
    ]:
        try:
            client.chat.completions.create(**{"model": model, "messages": say("x"), "max_tokens": 1, **change})
        except kind as error:
            assert error.param == param, (change, error.body)
        else:
            raise AssertionError(f"{change} was accepted")


class Step(pydantic.BaseModel):
    kind: typing.Literal["add", "move"]
    n: typing.Annotated[int, pydantic.Field(ge=0, le=99)]


class Plan(pydantic.BaseModel):
    """Ends soon, whatever the model thinks of it."""

    title: typing.Annotated[str, pydantic.Field(max_length=12)]
    steps: typing.Annotated[list[Step], pydantic.Field(max_length=3)]
    done: bool | None


def test_parse(client, model):
    for temperature in (0, 1.5):
        ask = {"model": model, "messages": say("Make a plan as JSON"), "temperature": temperature, "seed": 3}
        ask["reasoning_effort"] = "none"
        reply = client.chat.completions.parse(response_format=Plan, **ask)
        assert reply.choices[0].finish_reason == "stop" and isinstance(reply.choices[0].message.parsed, Plan), reply
        with client.chat.completions.stream(response_format=Plan, **ask) as stream:
            for _ in stream:
                pass
            final = stream.get_final_completion().choices[0].message.parsed
        assert final == reply.choices[0].message.parsed, (final, reply)


def test_json_object_and_more(client, model):
    ask = lambda **form: client.chat.completions.create(
        model=model, messages=say("Answer"), max_tokens=300, temperature=0, reasoning_effort="none", **form
    ).choices[0]
    reply = ask(response_format={"type": "json_object"})
    assert reply.finish_reason == "length" or isinstance(json.loads(reply.message.content), dict), reply
    assert ask(extra_body={"guided_choice": ["yes", "no"]}).message.content in ("yes", "no")
    assert re.fullmatch("[0-9]{4}", ask(extra_body={"structured_outputs": {"regex": "[0-9]{4}"}}).message.content)
    assert re.fullmatch("a{2,5}b", ask(extra_body={"grammar": 'root ::= "a"{2,5} "b"'}).message.content)
    reply = client.completions.create(model=model, prompt="x", max_tokens=50, extra_body={"guided_regex": "[ab]{3}"})
    assert re.fullmatch("[ab]{3}", reply.choices[0].text), reply


def test_required_tool(client, model):
    for choice in ("required", {"type": "function", "function": {"name": "add"}}):
        reply = client.chat.completions.create(
            model=model, messages=say("What is 1 + 2?"), tools=[ADD], tool_choice=choice, max_tokens=400, temperature=0,
            reasoning_effort="none",
        ).choices[0]
        assert reply.finish_reason in ("tool_calls", "length"), reply
        if reply.finish_reason == "tool_calls":
            call = reply.message.tool_calls[0].function
            arguments = json.loads(call.arguments)
            assert call.name == "add" and sorted(arguments) == ["a", "b"], reply
            assert all(isinstance(n, int) for n in arguments.values())


ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers",
        "parameters": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}},
    },
}
CALL = '@[<think>I add.</think><tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>]@'


def test_script_text(client, model):
    reply = client.chat.completions.create(model=model, messages=say("Say @[Grüße 🦜]@"))
    assert reply.choices[0].message.content == "Grüße 🦜" and reply.choices[0].finish_reason == "stop"
    reply = client.chat.completions.create(model=model, messages=say("@[a STOP b]@"), stop=["STOP"])
    assert reply.choices[0].message.content == "a "


def test_script_tools(client, model):
    messages = say(CALL)
    reply = client.chat.completions.create(model=model, messages=messages, tools=[TOOL])
    message = reply.choices[0].message
    assert reply.choices[0].finish_reason == "tool_calls", reply
    assert message.tool_calls[0].function.name == "add"
    assert json.loads(message.tool_calls[0].function.arguments) == {"a": 1, "b": 2}
    assert message.reasoning_content == "I add."
    answer = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "@[It is 3.]@"}
    messages += [message.model_dump(exclude_none=True), answer]
    reply = client.chat.completions.create(model=model, messages=messages, tools=[TOOL])
    assert reply.choices[0].message.content == "It is 3.", reply


def test_script_stream_helper(client, model):
    with client.chat.completions.stream(model=model, messages=say(CALL), tools=[TOOL]) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].message.tool_calls[0].function.name == "add", final
