"""The `anthropic` package, unchanged."""

import anthropic


def connect(url):
    return anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=120)


def say(text):
    return [{"role": "user", "content": text}]


# Newer versions of the package leave it out.
GREEDY = {"extra_body": {"temperature": 0}}
TOOL = {
    "name": "add",
    "description": "Adds two numbers",
    "input_schema": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
}


def test_message(client, model):
    reply = client.messages.create(model=model, max_tokens=8, messages=say("Tell a story"), system="Be short.")
    assert reply.type == "message" and reply.role == "assistant" and reply.model == model
    assert reply.stop_reason in ("end_turn", "max_tokens")
    assert reply.usage.input_tokens + reply.usage.cache_read_input_tokens > 0 and 0 < reply.usage.output_tokens <= 8


def test_stream(client, model):
    whole = client.messages.create(model=model, max_tokens=24, messages=say("Tell a story"), **GREEDY)
    with client.messages.stream(model=model, max_tokens=24, messages=say("Tell a story"), **GREEDY) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == "".join(block.text for block in whole.content if block.type == "text")
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)


def test_count(client, model):
    short = client.messages.count_tokens(model=model, messages=say("one"))
    long = client.messages.count_tokens(model=model, messages=say("one two three four"), system="Count.")
    assert 0 < short.input_tokens < long.input_tokens


def test_required_tool(client, model):
    for choice in ({"type": "any"}, {"type": "tool", "name": "add"}):
        reply = client.messages.create(
            model=model, max_tokens=400, messages=say("What is 1 + 2?"), tools=[TOOL], tool_choice=choice, **GREEDY
        )
        calls = [block for block in reply.content if block.type == "tool_use"]
        assert reply.stop_reason == "max_tokens" or (calls and calls[0].name == "add"), reply
        for call in calls:
            assert sorted(call.input) == ["a", "b"] and all(isinstance(n, int) for n in call.input.values())


def test_errors(client, model):
    for change, kind in [
        ({"model": "no-such-model"}, anthropic.NotFoundError),
        ({"messages": []}, anthropic.BadRequestError),
        ({"extra_body": {"temperature": -1}}, anthropic.BadRequestError),
        ({"tool_choice": {"type": "any"}}, anthropic.BadRequestError),
    ]:
        try:
            client.messages.create(**{"model": model, "messages": say("x"), "max_tokens": 1, **change})
        except kind as error:
            assert error.body["type"] == "error" and error.body["error"]["message"], error.body
        else:
            raise AssertionError(f"{change} was accepted")


CALL = '@[<think>I add.</think><tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>]@'


def test_script_text(client, model):
    reply = client.messages.create(model=model, max_tokens=50, messages=say("Say @[Grüße 🦜]@"))
    assert reply.content[0].text == "Grüße 🦜" and reply.stop_reason == "end_turn"
    reply = client.messages.create(model=model, max_tokens=50, messages=say("@[a STOP b]@"), stop_sequences=["STOP"])
    assert (reply.content[0].text, reply.stop_reason, reply.stop_sequence) == ("a ", "stop_sequence", "STOP")


def test_script_tools(client, model):
    messages = say(CALL)
    thinking = {"type": "enabled", "budget_tokens": 1024}
    ask = {"model": model, "max_tokens": 200, "tools": [TOOL]}
    reply = client.messages.create(messages=messages, thinking=thinking, **ask)
    assert reply.stop_reason == "tool_use", reply
    assert [block.type for block in reply.content] == ["thinking", "tool_use"]
    assert reply.content[0].thinking == "I add." and reply.content[1].input == {"a": 1, "b": 2}
    result = {"type": "tool_result", "tool_use_id": reply.content[1].id, "content": [{"type": "text", "text": "@[It is 3.]@"}]}
    messages += [{"role": "assistant", "content": reply.content}, {"role": "user", "content": [result]}]
    assert client.messages.create(messages=messages, **ask).content[0].text == "It is 3."
    with client.messages.stream(messages=say(CALL), thinking=thinking, **ask) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_message()
    assert "input_json" in kinds and "thinking" in kinds, kinds
    assert final.content[1].input == {"a": 1, "b": 2} and final.stop_reason == "tool_use"
