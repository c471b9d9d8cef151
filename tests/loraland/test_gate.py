"""What is refused before Django sees it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from asgiref.sync import sync_to_async
from django.conf import settings as site_settings
from django.contrib.auth.models import User
from django.db import OperationalError
from django.test import Client

from loraland.gate import COPIES, FREE_MB, Gate

UPLOADS = ("/admin/catalogue/adapterversion/add/", "/admin/evals/dataset/add/")
TEXT = 4 * 2**20
MANY = 200 * 2**20
TOO_LARGE = "The request has more than {} MB, the most that is taken here from you; send less."


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


async def ask(
    path: str,
    chunks: Iterable[int] = (0,),
    query: bytes = b"",
    declared: int | None = None,
    cookie: str = "",
    gate: Gate | None = None,
) -> Any:
    """The status and the body that a request whose chunks have these sizes is answered with."""
    left, sent = list(chunks), []
    headers = [(b"content-length", str(declared).encode())] if declared is not None else []
    headers += [(b"cookie", cookie.encode())] if cookie else []
    scope = {"type": "http", "method": "POST", "path": path, "query_string": query, "headers": headers}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x" * left.pop(0), "more_body": bool(left)}

    async def send(message: Any) -> None:
        sent.append(message)

    await (gate or Gate(reader))(scope, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    return sent[0]["status"], sent[1]["body"].decode()


def cookie_of(**user: bool) -> str:
    """The cookie of a visitor who has signed in."""
    client = Client()
    client.force_login(User.objects.create_user("eve", **user))
    return f"{site_settings.SESSION_COOKIE_NAME}={client.cookies[site_settings.SESSION_COOKIE_NAME].value}"


@pytest_asyncio.fixture
async def staff(transactional_db: None) -> str:
    return await sync_to_async(cookie_of)(is_staff=True)


async def test_a_body_within_the_limit_passes_whole(settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    assert await ask("/chat/", [400, 600], declared=1000) == (200, "1000")


async def test_a_body_that_declares_too_much_is_refused_unread(settings, staff):
    settings.MAX_UPLOAD_MB = 5
    for path in UPLOADS:
        assert await ask(path, [0], declared=6 * 2**20, cookie=staff) == (200, "0")
        status, sentence = await ask(path, [], declared=6 * 2**20 + 1, cookie=staff)
        assert (status, sentence) == (413, TOO_LARGE.format(6))


@pytest.mark.parametrize("path", ["/admin/login/", "/admin/catalogue/adapterversion/1/change/", "/chat/"])
async def test_elsewhere_the_staff_too_send_texts_alone(staff, path):
    assert await ask(path, [], declared=MANY, cookie=staff) == (413, TOO_LARGE.format(4))


@pytest.mark.parametrize("cookie", ["", "sessionid=nobody", "sessionid=" + "a" * 5000])
async def test_a_strangers_upload_is_refused_unread(transactional_db, cookie):
    for path in UPLOADS:
        assert await ask(path, [], declared=MANY, cookie=cookie) == (413, TOO_LARGE.format(4))
        assert await ask(path, [TEXT, 1], cookie=cookie) == (413, TOO_LARGE.format(4))


@pytest.mark.parametrize("user", [{}, {"is_staff": True, "is_active": False}])
async def test_an_upload_of_somebody_who_is_no_member_of_the_staff_is_refused_unread(transactional_db, user):
    cookie = await sync_to_async(cookie_of)(**user)
    assert (await ask(UPLOADS[0], [], declared=MANY, cookie=cookie))[0] == 413


async def test_an_upload_in_chunks_is_cut_off_at_the_limit_of_its_sender(settings, staff):
    settings.MAX_UPLOAD_MB = 5
    assert await ask(UPLOADS[0], [TEXT, 2 * 2**20], cookie=staff) == (200, str(6 * 2**20))
    assert (await ask(UPLOADS[0], [TEXT, 2 * 2**20, 1], cookie=staff))[0] == 413


async def test_uploads_are_taken_while_the_disk_has_room_for_all_that_are_promised(settings, staff, monkeypatch):
    within: list[Any] = []

    async def second(scope: Any, receive: Any, send: Any) -> None:
        within.append(await ask(UPLOADS[0], [0], declared=MANY, cookie=staff, gate=gate))
        await reader(scope, receive, send)

    gate = Gate(reader)
    free = COPIES * MANY + FREE_MB * 2**20 + 1
    monkeypatch.setattr("loraland.gate.shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    assert (await ask(UPLOADS[0], [0], declared=MANY, cookie=staff, gate=gate))[0] == 200
    gate._application = second
    assert (await ask(UPLOADS[0], [0], declared=MANY, cookie=staff, gate=gate))[0] == 200
    assert within[0][0] == 503
    assert "disk has no room" in within[0][1]
    assert (await ask("/chat/", [1], gate=Gate(reader)))[0] == 200


async def test_an_upload_whose_sender_cannot_be_looked_up_comes_again_later(monkeypatch):
    async def unknown(key: str) -> bool:
        raise OperationalError("database is locked")

    monkeypatch.setattr("loraland.gate.is_staff", unknown)
    status, sentence = await ask(UPLOADS[0], [], declared=MANY, cookie="sessionid=abcdefgh")
    assert (status, sentence.startswith("Who you are cannot be looked up")) == (503, True)


async def test_bodies_together_hold_so_much_and_no_more(monkeypatch):
    monkeypatch.setattr("loraland.gate.HELD_MB", 3)
    gate = Gate(reader)
    for _ in range(3):
        assert (await ask("/chat/", [2 * 2**20], gate=gate))[0] == 200
    status, sentence = await ask("/chat/", [2 * 2**20, 2 * 2**20], gate=gate)
    assert (status, sentence.startswith("Too much is being sent")) == (503, True)
    assert (await ask("/chat/", [2 * 2**20], gate=gate))[0] == 200


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


@pytest.mark.parametrize(
    "cookie", ['sessionid="\\000abcdefgh"', 'a=1; sessionid="abcdefgh\\037"', "sessionid=abcdefgh\x01"]
)
async def test_a_session_with_a_control_character_is_refused(cookie):
    assert (await ask("/", cookie=cookie))[0] == 400
    assert (await ask("/", cookie=cookie.replace("sessionid", "other")))[0] == 200


async def test_an_address_with_too_much_behind_its_question_mark_is_refused():
    assert (await ask("/", query=b"q=" + b"x" * 8190))[0] == 200
    status, body = await ask("/", query=b"q=" + b"x" * 8191)
    assert (status, "more than 8192 bytes" in body) == (414, True)
