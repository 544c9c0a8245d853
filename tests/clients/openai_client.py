"""The `openai` package, unchanged."""

import asyncio
import json

import openai


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
        ({"response_format": {"type": "json_object"}}, openai.BadRequestError, "response_format"),
    ]:
        try:
            client.chat.completions.create(**{"model": model, "messages": say("x"), "max_tokens": 1, **change})
        except kind as error:
            assert error.param == param, (change, error.body)
        else:
            raise AssertionError(f"{change} was accepted")


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
