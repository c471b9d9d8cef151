"""A browser's side of the site, for tests: pages with cookies, and the socket that such a page opens."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any, Self

from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.conf import settings
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client

from loraland.asgi import application
from loraland.generations.visitor import Visitor
from tests.patience import PATIENCE

ENDS = ("finished", "failed")


class Browser:
    """One visitor. Every call of a page is in a thread, as the tests run in an event loop."""

    def __init__(self, user: User | None = None) -> None:
        self.client = Client()
        self._user = user

    async def get(self, path: str, **more: Any) -> HttpResponse:
        return await sync_to_async(self.client.get)(path, **more)

    async def post(self, path: str, data: dict[str, str] | None = None, **more: Any) -> HttpResponse:
        return await sync_to_async(self.client.post)(path, data or {}, **more)

    async def visit(self) -> Self:
        """Sign in where there is a user, then load the chat page, whose socket gives a session to a stranger."""
        if self._user:
            await sync_to_async(self.client.force_login)(self._user)
        response = await self.get("/chat/")
        assert response.status_code == 200
        if 'data-socket="/ws/answers/?new"' in response.content.decode():
            async with self.page(query="new") as page:
                self.client.cookies.load(page.cookie)
        return self

    @property
    def session_key(self) -> str:
        cookie = self.client.cookies.get(settings.SESSION_COOKIE_NAME)
        return cookie.value if cookie else ""

    @property
    def visitor(self) -> Visitor:
        if self._user:
            return Visitor(self._user.pk, self.session_key, f"user:{self._user.pk}", "", self._user.is_staff)
        return Visitor(None, self.session_key, f"session:{self.session_key}")

    def page(self, origin: str = "http://localhost", query: str = "", client: str = "") -> Page:
        cookie = f"{settings.SESSION_COOKIE_NAME}={self.session_key}" if self.session_key else ""
        return Page(
            [(b"host", b"localhost"), (b"origin", origin.encode()), (b"cookie", cookie.encode())], query, client
        )


class Page:
    """An open page: `async with browser.page() as page`. It speaks ASGI to the site's own application."""

    def __init__(self, headers: list[tuple[bytes, bytes]], query: str = "", client: str = "") -> None:
        scope = {
            **({"client": (client, 0)} if client else {}),
            "type": "websocket",
            "path": "/ws/answers/",
            "query_string": query.encode(),
            "headers": headers,
            "subprotocols": [],
        }
        self._socket = ApplicationCommunicator(application, scope)
        self.is_open = False
        self.cookie = ""

    async def __aenter__(self) -> Self:
        await self._socket.send_input({"type": "websocket.connect"})
        answer = await self._socket.receive_output(PATIENCE)
        self.is_open = answer["type"] == "websocket.accept"
        self.cookie = dict(answer.get("headers", ())).get(b"set-cookie", b"").decode()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._socket.send_input({"type": "websocket.disconnect", "code": 1001})
        await self._socket.wait(PATIENCE)

    async def say(self, **message: Any) -> None:
        await self.say_text(json.dumps(message))

    async def say_text(self, text: str) -> None:
        await self._socket.send_input({"type": "websocket.receive", "text": text})

    async def hear(self, *types: str, **about: Any) -> dict[str, Any]:
        """The next message, or the next of these types about these values; others are passed over."""
        while True:
            event = await self._socket.receive_output(PATIENCE)
            assert event["type"] == "websocket.send", event
            message = json.loads(event["text"])
            if (not types or message["type"] in types) and about.items() <= message.items():
                return message

    async def hear_out(self, answer: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Every delta of `answer` from here, and its end."""
        deltas = []
        while True:
            message = await self.hear("delta", *ENDS, answer=answer)
            if message["type"] in ENDS:
                return deltas, message
            deltas.append(message)

    async def closed(self) -> int:
        """The code that the server closes with."""
        while (event := await self._socket.receive_output(PATIENCE))["type"] != "websocket.close":
            continue
        return event["code"]


def text_of(deltas: list[dict[str, Any]]) -> str:
    return "".join(delta["text"] for delta in deltas)
