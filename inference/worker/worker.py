"""One worker: an asyncio loop that owns the wire, beside one thread that owns the device.

The loop claims what the engine has room for, keeps the leases and carries stops to it; what the engine says is
written by an `Outbox`. The device never waits for the wire: while Redis is away decoding goes on and its words gather.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Literal

from inference.reading import Refused
from inference.wire.capacity import Capacity
from inference.wire.contract import Claim, Receipt, Wire, WireError, Write, tenant_of
from inference.wire.protocol import EngineLoad, Failed, Finished, Heartbeat, Probe, Progress
from inference.worker.device_thread import DeviceThread, Report, SteppedEngine
from inference.worker.outbox import Outbox
from inference.worker.retry import Retry
from inference.worker.running import Running
from inference.worker.tally import Tally
from inference.worker.waking import Alarm, Stopwatch

HEARTBEAT_SECONDS: Final = 2.0
HEARTBEAT_TTL: Final = 7.0
POLL_SECONDS: Final = 1.0
"""How often the queue is looked at when nobody says that something arrived: leases end without a word."""
SHUTDOWN_SECONDS: Final = 3.0
CANCEL_SECONDS: Final = 0.5

WorkerState = Literal["loading", "ready", "draining"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerConfig:
    """Whom the worker serves: the queue of `base`, under its own `name`, with leases of `lease_seconds`.

    A device that is in one step for `stall_seconds` has failed.
    """

    base: str
    name: str
    lease_seconds: float = 10.0
    stall_seconds: float = 180.0


class Worker:
    """Serves `wire` with the engine that `make` gives, until `close` is called or the device fails."""

    def __init__(self, wire: Wire, make: Callable[[], SteppedEngine], config: WorkerConfig) -> None:
        self._wire = wire
        self._config = config
        self._device = DeviceThread(make, self._on_report, self._on_crash)
        self._running: dict[str, Running] = {}
        self._report: Report | None = None
        self._loaded = asyncio.Event()
        self._ending = asyncio.Event()
        self._draining = asyncio.Event()
        self._claiming = asyncio.Lock()
        self._drain_seconds = 0.0
        self._is_empty = asyncio.Event()
        self._crash: BaseException | None = None
        self._look = Alarm()
        self._has_room = Stopwatch()
        self._tally = Tally()
        self._beat_now = asyncio.Event()
        self._renewed = time.monotonic()
        self._retry = Retry(config.name)
        self._outbox = Outbox(wire, self._running, self._retry, self._settle)

    async def run(self) -> int:
        """Serve; returns 0 after `close`, 1 when the device or the worker itself failed."""
        self._device.start()
        tasks = [asyncio.create_task(duty()) for duty in self._duties()]
        ending = asyncio.create_task(self._ending.wait())
        done, _ = await asyncio.wait([ending, *tasks], return_when=asyncio.FIRST_COMPLETED)
        await _cancel({ending, *tasks})
        for task in done - {ending}:
            self._crash = self._crash or task.exception()
        self._device.close()
        await self._shut_down()
        if isinstance(self._crash, Refused):
            log.error("refused worker=%s error=%s", self._config.name, self._crash)
        elif self._crash:
            log.error("crashed worker=%s error=%r", self._config.name, self._crash, exc_info=self._crash)
        return 1 if self._crash else 0

    def close(self) -> None:
        """Stop serving: what runs is released, for another worker to go on with at once."""
        self._ending.set()

    def drain(self, seconds: float) -> None:
        """Claim nothing more, finish within `seconds` what can be, then close. Asked once more, or with 0 seconds, it
        closes at once.
        """
        if self._draining.is_set() or seconds <= 0:
            self.close()
        self._drain_seconds = seconds
        self._draining.set()
        self._beat_now.set()

    @property
    def state(self) -> WorkerState:
        """How far it has come."""
        if self._ending.is_set() or self._draining.is_set():
            return "draining"
        return "ready" if self._report else "loading"

    def _duties(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        return [
            self._beat,
            self._claim,
            self._leave,
            self._outbox.flush,
            self._renew,
            lambda: self._device.watch(self._config.stall_seconds),
            self._follow_stops,
            self._follow_arrivals,
        ]

    # what the device says

    def _on_report(self, report: Report) -> None:
        had, self._report = self._capacity(), report
        for event in report.events:
            running = self._running.get(event.id)
            # Words of an earlier life of the same id, or of one that is no longer ours, are not written.
            if running is None or report.handled < running.ticket or running.is_ended:
                continue
            running.take(event)
            self._outbox.mark(running)
            if isinstance(event, Finished | Failed):
                _log_end(event)
        if not self._loaded.is_set():
            log.info("ready worker=%s fingerprint=%s", self._config.name, report.fingerprint)
            self._loaded.set()
            self._beat_now.set()
        has = self._capacity()
        self._note_room(has)
        if has.exceeds(had):
            self._look.set()

    def _on_crash(self, error: BaseException) -> None:
        self._crash = error
        self._ending.set()

    def _capacity(self) -> Capacity:
        """How many requests the engine would take, less those sent to it since it said so; none beside a suspect, and
        none before it leaves."""
        if (
            self._report is None
            or self._draining.is_set()
            or any(running.is_alone for running in self._running.values())
        ):
            return Capacity()
        handled = self._report.handled
        return self._report.capacity.less(sum(running.ticket > handled for running in self._running.values()))

    def _note_room(self, capacity: Capacity) -> None:
        self._has_room.note(bool(capacity) and capacity.idle > 0)

    def _present(self) -> set[str]:
        """The tenants that have a chat here."""
        claims = (running.claim for running in self._running.values())
        return {tenant_of(claim.request) for claim in claims if claim.queue_class == "chat"}

    # what the wire says

    async def _claim(self) -> None:
        await self._loaded.wait()
        while True:
            await self._look.wait(POLL_SECONDS)
            async with self._claiming:
                await self._retry.attempt(self._claim_all)

    async def _claim_all(self) -> None:
        """Claim until the engine or the queue has no more. Own leases come first: they may just have ended."""
        if time.monotonic() - self._renewed > self._config.lease_seconds / 2:
            await self._renew_all()
        config, claimed = self._config, True
        while claimed and (capacity := self._capacity()):
            claims = await self._wire.claim(
                config.base,
                config.name,
                self._fingerprint(),
                capacity,
                config.lease_seconds,
                self._present(),
                self._has_room.seconds,
            )
            for claim in claims:
                await self._begin_alone(claim) if claim.is_alone else self._begin(claim)
            self._note_room(self._capacity())
            if claims.again is not None:
                self._look.set(claims.again)
            claimed = 0 < capacity.total <= len(claims)

    async def _begin_alone(self, claim: Claim) -> None:
        """Run a suspect, and let others go on with all that runs here, so that nobody else is at fault.

        What cannot be given back, because the wire is away, comes free when its lease ends.
        """
        with contextlib.suppress(WireError):
            await self._outbox.write()
        others = list(self._running.values())
        for running in others:
            self._device.abort(running.claim.id)
        self._begin(claim)
        for running in others:
            with contextlib.suppress(WireError):
                await self._wire.release(running.claim)
            self._forget(running)

    def _begin(self, claim: Claim) -> None:
        if claim.id in self._running:
            self._device.abort(claim.id)
        held = self._report.load.on_device if self._report else ()
        self._tally.count(claim, held, [running.claim for running in self._running.values()])
        is_chat = claim.queue_class == "chat" and not isinstance(claim.request, Probe)
        is_newcomer = is_chat and tenant_of(claim.request) not in self._present()
        ticket = self._device.add(claim.request, claim.resumed, claim.queue_class, is_newcomer)
        running = Running(claim, ticket)
        self._running[claim.id] = running
        if claim.resumed is None:
            running.take(Progress(claim.id, "claimed"))
            self._outbox.mark(running)
        tokens = len(claim.resumed.token_ids) if claim.resumed else 0
        log.info("claimed id=%s attempt=%d resumed_tokens=%d", claim.id, claim.attempts, tokens)

    async def _leave(self) -> None:
        """Wait for a drain, and for the end of what runs then."""
        await self._draining.wait()
        log.info("draining worker=%s running=%d", self._config.name, len(self._running))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._claiming.acquire(), SHUTDOWN_SECONDS)  # what is being claimed runs here too
        if self._running:
            self._is_empty.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_empty.wait(), self._drain_seconds)
        self.close()
        await asyncio.Event().wait()

    async def _renew(self) -> None:
        while True:
            if await self._retry.attempt(self._renew_all):
                await asyncio.sleep(self._config.lease_seconds / 3)

    async def _renew_all(self) -> None:
        running = list(self._running.values())
        receipts = await self._wire.renew([each.claim for each in running])
        for each, receipt in zip(running, receipts, strict=True):
            self._apply(each, receipt)
        self._renewed = time.monotonic()

    async def _settle(self, running: Running, write: Write, receipt: Receipt) -> None:
        """Forget what is over, write on what is not, and go back for what the wire has lost."""
        self._apply(running, receipt)
        if not receipt or self._running.get(running.claim.id) is not running:
            return
        if running.is_alone and (write.has_tokens or write.terminal):
            # A suspect that has grown or ended: others may run beside it again.
            running.is_alone = False
            self._look.set()
        running.settle(receipt)
        if running.is_over:
            self._forget(running)
        elif running.is_broken:
            log.warning("broken id=%s reason=%s", running.claim.id, "the wire lost entries; giving the request back")
            self._forget(running)
            self._device.abort(running.claim.id)
            await self._wire.release(running.claim)
        elif running.has_more:
            self._outbox.mark(running)

    def _apply(self, running: Running, receipt: Receipt) -> None:
        """Do what a receipt says beside its length: the claim is lost, or a reader asked to stop."""
        id = running.claim.id
        if self._running.get(id) is not running:
            return
        if not receipt:
            log.warning("lost id=%s reason=%s", id, "the lease ended and another worker took over")
            self._forget(running)
            self._device.abort(id)
        elif receipt.stopping:
            self._stop(id)

    def _forget(self, running: Running) -> None:
        if self._running.get(running.claim.id) is running:
            del self._running[running.claim.id]
        if not self._running:
            self._is_empty.set()

    def _stop(self, id: str) -> None:
        running = self._running.get(id)
        if running and not running.is_stopping:
            running.is_stopping = True
            self._device.stop(id)

    async def _follow_stops(self) -> None:
        async for id in self._wire.stops():
            self._stop(id)

    async def _follow_arrivals(self) -> None:
        async for arrival in self._wire.arrivals(self._config.base):
            self._look.set(arrival.after(self._config.name, self._wire.patience))

    async def _beat(self) -> None:
        while True:
            await self._retry.attempt(lambda: self._wire.beat(self._heartbeat(), HEARTBEAT_TTL))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._beat_now.wait(), HEARTBEAT_SECONDS)
            self._beat_now.clear()

    def _heartbeat(self) -> Heartbeat:
        return Heartbeat(
            worker=self._config.name,
            base=self._config.base,
            ready=self.state == "ready",
            draining=self.state == "draining",
            fingerprint=self._fingerprint(),
            time=time.time(),
            load=self._report.load if self._report else EngineLoad(),
            claims=self._tally.counts,
        )

    def _fingerprint(self) -> str:
        return self._report.fingerprint if self._report else ""

    async def _shut_down(self) -> None:
        """Write what is known and give the rest back. A crash counts as an attempt of all that was running.

        When the wire is away nothing can be given back: the leases end by themselves.
        """
        try:
            async with asyncio.timeout(SHUTDOWN_SECONDS):
                await self._outbox.write()
                for running in list(self._running.values()):
                    await self._wire.release(running.claim, crashed=self._crash is not None)
                await self._wire.depart(self._config.base, self._config.name)
        except (WireError, TimeoutError) as error:
            log.warning(
                "left without a word worker=%s running=%d error=%r", self._config.name, len(self._running), error
            )
        log.info("left worker=%s released=%d", self._config.name, len(self._running))


async def _cancel(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel until all are done: a call that waits for Redis may miss a cancellation in the moment in which it ends."""
    while tasks:
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=CANCEL_SECONDS)


def _log_end(event: Finished | Failed) -> None:
    stats = event.stats
    if isinstance(event, Failed):
        log.warning("failed id=%s code=%s", event.id, event.code)
    else:
        log.info(
            "finished id=%s reason=%s tokens=%d first_token_ms=%.0f total_ms=%.0f",
            event.id,
            event.reason,
            stats.completion_tokens,
            stats.first_token_ms,
            stats.total_ms,
        )
