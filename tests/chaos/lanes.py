"""Those who ask while everything falls: programs at the API and pages at the socket, who come back until it ends."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import websockets
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.bench.pages import begin_session, open_socket
from tests.bench.site import Site
from tests.chaos.world import ADAPTERS

AGAIN_SECONDS: Final = 0.5
ENDS: Final = {"stop": "done", "length": "length"}
"""What the API calls the ends that a row has."""
LONGEST: Final = 240
"""Seconds after which an answer that was accepted and did not end counts as lost."""


@dataclass(frozen=True)
class Question:
    """One of the few that are asked over and over, so that each answer can be compared with the calm one."""

    model: str
    text: str
    seed: int | None
    tokens: int

    @property
    def sampling(self) -> dict[str, Any]:
        temperature = 0.0 if self.seed is None else 0.9
        return {"temperature": temperature, "max_tokens": self.tokens} | (
            {} if self.seed is None else {"seed": self.seed}
        )


@dataclass(frozen=True)
class Heard:
    """What one asker was told of one accepted answer: its text, its end (empty: none) and how often it came back."""

    question: Question
    id: str
    text: str
    end: str
    returns: int


@dataclass
class Log:
    """All that was heard. `refused` counts requests that were not accepted, which may be sent again."""

    heard: list[Heard] = field(default_factory=list)
    refused: int = 0


def questions() -> list[Question]:
    """Every model greedy and seeded; some share their beginnings, as those who click one example do."""
    asked = []
    for number, model in enumerate(("base", *ADAPTERS)):
        beginning = "tell me a long story of a river and a lamp and a stone, "
        asked.append(Question(model, beginning + "now", None, 200 + 20 * number))
        asked.append(Question(model, beginning + "slowly", 7 + number, 240))
        asked.append(Question(model, "short", 70 + number, 40))
    return asked


class Program:
    """A caller of the API that asks for its answers to be stored, and goes on behind the last event it has seen."""

    def __init__(self, site: Site, key: str, log: Log) -> None:
        self._log = log
        self._client = httpx.AsyncClient(base_url=site.url, headers={"Authorization": f"Bearer {key}"}, timeout=30)

    async def ask(self, question: Question) -> None:
        body = {"model": question.model, "stream": True, "store": True, **question.sampling}
        body["messages"] = [{"role": "user", "content": question.text}]
        stream = _Stream()
        with suppress(httpx.HTTPError):
            await self._read(stream, "POST", "/v1/chat/completions", json=body)
        if not stream.id:
            self._log.refused += 1
            return await asyncio.sleep(AGAIN_SECONDS)
        await self._come_back(stream)
        self._log.heard.append(Heard(question, stream.id, stream.text, stream.end, stream.returns))

    async def _come_back(self, stream: _Stream) -> None:
        address = f"/v1/chat/completions/{stream.id}?stream=true"
        deadline = asyncio.get_running_loop().time() + LONGEST
        while not stream.end and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(AGAIN_SECONDS)
            stream.returns += 1
            headers = {"Last-Event-ID": stream.cursor} if stream.cursor else {}
            try:
                await self._read(stream, "GET", address, headers=headers)
            except httpx.HTTPError:
                continue

    async def _read(self, stream: _Stream, method: str, address: str, **more: Any) -> None:
        async with self._client.stream(method, address, **more) as response:
            if response.status_code != 200:
                await response.aread()
                if stream.id and response.status_code < 500 and response.status_code != 429:
                    stream.end = f"status {response.status_code}: {response.text[:200]}"
                return
            async for line in response.aiter_lines():
                stream.take(line)


@dataclass
class _Stream:
    """Server-sent events as they come: a cursor counts only when the data behind it has been taken."""

    id: str = ""
    text: str = ""
    end: str = ""
    cursor: str = ""
    returns: int = 0
    _next: str = ""

    def take(self, line: str) -> None:
        if line.startswith("id: "):
            self._next = line[4:]
        elif line.startswith("data: {"):
            self._read(json.loads(line[6:]))
            self.cursor, self._next = self._next or self.cursor, ""

    def _read(self, chunk: dict[str, Any]) -> None:
        if "error" in chunk:
            # What passes by itself is told as such; whoever stored the answer comes back for it.
            self.end = "" if chunk["error"].get("code") in {"unavailable", "interrupted"} else chunk["error"]["code"]
            return
        self.id = chunk["id"]
        for choice in chunk["choices"]:
            self.text += choice["delta"].get("content") or ""
            self.end = ENDS.get(choice["finish_reason"], self.end)


class Visitor:
    """A page with a session of its own: its socket is opened again whenever it breaks."""

    def __init__(self, site: Site, log: Log) -> None:
        self._site, self._log, self._cookie = site, log, ""
        self._visiting = asyncio.Lock()

    async def ask(self, question: Question) -> None:
        try:
            started = await self._start(question)
        except (OSError, ConnectionClosed, InvalidHandshake, TimeoutError):
            started = None
        if started is None:
            self._log.refused += 1
            return await asyncio.sleep(AGAIN_SECONDS)
        self._log.heard.append(await self._follow(question, started))

    async def _start(self, question: Question) -> str | None:
        """The id of an accepted answer. The socket is left at once: what comes is read by those who come back."""
        async with await self._socket() as socket:
            model = "" if question.model == "base" else question.model
            asked = {"type": "start", "request": uuid.uuid4().hex, "conversation": None, "adapter": model}
            await socket.send(json.dumps(asked | {"text": question.text, "sampling": question.sampling}))
            async for message in _messages(socket):
                if message["type"] in {"started", "refused"}:
                    return str(message["answer"]) if message["type"] == "started" else None
        return None

    async def _follow(self, question: Question, id: str) -> Heard:
        cursor, text, end, returns = "0-0", "", "", 0
        deadline = asyncio.get_running_loop().time() + LONGEST
        while not end and asyncio.get_running_loop().time() < deadline:
            returns += 1
            try:
                async with await self._socket() as socket:
                    await socket.send(json.dumps({"type": "resume", "answer": id, "after": cursor}))
                    async for message in _messages(socket):
                        if message.get("answer") != id:
                            continue
                        if message["type"] == "delta":
                            text = message["text"] if message["cursor"] == "0-0" else text + message["text"]
                            cursor = message["cursor"]
                        elif message["type"] == "finished":
                            return Heard(question, id, message["text"], message["reason"], returns)
                        elif message["type"] == "failed":
                            return Heard(question, id, text, message.get("code") or "failed", returns)
                        elif message["type"] in {"refused", "interrupted"}:
                            break
            except (OSError, ConnectionClosed, InvalidHandshake, TimeoutError):
                pass
            await asyncio.sleep(AGAIN_SECONDS)
        return Heard(question, id, text, end, returns)

    async def _socket(self) -> websockets.ClientConnection:
        return await open_socket(self._site, await self._session())

    async def _session(self) -> str:
        """The cookie of this visitor, given to its first socket."""
        async with self._visiting:
            self._cookie = self._cookie or await begin_session(self._site)
        return self._cookie


async def _messages(socket: websockets.ClientConnection) -> AsyncIterator[dict[str, Any]]:
    """What the page is told; a server that says nothing for 30 s is as good as gone."""
    while True:
        yield json.loads(await asyncio.wait_for(socket.recv(), 30))
