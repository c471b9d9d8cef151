"""LoRAX's own client, as it was made for LoRAX."""

from __future__ import annotations

import asyncio

import lorax
from probing import ADAPTER, KEY, PERSON, URL, check, column, is_person, main

headers = {"Authorization": f"Bearer {KEY}"}
client = lorax.Client(URL, headers=headers, timeout=300)
PROMPT = "Once upon a time"


@column("chat")
def generate() -> None:
    for adapter in (None, ADAPTER):
        done = client.generate(PROMPT, adapter_id=adapter, max_new_tokens=6)
        check(done.generated_text and done.details.generated_tokens == 6, done)


@column("stream")
def stream() -> None:
    parts = list(client.generate_stream(PROMPT, adapter_id=ADAPTER, max_new_tokens=6))
    whole = client.generate(PROMPT, adapter_id=ADAPTER, max_new_tokens=6).generated_text
    check("".join(part.token.text for part in parts) == whole == parts[-1].generated_text, (parts[-1], whole))
    check(parts[-1].details.generated_tokens == 6, parts[-1])


@column("schema")
def schema() -> None:
    done = client.generate(PROMPT, response_format={"type": "json_object", "schema": PERSON}, max_new_tokens=60)
    is_person(done.generated_text)


@column("n")
def best_of() -> str:
    done = client.generate(PROMPT, best_of=2, do_sample=True, temperature=0.9, max_new_tokens=4)
    check(done.generated_text, done)
    return "best_of"


@column("logprobs")
def logprobs() -> None:
    done = client.generate(PROMPT, max_new_tokens=4, decoder_input_details=True, details=True, return_k_alternatives=2)
    check([token.text for token in done.details.tokens] and done.details.prefill[0].logprob is None, done)
    check(all(token.alternative_tokens for token in done.details.tokens), done.details.tokens)


@column("completions")
def sampling() -> None:
    done = client.generate(
        PROMPT,
        do_sample=True,
        temperature=0.7,
        top_k=5,
        top_p=0.9,
        seed=7,
        repetition_penalty=1.1,
        stop_sequences=["."],
        return_full_text=True,
        max_new_tokens=8,
        adapter_source="hub",
    )
    check(done.generated_text.startswith(PROMPT), done)


@column("own")
def own() -> str:
    async def ask() -> None:
        done = await lorax.AsyncClient(URL, headers=headers, timeout=300).generate(PROMPT, max_new_tokens=4)
        check(done.generated_text, done)

    asyncio.run(ask())
    return "AsyncClient"


if __name__ == "__main__":
    main()
