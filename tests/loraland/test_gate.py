"""What is refused before Django sees it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from loraland.gate import Gate


async def reader(scope: Any, receive: Any, send: Any) -> None:
    """An application that reads the whole body, as Django does, and tells its length."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message["body"]), message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


async def ask(path: str, chunks: Iterable[int] = (0,), query: bytes = b"", declared: int | None = None) -> Any:
    """The status and the body that a request whose chunks have these sizes is answered with."""
    left, sent = list(chunks), []
    headers = [(b"content-length", str(declared).encode())] if declared is not None else []
    scope = {"type": "http", "path": path, "query_string": query, "headers": headers}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x" * left.pop(0), "more_body": bool(left)}

    async def send(message: Any) -> None:
        sent.append(message)

    await Gate(reader)(scope, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    return sent[0]["status"], sent[1]["body"].decode()


async def test_a_body_within_the_limit_passes_whole(settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    assert await ask("/chat/", [400, 600], declared=1000) == (200, "1000")


async def test_a_body_that_declares_too_much_is_refused_unread(settings):
    settings.MAX_UPLOAD_MB = 2
    assert await ask("/admin/catalogue/adapterversion/add/", [0], declared=3 * 2**20) == (200, "0")
    status, sentence = await ask("/admin/catalogue/adapterversion/add/", [], declared=3 * 2**20 + 1)
    assert (status, sentence) == (413, "The request has more than 3 MB, the most that is taken here; send less.")


async def test_a_body_that_declares_nothing_is_cut_off_at_the_limit(settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    status, _ = await ask("/chat/", [600, 401, 600])
    assert status == 413


async def test_a_program_is_refused_in_its_own_shape(settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 2**20
    status, body = await ask("/v1/completions", [], declared=2**20 + 1)
    assert status == 413
    assert json.loads(body)["error"]["code"] == "request_too_large"


async def test_an_address_with_a_nul_is_refused():
    assert (await ask("/adapters/a\0b/"))[0] == 400
    assert (await ask("/", query=b"q=%00"))[0] == 400
    assert (await ask("/", query=b"q=%2500"))[0] == 200
