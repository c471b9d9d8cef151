"""One attempt at a training: a claim, the child that works on it, and how the two end together."""

from __future__ import annotations

import logging
import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from signal import Signals
from typing import Final, Literal, TypeVar

from redis import Redis, RedisError

from inference.server import queue as training_queue
from inference.server.protocol import (
    Train,
    Trained,
    TrainingCancelled,
    TrainingEnd,
    TrainingEvent,
    TrainingFailed,
    TrainingProgress,
    decode,
    encode,
)
from inference.server.queue import TrainingClaim
from inference.server.spare_time import Share, processor_seconds
from inference.wire.codec import ProtocolError

MAX_ATTEMPTS: Final = 3
"""A training whose child, or whose server, died so often without coming further than before is given up."""
RENEW_SECONDS: Final = 1.0
LISTEN_SECONDS: Final = 0.25
RETRY_SECONDS: Final = 0.5
SHARE_SECONDS: Final = 5.0
GRACE_SECONDS: Final = 7.0
"""How long a child may take to its checkpoint when it is to end: less than a supervisor waits for its services."""
QUIETLY: Final = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TQDM_DISABLE": "1"}

T = TypeVar("T")

log = logging.getLogger(__name__)


class ClaimLost(Exception):
    """Another server has the training, or nobody any more."""


class Child:
    """A process that trains, in a session of its own, and the events that it writes."""

    def __init__(self, command: Sequence[str], train: Train, share: Share = "spare") -> None:
        self._process = subprocess.Popen(
            [*command, share],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **QUIETLY},
            start_new_session=True,
            text=True,
        )
        self._events: queue.Queue[TrainingEvent | None] = queue.Queue()
        self._send(encode(train) + "\n")
        threading.Thread(target=self._read, daemon=True).start()

    def next_event(self, seconds: float) -> TrainingEvent | None:
        """The next event, None when there will be none. Raises `queue.Empty` after so many silent `seconds`."""
        return self._events.get(timeout=seconds)

    @property
    def processor_seconds(self) -> float | None:
        """The processor time that it has had; None where nobody can tell."""
        return processor_seconds(self._process.pid)

    def stop(self) -> None:
        """Ask it to keep a checkpoint and to end."""
        assert self._process.stdin
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> int:
        """Make sure that it has ended; its exit code, negative for a signal."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(RETRY_SECONDS)
        self.kill()
        return self._process.wait()

    def _send(self, line: str) -> None:
        assert self._process.stdin
        # One that has ended already will be found out by its silence.
        with suppress(BrokenPipeError):
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            try:
                self._events.put(decode(line))
            except ProtocolError as error:
                log.warning("not understood child=%d error=%s", self._process.pid, error)
        self._events.put(None)


class Attempt:
    """Follows `child` on `claim` until one of the two ends. `goes_on` turns false when this server is to end."""

    def __init__(
        self, redis: Redis, claim: TrainingClaim, child: Child, lease_seconds: float, goes_on: Callable[[], bool]
    ) -> None:
        self._redis = redis
        self._claim = claim
        self._child = child
        self._lease_seconds = lease_seconds
        self._goes_on = goes_on
        self._step = claim.step
        self._renewal = 0.0
        self._deadline = float("inf")
        self._ending: Literal["", "cancelled", "hurried", "leaving"] = ""
        self._measured = (time.monotonic(), child.processor_seconds)

    def run(self) -> None:
        """Leave the training ended, or given back. Raises RedisError only while the server is to end."""
        try:
            self._conclude(self._follow())
        except ClaimLost:
            log.warning("lost id=%s reason=%s", self._claim.train.id, "the lease ended and another server took over")
            self._child.kill()
        finally:
            self._child.end()

    def _follow(self) -> TrainingEnd | None:
        """The child's last word, None when it ended without one."""
        while True:
            self._keep_claim()
            with suppress(queue.Empty):
                event = self._child.next_event(LISTEN_SECONDS)
                if not isinstance(event, TrainingProgress):
                    return event
                self._append(event)

    def _keep_claim(self) -> None:
        """Keep the claim, and end the child for whoever wants the training to end."""
        if time.monotonic() >= self._renewal:
            held = self._retry(lambda: training_queue.renew(self._redis, self._claim, self._lease_seconds))
            self._renewal = time.monotonic() + min(RENEW_SECONDS, self._lease_seconds / 3)
            if held == "lost":
                raise ClaimLost
            if held == "cancelled":
                self._end_child("cancelled")
            if held == "hurried" and not self._claim.is_urgent:
                # Only a process that begins anew can be raised without the rights of root.
                self._end_child("hurried")
            self._measure_share()
        if not self._goes_on():
            self._end_child("leaving")
        if time.monotonic() > self._deadline:
            self._child.kill()

    def _measure_share(self) -> None:
        """Record now and then which share of a processor the child gets."""
        (before, had), now = self._measured, time.monotonic()
        if now - before < SHARE_SECONDS:
            return
        has = self._child.processor_seconds
        self._measured = (now, has)
        if has is not None and had is not None:
            self._retry(lambda: training_queue.record_share(self._redis, self._claim, (has - had) / (now - before)))

    def _end_child(self, reason: Literal["cancelled", "hurried", "leaving"]) -> None:
        if not self._ending:
            self._ending, self._deadline = reason, time.monotonic() + GRACE_SECONDS
            self._child.stop()

    def _append(self, progress: TrainingProgress) -> None:
        self._step = max(self._step, progress.step)
        if not self._retry(lambda: training_queue.append(self._redis, self._claim, progress)):
            raise ClaimLost

    def _conclude(self, end: TrainingEnd | None) -> None:
        if isinstance(end, Trained | TrainingFailed):
            self._finish(end)
        elif self._ending == "cancelled":
            self._finish(TrainingCancelled(self._step))
        elif self._ending in ("leaving", "hurried") or end is not None:
            # A child that ends in peace though nobody here asked for it: the whole machine is going down.
            self._release(crashed=False)
        else:
            self._give_up_or_back(self._child.end())

    def _give_up_or_back(self, code: int) -> None:
        attempts = 1 if self._step > self._claim.step else self._claim.attempts
        log.warning("crashed id=%s attempt=%d step=%d code=%d", self._claim.train.id, attempts, self._step, code)
        if attempts >= MAX_ATTEMPTS:
            self._finish(given_up(self._step, code))
        else:
            self._release(crashed=True)

    def _finish(self, end: TrainingEnd) -> None:
        log.info("ended id=%s end=%s", self._claim.train.id, end)
        if not self._retry(lambda: training_queue.finish(self._redis, self._claim, end)):
            raise ClaimLost

    def _release(self, crashed: bool) -> None:
        log.info("gave back id=%s step=%d", self._claim.train.id, self._step)
        self._retry(lambda: training_queue.release(self._redis, self._claim, crashed))

    def _retry(self, call: Callable[[], T]) -> T:
        """The answer of Redis; while it is away the child works on and its events wait."""
        while True:
            try:
                return call()
            except RedisError as error:
                if not self._goes_on():
                    raise
                log.warning("cut off id=%s error=%s", self._claim.train.id, error)
                time.sleep(RETRY_SECONDS)


def given_up(step: int, code: int | None = None) -> TrainingFailed:
    """What the owner of a training hears that ends its process again and again, last with exit `code`."""
    how = "" if code is None else f", last by {Signals(-code).name if code < 0 else f'exit code {code}'}"
    return TrainingFailed(
        f"the training was broken off {MAX_ATTEMPTS} times after step {step}{how}, as happens when memory runs out: "
        "take a smaller batch or a smaller max_length, or see the log of the training server"
    )
