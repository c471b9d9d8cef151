"""The API's tests call a real server: uvicorn in a thread of this process, over the tests' Redis and database."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import pytest_asyncio
import uvicorn
from asgiref.sync import sync_to_async

from inference.streams import Wire
from loraland import inference_client
from loraland.api.models import ApiKey
from loraland.asgi import application


class Server:
    """The site at `url`, in a thread and an event loop of its own."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(application, lifespan="off", log_level="warning"))
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()

    async def _serve(self) -> None:
        await self._server.serve(sockets=[self._socket])
        await inference_client.close()

    def close(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(20)


@pytest.fixture
def server(transactional_db: None, site_wire: Wire) -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def secret(transactional_db: None) -> str:
    return ApiKey.objects.issue("tests")[1]


@pytest_asyncio.fixture
async def http(server: Server, secret: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the server with a key."""
    headers = {"Authorization": f"Bearer {secret}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=20) as client:
        yield client


@pytest_asyncio.fixture
async def emotion(publish) -> object:
    """A published adapter with a template of one field."""
    fields = [{"name": "text", "label": "Tweet", "rows": 3}]
    return await sync_to_async(publish)("emotion", template="Tweet: {text}\n", fields=fields)
