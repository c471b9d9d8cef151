"""``python -m tests.inference.fake_worker URL NAME FINGERPRINT LEASE STEP [BASE]``: a worker without a model."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

from inference.wire.redis_wire import RedisWire
from inference.worker.worker import Worker, WorkerConfig
from tests.inference.fake_engine import FakeEngine


async def main(url: str, name: str, fingerprint: str, lease: str, step: str, base: str = "tiny") -> int:
    async with RedisWire.connect(url) as wire:
        config = WorkerConfig(base, name, float(lease))
        worker = Worker(wire, lambda: FakeEngine(fingerprint, step_seconds=float(step)), config)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.close)
        return await worker.run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    os._exit(asyncio.run(main(*sys.argv[1:])))
