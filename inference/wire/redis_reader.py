"""Tails any number of answers over one connection: a single blocking XREAD over all streams that are read now.

Every reader keeps its own cursor. A stream is read from the lowest cursor of its readers, so history and tail
are one thing, and nothing can be lost or doubled where they meet. A stream that cannot be read is the trouble of its
own readers: nothing else may end the reading while there are any. It knows nothing of claims or queues.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import ConnectionError, RedisError, TimeoutError

from inference.wire.codec import ProtocolError
from inference.wire.contract import Position, WireError, position_of
from inference.wire.protocol import Event, decode, is_terminal

LONGEST_BLOCK_MS: Final = 3000
"""Shorter than any client's socket timeout, so that a silent wire is not mistaken for a broken one."""
PACE_SECONDS: Final = 0.005
"""A pause after each read, in which more entries gather: many busy streams cost one read, not one read each."""
PACED_STREAMS: Final = 8
"""Past so many streams the pause grows with their number."""
LONGEST_PACE: Final = 0.02
WAKE_SECONDS: Final = 0.01
"""How long a new reader waits for the read under way to end by itself: on a busy wire it does."""
ENTRIES_PER_STREAM: Final = 512
LOST_CONNECTION: Final = (ConnectionError, TimeoutError, OSError)

logger = logging.getLogger(__name__)

Entry = tuple[str, Event]
RawEntries = list[tuple[str, dict[str, str]]]


class Subscription:
    """One reader of one stream. `entries` fills with lists of new entries, an error, or None at the end."""

    def __init__(self, position: Position) -> None:
        self.position = position
        self.entries: asyncio.Queue[list[Entry] | Exception | None] = asyncio.Queue()

    def offer(self, start: Position, entries: list[Entry]) -> None:
        """Take what is new of `entries`, which were read from behind `start`.

        A subscription that joined while they were on their way has its own past to read first: it takes none.
        """
        if self.position < start:
            return
        fresh = [entry for entry in entries if position_of(entry[0]) > self.position]
        if fresh:
            self.position = position_of(fresh[-1][0])
            self.entries.put_nowait(fresh)


