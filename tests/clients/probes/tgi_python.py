"""text-generation, the client of TGI."""

from __future__ import annotations

from probing import KEY, URL, check, column, main
from text_generation import Client

client = Client(URL, headers={"Authorization": f"Bearer {KEY}"}, timeout=300)


@column("chat")
def chat() -> None:
    from text_generation.types import Message

    done = client.chat([Message(role="user", content="Name a colour.")], max_tokens=8)
    check(done.choices[0].message.content, done)


@column("stream")
def stream() -> None:
    parts = list(client.generate_stream("Once upon", max_new_tokens=6))
    check("".join(part.token.text for part in parts) == parts[-1].generated_text, parts)


@column("completions")
def generate() -> None:
    done = client.generate("Once upon", max_new_tokens=6, decoder_input_details=True)
    check(done.details.generated_tokens == 6, done)


if __name__ == "__main__":
    main()
