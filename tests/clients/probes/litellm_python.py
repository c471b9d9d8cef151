"""LiteLLM, as a program that speaks to every provider alike."""

from __future__ import annotations

import litellm
from probing import ADAPTER, HELLO, KEY, PERSON, TOOL, URL, V1, check, column, is_person, is_weather, main

ASK = {"model": "openai/base", "api_base": V1, "api_key": KEY, "messages": HELLO, "timeout": 300, "num_retries": 0}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}


@column("chat")
def chat() -> None:
    for model in ("openai/base", f"openai/{ADAPTER}"):
        done = litellm.completion(**{**ASK, "model": model}, max_tokens=8)
        check(done.choices[0].message.content is not None, done)
    try:
        litellm.completion(**{**ASK, "messages": [{"role": "user", "content": "word " * 9000}]})
    except litellm.ContextWindowExceededError:
        return
    raise AssertionError("a full context is no ContextWindowExceededError")


@column("stream")
def stream() -> None:
    chunks = list(litellm.completion(**ASK, max_tokens=8, stream=True, stream_options={"include_usage": True}))
    check("".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices), chunks)
    check(any(getattr(chunk, "usage", None) for chunk in chunks), "no usage")


@column("schema")
def schema() -> None:
    is_person(litellm.completion(**ASK, response_format=SCHEMA, max_tokens=60).choices[0].message.content)


@column("tools")
def tools() -> None:
    done = litellm.completion(**ASK, tools=[TOOL], tool_choice="required", max_tokens=60)
    is_weather(done.choices[0].message.tool_calls[0].function.arguments)


@column("n")
def n() -> None:
    check(len(litellm.completion(**ASK, n=2, temperature=1, max_tokens=4).choices) == 2, "not two choices")


@column("logprobs")
def logprobs() -> None:
    done = litellm.completion(**ASK, logprobs=True, top_logprobs=2, max_tokens=4)
    check(done.choices[0].logprobs.content[0].top_logprobs, done)


@column("completions")
def completions() -> None:
    ask = {"model": "text-completion-openai/base", "api_base": V1, "api_key": KEY, "max_tokens": 4, "timeout": 300}
    check(litellm.text_completion(**ask, prompt="Once").choices[0].text, "no text")
    check(len(litellm.text_completion(**ask, prompt=["Once", "Twice"]).choices) == 2, "not two choices")


@column("embeddings")
def embeddings() -> None:
    done = litellm.embedding(model="openai/base", api_base=V1, api_key=KEY, input=["a cat", "a dog"])
    check(len(done.data) == 2, done)


@column("own")
def own() -> str:
    done = litellm.responses(
        model="openai/base", input="Name a colour.", api_base=V1, api_key=KEY, max_output_tokens=16
    )
    check(done.output, done)
    done = litellm.completion(model="anthropic/base", api_base=URL, api_key=KEY, messages=HELLO, max_tokens=8)
    check(done.choices[0].message.content is not None, done)
    return "responses; `anthropic/` by /v1/messages; a full context is ContextWindowExceededError"


if __name__ == "__main__":
    main()
