"""The site's end of the wire."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from loraland.inference_client import cancel


async def test_a_call_that_misses_its_cancellation_is_cancelled_again():
    async def deaf_once() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    call = asyncio.create_task(deaf_once())
    await asyncio.sleep(0)
    await cancel(call)
    assert call.cancelled()


async def test_a_call_that_has_failed_is_laid_to_rest():
    async def fail() -> None:
        raise OSError

    call = asyncio.create_task(fail())
    await asyncio.sleep(0)
    await cancel(call)
    assert isinstance(call.exception(), OSError)
