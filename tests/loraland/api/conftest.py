"""The API's tests call a real server: uvicorn in a thread of this process, over the tests' Redis and database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from asgiref.sync import sync_to_async

from inference.model.tokenizer import Tokenizer
from inference.wire.contract import Wire
from loraland.api.models import ApiKey
from loraland.asgi import application
from tests.inference.engines import make_tokenizer
from tests.loraland.server import Server
from tests.patience import PATIENCE


@pytest.fixture
def server(transactional_db: None, site_wire: Wire) -> Iterator[Server]:
    server = Server(application)
    yield server
    server.close()


@pytest.fixture
def secret(transactional_db: None) -> str:
    return ApiKey.objects.issue("tests")[1]


@pytest_asyncio.fixture
async def http(server: Server, secret: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the server with a key."""
    headers = {"Authorization": f"Bearer {secret}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=PATIENCE) as client:
        yield client


@pytest_asyncio.fixture
async def emotion(publish) -> object:
    """A published adapter with a template of one field."""
    fields = [{"name": "text", "label": "Tweet", "rows": 3}]
    return await sync_to_async(publish)("emotion", template="Tweet: {text}\n", fields=fields)


@pytest.fixture
def folder(settings: Any, tmp_path: Path) -> Path:
    """The base's files on the site's machine."""
    settings.BASE_MODEL = str(make_tokenizer(tmp_path / "base", opening="<|start|>"))
    (tmp_path / "base" / "config.json").write_text("{}")
    return tmp_path / "base"


@pytest.fixture
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer(folder)
