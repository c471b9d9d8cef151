"""System messages in a conversation whose template has no place for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from inference.wire.protocol import Message


def has_system(messages: Sequence[Message]) -> bool:
    return any(message.role == "system" for message in messages)


def with_system_merged(messages: Sequence[Message]) -> tuple[Message, ...]:
    """`messages` with each system message before the user's next one, in one turn, as Gemma and Mistral were taught.

    One that no user follows is a turn of the user's.
    """
    merged: list[Message] = []
    held: list[str] = []
    for message in messages:
        if message.role == "system":
            held.append(message.content)
        elif message.role == "user" and held:
            merged.append(replace(message, content="\n\n".join([*held, message.content])))
            held = []
        else:
            merged.append(message)
    return (*merged, *([Message("user", "\n\n".join(held))] if held else []))


def shows_system(text: str, messages: Sequence[Message], guard: Callable[[str], str]) -> bool:
    """Whether the filled template `text` holds every system message; some leave them out without a word."""
    return all(guard(message.content).strip() in text for message in messages if message.role == "system")
