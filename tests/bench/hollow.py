"""`python -m tests.bench.hollow`: a worker whose engine computes nothing, to see what all else costs.

32 answers at once, a token each every 32 ms: 1,000 tokens a second, as far as the rest of the site keeps up.
"""

from __future__ import annotations

import asyncio
import os
import signal

import uvloop

from inference.config import read_config
from inference.wire.redis_wire import RedisWire
from inference.worker.worker import Worker, WorkerConfig
from tests.inference.fake_engine import FakeEngine

ROWS = 32
STEP_SECONDS = 0.032


async def main() -> int:
    config = read_config()
    async with RedisWire.connect(config.redis_url) as wire:
        settings = WorkerConfig(config.base_key, "hollow", config.lease_seconds)
        worker = Worker(wire, lambda: FakeEngine("hollow", ROWS, STEP_SECONDS), settings)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.close)
        return await worker.run()


if __name__ == "__main__":
    os._exit(uvloop.run(main()))
