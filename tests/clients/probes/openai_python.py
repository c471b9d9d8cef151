"""openai for Python, as its own documents use it."""

from __future__ import annotations

import base64
import struct

import openai
from probing import ADAPTER, HELLO, KEY, PERSON, SAMPLE, TOOL, V1, check, column, is_person, is_weather, main

client = openai.OpenAI(base_url=V1, api_key=KEY, max_retries=0, timeout=300)
SCHEMA = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}


@column("chat")
def chat() -> None:
    for model in ("base", ADAPTER):
        done = client.chat.completions.create(
            model=model, messages=HELLO, max_tokens=12, metadata={"a": "b"}, store=False
        )
        check(done.choices[0].message.content is not None and done.usage.total_tokens > 0, done)
    check(done._request_id, "no request id")


@column("stream")
def stream() -> None:
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(model="base", messages=HELLO, max_tokens=8, stream=True, stream_options=options)
    )
    check("".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices), chunks)
    check(chunks[-1].usage.completion_tokens > 0, chunks[-1])


@column("schema")
def schema() -> None:
    done = client.chat.completions.create(model="base", messages=HELLO, response_format=SCHEMA, max_tokens=60)
    is_person(done.choices[0].message.content)
    done = client.chat.completions.create(
        model=ADAPTER, messages=HELLO, extra_body={"structured_outputs": {"choice": ["red", "blue"]}}
    )
    check(done.choices[0].message.content in ("red", "blue"), done)
    client.chat.completions.create(model="base", messages=HELLO, response_format={"type": "text"}, max_tokens=4)


@column("tools")
def tools() -> None:
    named = {"type": "function", "function": {"name": "weather"}}
    for choice in (named, "required"):
        done = client.chat.completions.create(
            model="base", messages=HELLO, tools=[TOOL], tool_choice=choice, max_tokens=60
        )
        (call,) = done.choices[0].message.tool_calls
        check((call.type, call.function.name) == ("function", "weather"), done)
        is_weather(call.function.arguments)
        check(done.choices[0].finish_reason in ("tool_calls", "stop"), done)
    answer = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    turns = [*HELLO, done.choices[0].message.model_dump(exclude_none=True), answer]
    done = client.chat.completions.create(model="base", messages=turns, tools=[TOOL], max_tokens=8)
    chunks = list(
        client.chat.completions.create(
            model="base", messages=HELLO, tools=[TOOL], tool_choice="required", max_tokens=60, stream=True
        )
    )
    calls = [call for chunk in chunks if chunk.choices for call in chunk.choices[0].delta.tool_calls or ()]
    check(calls[0].function.name == "weather", calls)
    is_weather("".join(call.function.arguments or "" for call in calls))


@column("n")
def n() -> None:
    done = client.chat.completions.create(model="base", messages=HELLO, n=3, temperature=1, seed=5, max_tokens=8)
    check([choice.index for choice in done.choices] == [0, 1, 2], done)
    done = client.completions.create(model="base", prompt="Once", n=1, best_of=2, temperature=1, max_tokens=8)
    check(len(done.choices) == 1, done)


@column("logprobs")
def logprobs() -> None:
    say = [{"role": "user", "content": "Answer with a smiling face and a heart, as emoji."}]
    done = client.chat.completions.create(model="base", messages=say, logprobs=True, top_logprobs=3, max_tokens=24)
    tokens = done.choices[0].logprobs.content
    check(all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in tokens), tokens)


@column("completions")
def completions() -> None:
    done = client.completions.create(model=ADAPTER, prompt=["One two", "Red blue"], max_tokens=3)
    check([choice.index for choice in done.choices] == [0, 1], done)
    done = client.completions.create(model="base", prompt=[[504, 808, 338], [28, 29]], max_tokens=2)
    check(len(done.choices) == 2, done)
    done = client.completions.create(model="base", prompt="One two three", echo=True, logprobs=1, max_tokens=0)
    check(done.choices[0].logprobs.token_logprobs[0] is None, done)
    check(done.choices[0].text == "One two three", done)


@column("embeddings")
def embeddings() -> None:
    done = client.embeddings.create(model="base", input=["a cat", "a dog"])
    check(len(done.data) == 2 and len(done.data[0].embedding) > 8, done.data[0].embedding[:3])
    packed = client.embeddings.create(model="base", input="a cat", encoding_format="base64").data[0].embedding
    if isinstance(packed, str):
        check(len(struct.unpack(f"{len(base64.b64decode(packed)) // 4}f", base64.b64decode(packed))) > 8, packed[:20])


@column("own")
def responses() -> str:
    done = client.responses.create(model="base", input="Name a colour.", max_output_tokens=16)
    check(done.output_text and done.status in ("completed", "incomplete"), done)
    events = [
        event.type for event in client.responses.create(model="base", input="Hi", max_output_tokens=16, stream=True)
    ]
    check(events[0] == "response.created" and events[-1] in ("response.completed", "response.incomplete"), events)
    done = client.responses.create(
        model="base", input="Who?", text={"format": {"type": "json_schema", "name": "person", "schema": PERSON}}
    )
    is_person(done.output_text)
    done = client.chat.completions.create(model="snli", messages=[], extra_body={"inputs": INPUTS}, max_tokens=8)
    check(done.choices[0].message.content, done)
    check("base" in [model.id for model in client.models.list()], "no base among the models")
    check(client.models.retrieve(ADAPTER).id == ADAPTER, "the adapter has no entry")
    client.chat.completions.create(
        model="base", messages=[{"role": "user", "content": SAMPLE}], logit_bias={"504": -100}, max_tokens=4
    )
    return "responses, `inputs`, models, logit_bias"


INPUTS = {"premise": "A man sleeps.", "hypothesis": "A man is awake."}

if __name__ == "__main__":
    main()
