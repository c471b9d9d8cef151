"""The training server: takes trainings from the queue, one at a time, and has a child work on each.

It loads no torch, so nothing but a small process stays while nothing is trained. See `inference.server.queue` for
how a job is owned, `inference.server.attempt` for its way, and `inference.training.child` for the work.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from redis import Redis, RedisError

from inference.config import ConfigError, read_config, start_logging
from inference.server import queue as training_queue
from inference.server.attempt import MAX_ATTEMPTS, RETRY_SECONDS, Attempt, Child, given_up
from inference.server.queue import TrainingClaim

BAD_CONFIG: Final = 2
POLL_SECONDS: Final = 1.0
BEAT_SECONDS: Final = 3.0
BEAT_TTL: Final = 15.0
WORK: Final = (sys.executable, "-m", "inference.training.child")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerConfig:
    """How a server is called, how long it keeps a training without a sign, and the `command` of its children.

    With `is_reserved` processors are kept for it: its children compute beside others, and not in their spare time.
    """

    name: str
    lease_seconds: float = 10.0
    command: Sequence[str] = WORK
    is_reserved: bool = False


class TrainingServer:
    """Serves the queue in `redis` until `close` is called."""

    def __init__(self, redis: Redis, config: ServerConfig) -> None:
        self._redis = redis
        self._config = config
        self._is_closing = False
        self._beaten = float("-inf")

    def close(self) -> None:
        """Stop: what is trained now keeps a checkpoint and goes back to the queue."""
        self._is_closing = True

    def run(self) -> None:
        log.info("serving trainings server=%s", self._config.name)
        while self._goes_on():
            try:
                self._turn()
            except RedisError as error:
                log.warning("cut off server=%s error=%s", self._config.name, error)
                time.sleep(RETRY_SECONDS)
        try:
            training_queue.depart(self._redis, self._config.name)
        except RedisError as error:
            log.warning("left without a word server=%s error=%s", self._config.name, error)

    def run_one(self) -> bool:
        """Do the training that waits longest, to its end or until `close`; whether one waited.

        Raises RedisError when Redis is away as it begins.
        """
        claim = training_queue.claim(self._redis, self._config.lease_seconds)
        if claim and claim.attempts > MAX_ATTEMPTS:
            training_queue.finish(self._redis, claim, given_up(claim.step))
        elif claim:
            self._work(claim)
        return claim is not None

    def _turn(self) -> None:
        if not self.run_one():
            time.sleep(POLL_SECONDS)

    def _work(self, claim: TrainingClaim) -> None:
        log.info("claimed id=%s attempt=%d step=%d", claim.train.id, claim.attempts, claim.step)
        claim = replace(claim, is_urgent=claim.is_urgent or self._config.is_reserved)
        child = Child(self._config.command, claim.train, "full" if claim.is_urgent else "spare")
        Attempt(self._redis, claim, child, self._config.lease_seconds, self._goes_on).run()

    def _goes_on(self) -> bool:
        """Whether to serve on; shows on the way that this server lives."""
        if time.monotonic() - self._beaten > BEAT_SECONDS:
            self._beaten = time.monotonic()
            try:
                training_queue.beat(self._redis, self._config.name, BEAT_TTL)
            except RedisError as error:
                log.warning("no sign of life server=%s error=%s", self._config.name, error)
        return not self._is_closing


def main(command: Sequence[str] = WORK) -> int:
    """Serve until SIGTERM or SIGINT: 0 then, 2 when the environment cannot be used."""
    try:
        start_logging()
        config = read_config()
    except ConfigError as error:
        log.error("refused config error=%s", error)
        return BAD_CONFIG
    with Redis.from_url(config.redis_url, decode_responses=True, socket_timeout=10) as redis:
        server = TrainingServer(redis, ServerConfig(config.worker_name, config.lease_seconds, command))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: server.close())
        server.run()
    return 0
