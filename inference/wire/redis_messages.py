"""What is published on channels of Redis: calls to look again, which may be missed, and never words of an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from redis.asyncio import Redis

from inference.wire.redis_reader import LONGEST_BLOCK_MS, LOST_CONNECTION, backoff


async def messages(client: Redis, *channels: str) -> AsyncGenerator[str, None]:
    """What is published on `channels`, across lost connections; what is said meanwhile is missed."""
    delays = backoff()
    while True:
        try:
            async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
                await pubsub.subscribe(*channels)
                while True:
                    message = await pubsub.get_message(timeout=LONGEST_BLOCK_MS / 1000)
                    delays = backoff()
                    if message:
                        yield message["data"]
        except LOST_CONNECTION:
            await asyncio.sleep(next(delays))
