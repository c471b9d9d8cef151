"""What has ended, as recorders read it from Redis: each entry again and again until one of them commits it."""

from __future__ import annotations

from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from inference.wire.contract import RETRY_MS
from inference.wire.redis_reader import read_streams

FINISHED: Final = "generation:finished"
RECORDERS: Final = "recorders"


class FinishedReader:
    """Reads for any consumer, which first gets what it left behind when it last ended."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._pending: dict[str, str] = {}
        self._recovered: set[str] = set()

    async def read(self, consumer: str, count: int, block_ms: int) -> list[Any]:
        """Entries left by this consumer's earlier life, else by one that has gone silent, else new ones."""
        try:
            return (
                await self._read_own(consumer, count)
                or (await self._client.xautoclaim(FINISHED, RECORDERS, consumer, RETRY_MS, count=count))[1]
                or await self._read_group(consumer, ">", count, block_ms)
            )
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
        await self._client.xgroup_create(FINISHED, RECORDERS, id="0", mkstream=True)
        return await self._read_group(consumer, ">", count, block_ms)

    async def _read_own(self, consumer: str, count: int) -> list[Any]:
        if consumer in self._recovered:
            return []
        entries = await self._read_group(consumer, self._pending.get(consumer, "0-0"), count)
        if entries:
            self._pending[consumer] = entries[-1][0]
        else:
            self._recovered.add(consumer)
        return entries

    async def _read_group(self, consumer: str, after: str, count: int, block_ms: int | None = None) -> list[Any]:
        answer = await self._client.xreadgroup(RECORDERS, consumer, {FINISHED: after}, count=count, block=block_ms)
        return [entry for _, entries in read_streams(answer) for entry in entries]
