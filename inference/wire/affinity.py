"""Where a request would be answered with the least work: by a worker that holds its adapter, or knows its beginning.

What a request wants is named by its content alone, and shortly, because it stands beside every request that waits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from inference.wire.protocol import Generate, Message, Request

LETTERS: Final = 16
"""Of a digest in hex; two that begin alike in so many would only share their workers."""


@dataclass(frozen=True)
class Affinity:
    """`digests` begin with that of all the adapter, behind which stand its parts where it has some. `conversation` is
    the key of this request, and `continues` that of the one whose answer it goes on from; empty where there is none.
    """

    digests: tuple[str, ...] = ()
    conversation: str = ""
    continues: str = ""

    def __bool__(self) -> bool:
        return bool(self.digests or self.continues)


def affinity_of(request: Request) -> Affinity:
    """What `request` would find on one worker and not on another; nothing where it proves an adapter.

    A chat is known by its owner, adapter and messages: one that holds an answer continues the chat that ended before
    that answer. Choices of one call share a prompt, so they belong together from the first on.
    """
    if not isinstance(request, Generate):
        return Affinity()
    digests: tuple[str, ...] = ()
    if adapter := request.adapter:
        digests = tuple(dict.fromkeys(map(short, (adapter.digest, *(part.digest for part in adapter.components)))))
    if request.group:
        key = _key(request, [Message("group", request.group)])
        return Affinity(digests, key, key)
    messages = request.messages or ()
    answers = [place for place, message in enumerate(messages) if message.role == "assistant" and not message.is_open]
    continues = _key(request, messages[: answers[-1]]) if answers else ""
    return Affinity(digests, _key(request, messages) if messages else "", continues)


def short(digest: str) -> str:
    """The part of `digest` by which workers tell what they hold."""
    return digest[:LETTERS]


def _key(request: Generate, messages: Iterable[Message]) -> str:
    """A key of `messages` that no other owner's have, nor another adapter's."""
    hashed = hashlib.sha256(f"{request.owner or request.tenant}\n{request.adapter and request.adapter.digest}".encode())
    for message in messages:
        hashed.update(f"\n{len(message.content)} {message.role} {message.content}{message.tool_calls}".encode())
    return hashed.hexdigest()[:LETTERS]
