"""Wire, worker and engine together: what another's long queue costs a tenant, in admissions and not in seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import pytest

from inference.engine.engine import Engine
from inference.wire.protocol import (
    CLASSES,
    AdapterRef,
    Delta,
    Event,
    Finished,
    Generate,
    Progress,
    QueueClass,
    Sampling,
)
from inference.worker.worker import Worker, WorkerConfig
from tests.inference.engines import expected_answer, make_reading_engine
from tests.inference.wire.memory_wire import MemoryWire
from tests.patience import PATIENCE

BASE = "tiny"


ROUNDS = 10
"""How often the event loop comes round in every step: enough to claim what has arrived, however busy the machine."""


class Telling(Engine):
    """An engine that keeps what it has told, and does not outrun the event loop."""

    told: list[Event]
    loop: asyncio.AbstractEventLoop

    def step(self) -> list[Event]:
        asyncio.run_coroutine_threadsafe(_come_round(), self.loop).result()
        events = super().step()
        self.told += events
        return events


def make_engine(directory: Path) -> Telling:
    engine = make_reading_engine(directory, num_blocks=64, num_slots=4, max_rows=4)
    engine.__class__, engine.told = Telling, []
    assert isinstance(engine, Telling)
    engine.loop = asyncio.get_running_loop()
    return engine


async def _come_round() -> None:
    for _ in range(ROUNDS):
        await asyncio.sleep(0)


async def submit(wire: MemoryWire, ids: Iterable[str], tenant: str, queue_class: QueueClass = "chat") -> None:
    for id in ids:
        sampling = Sampling(max_tokens=12, ignore_eos=True)
        request = Generate(id, AdapterRef("AB"[len(id) % 2]), prompt=f"tell {id}", sampling=sampling, tenant=tenant)
        await wire.submit(request, BASE, queue_class, 1000)


async def end_of(wire: MemoryWire, id: str) -> list[Event]:
    async with asyncio.timeout(PATIENCE):
        return [event async for _, event in wire.events(id)]


async def started(engine: Telling, count: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            if sum(isinstance(event, Finished) for event in engine.told) >= count:
                return
            await asyncio.sleep(0.002)


def admitted_before(told: list[Event], asked: int, id: str) -> list[str]:
    """Who got a first token while `id` waited for its own, having been asked for when `asked` events had been told."""
    firsts = {event.id: place for place, event in reversed(list(enumerate(told))) if isinstance(event, Delta)}
    return [other for other, place in firsts.items() if asked <= place < firsts[id]]


@pytest.mark.parametrize("queue_class", CLASSES)
async def test_two_hundred_queued_delay_anothers_request_by_a_few_admissions(tmp_path, queue_class):
    wire, engine = MemoryWire(), make_engine(tmp_path)
    worker = Worker(wire, lambda: engine, WorkerConfig(BASE, "w"))
    task = asyncio.create_task(worker.run())
    await submit(wire, [f"flood-{n}" for n in range(200)], "flood", queue_class)
    for number in range(5):
        await started(engine, 4 + 10 * number)
        asked = len(engine.told)
        await submit(wire, [f"late-{number}"], "late")
        await end_of(wire, f"late-{number}")
        assert len(admitted_before(engine.told, asked, f"late-{number}")) <= 4
    worker.close()
    assert await asyncio.wait_for(task, PATIENCE) == 0
    engine.close()


async def test_who_is_displaced_answers_as_if_it_had_not_been(tmp_path):
    wire, engine = MemoryWire(), make_engine(tmp_path)
    worker = Worker(wire, lambda: engine, WorkerConfig(BASE, "w"))
    task = asyncio.create_task(worker.run())
    ids = [f"flood-{n}" for n in range(20)]
    await submit(wire, ids, "flood", "evaluation")
    for number in range(6):
        await submit(wire, [f"late-{number}"], f"late-{number}")
        ids.append(f"late-{number}")
        await started(engine, 3 * (number + 1))
    for id in ids:
        events = await end_of(wire, id)
        tokens = [token for event in events if isinstance(event, Delta) for token in event.token_ids]
        prompt = engine.machine.tokenizer.encode(f"tell {id}")
        assert tokens[: len(first := expected_answer(prompt, "AB"[len(id) % 2], 12))] == first
        assert sum(isinstance(event, Progress) and event.state == "running" for event in events) == 1
    assert engine.load.displaced > 0
    worker.close()
    assert await asyncio.wait_for(task, PATIENCE) == 0
    engine.close()
