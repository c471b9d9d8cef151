"""huggingface_hub's InferenceClient: by the server's address and by /v1, and TGI's text generation."""

from __future__ import annotations

from huggingface_hub import InferenceClient
from probing import HELLO, KEY, PERSON, TOOL, URL, V1, check, column, is_person, is_weather, main


def client(url: str = V1) -> InferenceClient:
    return InferenceClient(base_url=url, api_key=KEY, timeout=300)


@column("chat")
def chat() -> str:
    for url in (URL, V1):
        done = client(url).chat_completion(HELLO, model="base", max_tokens=8)
        check(done.choices[0].message.content, done)
    done = client().chat_completion(HELLO, max_tokens=8)
    check(done.choices[0].message.content, done)
    return "both addresses, with and without a model"


@column("stream")
def stream() -> None:
    asking, options = client(), {"include_usage": True}  # a client that is gone closes its stream
    chunks = list(asking.chat_completion(HELLO, model="base", max_tokens=8, stream=True, stream_options=options))
    check(chunks[-1].usage, chunks[-1])


@column("schema")
def schema() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    is_person(
        client().chat_completion(HELLO, model="base", response_format=form, max_tokens=60).choices[0].message.content
    )


@column("tools")
def tools() -> None:
    done = client().chat_completion(HELLO, model="base", tools=[TOOL], tool_choice="required", max_tokens=60)
    is_weather(done.choices[0].message.tool_calls[0].function.arguments)


@column("logprobs")
def logprobs() -> None:
    done = client().chat_completion(HELLO, model="base", logprobs=True, top_logprobs=2, max_tokens=4)
    check(done.choices[0].logprobs.content[0].top_logprobs, done)


@column("own")
def text_generation() -> str:
    asking = InferenceClient(model=URL, token=KEY, timeout=300)
    check(asking.text_generation("Once upon", max_new_tokens=6), "no text")
    parts = list(asking.text_generation("Once upon", max_new_tokens=6, stream=True, details=True))
    check(parts[-1].details.generated_tokens == 6, parts[-1])
    return "text_generation, whole and streamed"


if __name__ == "__main__":
    main()
