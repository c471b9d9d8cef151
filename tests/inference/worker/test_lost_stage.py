"""Workers whose base is shared by processes: a stage that dies ends its worker, and others go on with its answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoints import make_model
from test_takeover import Reader, owner, ready, server, start, wire

from inference.wire.protocol import Finished, Generate, Sampling, StageLoad
from inference.wire.redis_wire import RedisWire
from tests.inference.engines import VOCAB, make_tokenizer
from tests.patience import PATIENCE

__all__ = ["server", "start", "wire"]
pytestmark = pytest.mark.slow
COMMAND = [sys.executable, "-m", "inference"]
NUM_TOKENS = 400


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = {"vocab_size": VOCAB, "num_hidden_layers": 4, "max_position_embeddings": 1024}
    return make_tokenizer(make_model(tmp_path_factory.mktemp("model") / "tiny", **shape))


@pytest.fixture
def begin(server, start, model: Path) -> Callable[[str, int], object]:
    env = {"REDIS_URL": server.url, "BASE_MODEL": str(model), "LEASE_SECONDS": "2", "DEVICE": "cpu", "THREADS": "1"}
    return lambda name, stages: start(
        name, command=COMMAND, env={**env, "WORKER_NAME": name, "STAGES": f"{stages}", "VAR_DIR": str(model.parent)}
    )


async def ask(wire: RedisWire, id: str) -> Reader:
    sampling = Sampling(temperature=0.9, seed=5, max_tokens=NUM_TOKENS, ignore_eos=True)
    await wire.submit(Generate(id, prompt="a lighthouse", sampling=sampling), "tiny", "chat", 100)
    return Reader(wire, id)


async def stages(wire: RedisWire, name: str) -> tuple[StageLoad, ...]:
    async with asyncio.timeout(PATIENCE):
        while True:
            for beat in await wire.heartbeats("tiny"):
                if beat.worker == name and beat.load.stages:
                    return beat.load.stages
            await asyncio.sleep(0.05)


async def gone(stage: StageLoad) -> None:
    """Wait until its process has ended."""
    with contextlib.suppress(ProcessLookupError):
        async with asyncio.timeout(PATIENCE):
            while True:
                os.kill(stage.process, 0)
                await asyncio.sleep(0.05)


async def test_an_answer_of_which_a_stage_has_died_is_completed_by_a_worker_of_one_process(wire, begin) -> None:
    shared, alone = begin("shared", 2), begin("alone", 1)
    await ready(wire, "tiny", "alone", "shared")
    assert len({beat.fingerprint for beat in await wire.heartbeats("tiny")}) == 1
    alone.send_signal(signal.SIGSTOP)
    undisturbed = await ask(wire, "undisturbed")
    await undisturbed.end()
    disturbed = await ask(wire, "disturbed")
    await disturbed.seen(20)
    assert await owner(wire, "disturbed") == "shared"
    os.kill((await stages(wire, "shared"))[1].process, signal.SIGKILL)
    alone.send_signal(signal.SIGCONT)
    end = await disturbed.end()
    assert isinstance(end, Finished)
    assert end.stats.takeovers == 1
    assert disturbed.token_ids == undisturbed.token_ids
    assert shared.wait(PATIENCE) == 1


async def test_a_worker_without_work_notices_too(wire, begin) -> None:
    worker = begin("shared", 3)
    _, second, third = await stages(wire, "shared")
    os.kill(second.process, signal.SIGKILL)
    assert await asyncio.to_thread(worker.wait, PATIENCE) == 1
    assert not await wire.heartbeats("tiny")
    await gone(third)


async def test_a_worker_that_is_asked_to_leave_takes_its_stages_along(wire, begin) -> None:
    worker = begin("shared", 2)
    _, last = await stages(wire, "shared")
    # As whoever ends a whole group of processes does it.
    os.kill(last.process, signal.SIGTERM)
    await asyncio.sleep(1.5)
    worker.terminate()
    assert await asyncio.to_thread(worker.wait, PATIENCE) == 0
    await gone(last)
