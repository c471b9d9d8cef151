"""Waiting for an iterator's items in slices of time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from loraland.generations.steady import Steady


async def items(gate: asyncio.Event, ended: list[str]) -> AsyncGenerator[int]:
    try:
        yield 1
        await gate.wait()
        yield 2
    finally:
        ended.append("closed")


async def test_a_slice_without_an_item_loses_none():
    gate, ended = asyncio.Event(), []
    steady = Steady(items(gate, ended))
    assert [await steady.next(5), await steady.next(0.01)] == [1, None]
    gate.set()
    assert await steady.next(5) == 2
    with pytest.raises(StopAsyncIteration):
        await steady.next(5)


async def test_leaving_early_closes_what_is_read():
    ended: list[str] = []
    steady = Steady(items(asyncio.Event(), ended))
    await steady.next(5)
    await steady.aclose()
    assert ended == ["closed"]


async def test_what_reading_raises_reaches_the_reader():
    async def broken() -> AsyncGenerator[int]:
        yield 1
        raise ValueError("torn")

    steady = Steady(broken())
    assert await steady.next(5) == 1
    with pytest.raises(ValueError, match="torn"):
        await steady.next(5)
