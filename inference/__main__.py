"""``python -m inference``: one worker, from the environment to its exit code. See `inference.config`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

import uvloop

from inference.config import ConfigError, EngineConfig, read_config, start_logging
from inference.model.torch_environment import prepare_torch
from inference.wire.redis_wire import RedisWire
from inference.worker.device_thread import SteppedEngine
from inference.worker.worker import Worker, WorkerConfig

BAD_CONFIG = 2
TURN_SECONDS = 0.0005
"""After so long a thread that computes in Python lets another have the interpreter: a step's plan may take as long as
writing down the words of the last one, for which somebody waits. Python's own 5 ms are half a pass."""


def main() -> int:
    """Serve until SIGTERM or SIGINT: 0 then, 1 after a crash, 2 when the environment cannot be used."""
    prepare_torch()
    sys.setswitchinterval(TURN_SECONDS)
    try:
        start_logging()
        config = read_config()
    except ConfigError as error:
        logging.error("refused config error=%s", error)
        return BAD_CONFIG
    return uvloop.run(serve(config))


async def serve(config: EngineConfig) -> int:
    loop = asyncio.get_running_loop()
    async with RedisWire.connect(config.redis_url, config.tenant_weights) as wire:
        settings = WorkerConfig(config.base_key, config.worker_name, config.lease_seconds)
        worker = Worker(wire, lambda: load_engine(config), settings)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, worker.drain, config.drain_seconds)
        return await worker.run()


def load_engine(config: EngineConfig) -> SteppedEngine:
    # Imported on the device's thread: torch takes seconds, in which the first heartbeat is already seen.
    import torch

    from inference.engine.engine import Engine

    engine = Engine(config)
    if engine.machine.runner.decoder.has_own_threads:
        # Torch's would spin beside them.
        torch.set_num_threads(1)
    return engine


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stderr.flush()
    # The device's thread may still be loading or in a step, and an interpreter that ends under it can crash.
    os._exit(code)