class Reader:
    """Subscriptions to streams, and the one task that reads for all of them while there are any."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._subscriptions: dict[str, set[Subscription]] = {}
        self._task: asyncio.Task[None] | None = None
        self._wake = f"generation:wake:{uuid.uuid4().hex}"
        self._woken = "0-0"
        self._waking = asyncio.Lock()
        self._subscribed = 0
        self._covered = 0

    def events(self, key: str, after: str) -> Tail:
        """Entries of the stream `key` behind the cursor `after`, until the terminal one."""
        return Tail(self, key, Subscription(position_of(after)))

    async def join(self, key: str, subscription: Subscription) -> None:
        """Read for `subscription` too: begin to read, or end the read under way, which does not wait for its stream."""
        self._subscriptions.setdefault(key, set()).add(subscription)
        self._subscribed += 1
        number = self._subscribed
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._read_on(), name="wire reader")
            return
        await asyncio.sleep(WAKE_SECONDS)
        async with self._waking:
            # One who waited here may be covered by now: many that come together need one or two wakes.
            if self._covered < number:
                await self._end_read()

    def leave(self, key: str, subscription: Subscription) -> None:
        others = self._subscriptions.get(key, set())
        others.discard(subscription)
        if not others:
            self._subscriptions.pop(key, None)

    async def aclose(self) -> None:
        for reader in itertools.chain.from_iterable(self._subscriptions.values()):
            reader.entries.put_nowait(None)
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _end_read(self) -> None:
        # Without a connection there is no read to end, and where nothing can be written it ends by itself soon.
        with contextlib.suppress(RedisError, OSError):
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.xadd(self._wake, {"w": "1"}, maxlen=1, approximate=False)
                pipe.expire(self._wake, 60)
                await pipe.execute()

    async def _read_on(self) -> None:
        delays = backoff()
        while self._subscriptions:
            try:
                await self._read()
                delays = backoff()
            except LOST_CONNECTION:
                await asyncio.sleep(next(delays))
            except RedisError as error:
                logger.warning("Redis refused to read %d answers: %s", len(self._subscriptions), error)
                await self._give_up_refused()
                await asyncio.sleep(next(delays))
            except Exception as error:
                logger.exception("reading %d answers failed", len(self._subscriptions))
                for key in list(self._subscriptions):
                    self._give_up(key, f"{key} could not be read: {error!r}")

    async def _give_up_refused(self) -> None:
        """After a refusal, find the streams that are at fault by reading each by itself, and tell their readers.

        Where the reader's own stream is refused too it is the server that reads nothing now: none is given up.
        """
        starts = {self._wake: self._woken, **self._cursors()}
        with contextlib.suppress(*LOST_CONNECTION):
            async with self._client.pipeline(transaction=False) as pipe:
                for key, start in starts.items():
                    pipe.xread({key: start}, count=1)
                answers = dict(zip(starts, await pipe.execute(raise_on_error=False), strict=True))
            if not isinstance(answers.pop(self._wake), RedisError):
                for key, answer in answers.items():
                    if isinstance(answer, RedisError):
                        self._give_up(key, f"Redis does not read {key}: {answer}")

    def _give_up(self, key: str, sentence: str) -> None:
        """Tell all readers of a stream that there is no more to be had, and read it no more for them."""
        for subscription in self._subscriptions.pop(key, set()):
            subscription.entries.put_nowait(WireError(sentence))

    def _starts(self) -> dict[str, Position]:
        return {key: min(reader.position for reader in readers) for key, readers in self._subscriptions.items()}

    def _cursors(self) -> dict[str, str]:
        return {key: f"{first}-{second}" for key, (first, second) in self._starts().items()}

    async def _read(self) -> None:
        self._covered = self._subscribed
        starts = self._starts()
        cursors: dict[Any, Any] = {**self._cursors(), self._wake: self._woken}
        answer = await self._client.xread(cursors, count=ENTRIES_PER_STREAM, block=LONGEST_BLOCK_MS)
        for key, raw in read_streams(answer):
            if key == self._wake:
                self._woken = raw[-1][0]
                continue
            self._hand_out(key, starts[key], raw)
        await asyncio.sleep(min(PACE_SECONDS * max(1.0, len(starts) / PACED_STREAMS), LONGEST_PACE))

    def _hand_out(self, key: str, start: Position, raw: RawEntries) -> None:
        """Give entries of one stream to its readers; what cannot be read is the trouble of these alone."""
        try:
            entries = read_entries(raw)
        except ProtocolError as error:
            return self._give_up(key, f"{key} was written by another version: {error}")
        for subscription in self._subscriptions.get(key, set()):
            subscription.offer(start, entries)


class Tail:
    """The entries that `reader` reads for `subscription`, one by one up to the terminal one.

    It is no generator, so that a wait which is cancelled ends nothing: asked again, it goes on where it was.
    """

    def __init__(self, reader: Reader, key: str, subscription: Subscription) -> None:
        self._reader, self._key, self._subscription = reader, key, subscription
        self._read: deque[Entry] = deque()
        self._has_joined = self._is_over = False

    def __aiter__(self) -> Tail:
        return self

    async def __anext__(self) -> Entry:
        if not self._has_joined:
            self._has_joined = True
            await self._reader.join(self._key, self._subscription)
        while not self._read:
            if self._is_over:
                raise StopAsyncIteration
            self._take(await self._subscription.entries.get())
        entry = self._read.popleft()
        if is_terminal(entry[1]):
            self._leave()
        return entry

    async def aclose(self) -> None:
        self._leave()

    def _take(self, entries: list[Entry] | Exception | None) -> None:
        if isinstance(entries, list):
            return self._read.extend(entries)
        self._leave()
        if entries is not None:
            raise entries

    def _leave(self) -> None:
        """A terminal entry is the last: whatever stands behind it in the stream is nobody's."""
        self._read.clear()
        self._is_over = True
        self._reader.leave(self._key, self._subscription)


def read_streams(answer: Any) -> Iterable[tuple[str, RawEntries]]:
    """The streams of an XREAD's answer, which RESP2 gives as pairs and RESP3 as a mapping to lists of lists."""
    if isinstance(answer, dict):
        return [(key, lists[0]) for key, lists in answer.items()]
    return answer or []


def read_entries(raw: RawEntries) -> list[Entry]:
    """Raises `ProtocolError` when this version cannot read one of them."""
    return [(cursor, decode(fields.get("event", ""))) for cursor, fields in raw]


def backoff() -> Iterator[float]:
    """Seconds to wait before each next try: doubling from 50 ms to 2 s, each shortened at random."""
    delay = 0.05
    while True:
        yield delay * random.uniform(0.5, 1.0)
        delay = min(2 * delay, 2.0)
