"""Waiting for an iterator's items in slices of time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from loraland.generations.read_ahead import ReadAhead


async def items(gate: asyncio.Event, ended: list[str]) -> AsyncGenerator[int]:
    try:
        yield 1
        await gate.wait()
        yield 2
    finally:
        ended.append("closed")


async def test_a_slice_without_an_item_loses_none():
    gate, ended = asyncio.Event(), []
    ahead = ReadAhead(items(gate, ended))
    assert [await ahead.next(5), await ahead.next(0.01)] == [[1], []]
    gate.set()
    assert await ahead.next(5) == [2]
    with pytest.raises(StopAsyncIteration):
        await ahead.next(5)


async def test_what_has_been_read_meanwhile_comes_together():
    gate, ended = asyncio.Event(), []
    ahead = ReadAhead(items(gate, ended))
    gate.set()
    for _ in range(10):
        await asyncio.sleep(0)
    assert ended == ["closed"]
    assert await ahead.next(5) == [1, 2]


async def test_leaving_early_closes_what_is_read():
    ended: list[str] = []
    ahead = ReadAhead(items(asyncio.Event(), ended))
    await ahead.next(5)
    await ahead.aclose()
    assert ended == ["closed"]


async def test_what_reading_raises_reaches_the_reader():
    async def broken() -> AsyncGenerator[int]:
        yield 1
        raise ValueError("torn")

    ahead = ReadAhead(broken())
    assert await ahead.next(5) == [1]
    with pytest.raises(ValueError, match="torn"):
        await ahead.next(5)
