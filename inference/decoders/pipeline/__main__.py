"""``python -m inference.decoders.pipeline N``: stage N of a base whose first stage is a worker with ``STAGE_ADDRESS``.

The first stage is a worker, `python -m inference`, and has number 0. The environment of a stage names the same base,
``STAGES`` and ``STAGE_ADDRESS``; all else that shapes an answer is told by the worker. With ``-`` it is a child of its
worker, which tells it all on its input, and ends with it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading

from inference.config import ConfigError, EngineConfig, read_config, start_logging
from inference.model.torch_environment import prepare_torch
from inference.reading import Refused

BAD_CONFIG = 2

log = logging.getLogger(__name__)


def main(arguments: list[str]) -> int:
    """Serve until the chain breaks: 1 then, and when the base cannot be loaded; 2 for what cannot be used."""
    try:
        start_logging()
        if arguments == ["-"]:
            return _child()
        prepare_torch()
        config = read_config()
        return _serve(_number(arguments, config), config, "")
    except ConfigError as error:
        log.error("refused config error=%s", error)
        return BAD_CONFIG


def _number(arguments: list[str], config: EngineConfig) -> int:
    """Which stage this is. Raises `ConfigError`."""
    if not config.stage_address:
        raise ConfigError("STAGE_ADDRESS is not set; a stage by itself meets its worker there, such as 10.0.0.1:7000")
    last = config.stages - 1
    given = " ".join(arguments)
    if not given.isdecimal() or not 1 <= int(given) <= last:
        raise ConfigError(f"the stage {given!r} is none of STAGES={config.stages}; name one from 1 to {last}")
    return int(given)


def _child() -> int:
    # Whoever ends the whole group means the worker, which hands its answers over first and takes its stages along.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    told = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_worker, daemon=True).start()
    from inference.decoders.pipeline.processes import config_of

    return _serve(told["rank"], config_of(told["config"]), told["home"])


def _end_with_worker() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def _serve(rank: int, config: EngineConfig, home: str) -> int:
    # Torch takes seconds, and what it reads from the environment is set before.
    from inference.decoders.pipeline.chain import StageLost
    from inference.decoders.pipeline.server import meet, serve

    try:
        serve(meet(rank, config, home), config)
    except StageLost as error:
        log.info("left stage=%d reason=%s", rank, error)
    except Refused as error:
        log.error("refused stage=%d error=%s", rank, error)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
