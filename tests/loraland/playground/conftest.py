"""Visitors with a session, and adapters to chat with."""

from __future__ import annotations

from collections.abc import Callable

import pytest_asyncio
from asgiref.sync import sync_to_async

from loraland.catalogue.models import AdapterVersion
from tests.loraland.playground.page import Browser

TOPIC = {
    "template": "Title: {title}\nText: {text}\nTopic:",
    "fields": [{"name": "title", "label": "Title", "rows": 1}, {"name": "text", "label": "Text", "rows": 3}],
    "examples": [{"inputs": {"title": "Tower Bridge", "text": "A bridge in London."}, "expected": "Building"}],
}
EMOTION = {
    "template": "Tweet: {tweet}\nEmotion:",
    "fields": [{"name": "tweet", "label": "Tweet", "rows": 2}],
    "examples": [{"inputs": {"tweet": "What a day!"}, "expected": "joy"}],
}


@pytest_asyncio.fixture
async def anna(transactional_db: None) -> Browser:
    return await Browser().visit()


@pytest_asyncio.fixture
async def ben(transactional_db: None) -> Browser:
    return await Browser().visit()


@pytest_asyncio.fixture
async def topic(publish: Callable[..., AdapterVersion]) -> AdapterVersion:
    """An adapter whose template has two fields."""
    return await sync_to_async(publish)("topic", "a", **TOPIC)


@pytest_asyncio.fixture
async def emotion(publish: Callable[..., AdapterVersion]) -> AdapterVersion:
    """An adapter whose template has one field."""
    return await sync_to_async(publish)("emotion", "b", **EMOTION)
