"""anthropic for Python."""

from __future__ import annotations

import json

import anthropic
from probing import ADAPTER, HELLO, KEY, URL, WEATHER, check, column, main

client = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0, timeout=300)
TOOL = {"name": "weather", "description": "The weather of a city", "input_schema": WEATHER}


@column("chat")
def chat() -> None:
    for model in ("base", ADAPTER):
        done = client.messages.create(model=model, max_tokens=8, messages=HELLO)
        check(done.content[0].text and done.usage.output_tokens > 0, done)
    done = client.messages.create(model="base", max_tokens=8, messages=HELLO, system="Be brief.", stop_sequences=["."])
    check(done.stop_reason in ("end_turn", "max_tokens", "stop_sequence"), done)


@column("stream")
def stream() -> None:
    with client.messages.stream(model="base", max_tokens=8, messages=HELLO) as events:
        check("".join(events.text_stream), "no text")
        check(events.get_final_message().usage.output_tokens > 0, "no usage")


@column("schema")
def schema() -> None:
    form = {"type": "json_schema", "schema": WEATHER}
    done = client.messages.create(model="base", max_tokens=60, messages=HELLO, output_config={"format": form})
    check(json.loads(done.content[0].text)["city"] in ("Oslo", "Lima"), done)


@column("tools")
def tools() -> None:
    done = client.messages.create(
        model="base", max_tokens=60, messages=HELLO, tools=[TOOL], tool_choice={"type": "any"}
    )
    (call,) = [block for block in done.content if block.type == "tool_use"]
    check(call.input["city"] in ("Oslo", "Lima") and done.stop_reason == "tool_use", done)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    turns = [*HELLO, {"role": "assistant", "content": [call.model_dump()]}, {"role": "user", "content": [result]}]
    check(
        client.messages.create(model="base", max_tokens=8, messages=turns, tools=[TOOL]).content is not None,
        "no answer",
    )


@column("own")
def own() -> str:
    count = client.messages.count_tokens(model="base", messages=HELLO).input_tokens
    used = client.messages.create(model="base", max_tokens=4, messages=HELLO).usage.input_tokens
    check(count == used, (count, used))
    begun = [*HELLO, {"role": "assistant", "content": "I am"}]
    count = client.messages.count_tokens(model="base", messages=begun).input_tokens
    used = client.messages.create(model="base", max_tokens=4, messages=begun).usage.input_tokens
    check(count == used, (count, used))
    try:
        client.messages.create(model="base", max_tokens=4, messages=[])
    except anthropic.BadRequestError as error:
        check(error.request_id, "an error without an id")
    check("base" in [model.id for model in client.models.list()], "no base among the models")
    return "count_tokens, an answer begun, ids of errors, models"


if __name__ == "__main__":
    main()
