"""`python -m tests.bench.readers`: how late a thousand open pages hear, and what each costs the web process.

A synthetic engine says when it made each piece. The pages are those of visitors with eight answers each, as many as one
may have.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.bench.pages import begin_session, open_socket
from tests.bench.processes import children, name_of, resident_mb
from tests.bench.site import PLAIN, REPO, Site, running

PER_VISITOR: Final = 8
TOKENS: Final = 1_000_000
SETTINGS: Final = {
    "MAX_NEW_TOKENS": str(TOKENS),
    "MAX_CONNECTIONS_PER_ADDRESS": "4096",
    "QUEUE_LIMIT": "2000",
    "ANONYMOUS_PER_HOUR": "100000",
    "MAX_RUNNING_PER_ADDRESS": "4096",
    "LOG_LEVEL": "WARNING",
}


@dataclass
class Reader:
    """One page that reads one answer; a piece that does not follow the last one is a fault."""

    late: list[float] = field(default_factory=list)
    next_piece: int = 0
    lost: int = 0
    doubled: int = 0

    def take(self, text: str, now: float) -> None:
        for piece in text.split():
            number, _, made = piece.partition(":")
            self.late.append(now - float(made))
            self.lost += max(0, int(number) - self.next_piece)
            self.doubled += int(number) < self.next_piece
            self.next_piece = max(self.next_piece, int(number) + 1)


def main() -> None:
    options = _options()
    settings = SETTINGS | PLAIN | {"PIECES": str(options.pieces)}
    with (
        tempfile.TemporaryDirectory(prefix="loraland-readers-", ignore_cleanup_errors=True) as directory,
        running(Path(directory), REPO / "var" / "models", settings, worker="tests.bench.stamped") as site,
    ):
        asyncio.run(measure(site, options))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.readers", description=__doc__)
    parser.add_argument("--readers", type=int, default=1000)
    parser.add_argument("--pieces", type=float, default=600, help="a second, over all answers")
    parser.add_argument("--seconds", type=float, default=60)
    return parser.parse_args()


async def measure(site: Site, options: argparse.Namespace) -> None:
    web = next(pid for pid in children(site.pids[0]) if name_of(pid) == "web")
    cookies = [await begin_session(site) for _ in range(-(-options.readers // PER_VISITOR))]
    before, began = resident_mb(web), time.monotonic()
    readers = [Reader() for _ in range(options.readers)]
    opened = asyncio.Semaphore(16)
    tasks = [
        asyncio.create_task(_read(site, cookies[number // PER_VISITOR], reader, opened))
        for number, reader in enumerate(readers)
    ]
    while not all(reader.late or task.done() for reader, task in zip(readers, tasks, strict=True)):  # noqa: ASYNC110
        await asyncio.sleep(1)
    print(f"{options.readers} pages hear after {time.monotonic() - began:.0f} s", flush=True)
    for reader in readers:
        reader.late.clear()
    began = time.monotonic()
    await asyncio.sleep(options.seconds)
    seconds, grown = time.monotonic() - began, resident_mb(web) - before
    failed = [task for task in tasks if task.done()]
    _print(readers, seconds, grown, len(failed))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in failed[:3]:
        print(repr(task.exception()))


def _print(readers: list[Reader], seconds: float, grown: float, failed: int) -> None:
    late = sorted(seconds * 1000 for reader in readers for seconds in reader.late)
    at = [late[min(len(late) - 1, int(share * len(late)))] for share in (0.5, 0.95, 0.99)]
    print(
        f"{len(late) / seconds:.0f} pieces/s, late ms p50 {at[0]:.0f} p95 {at[1]:.0f} p99 {at[2]:.0f}, "
        f"web {grown * 1024 / len(readers):.0f} KB a page, lost {sum(reader.lost for reader in readers)}, "
        f"doubled {sum(reader.doubled for reader in readers)}, broken {failed}",
        flush=True,
    )


async def _read(site: Site, cookie: str, reader: Reader, opened: asyncio.Semaphore) -> None:
    async with opened:
        connection = await open_socket(site, cookie)
        await connection.send(json.dumps(_question()))
    async with connection:
        async for text in connection:
            message: dict[str, Any] = json.loads(text)
            if message["type"] == "delta":
                reader.take(message["text"], time.time())
            elif message["type"] in {"refused", "failed", "interrupted"}:
                raise RuntimeError(str(message)[:300])


def _question() -> dict[str, Any]:
    asked = {"type": "start", "request": uuid.uuid4().hex, "conversation": None, "adapter": "", "text": "speak"}
    return asked | {"sampling": {"temperature": 0, "max_tokens": TOKENS}}


if __name__ == "__main__":
    main()
