"""The process that trains for the server: what it refuses, and that nothing that ends it changes what is learnt."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from redis import Redis

from inference.adapters.gate_file import GATE_FILE, read_gate
from inference.model.architecture import read_architecture
from inference.server import queue
from inference.server.protocol import (
    Train,
    Trained,
    TrainingCancelled,
    TrainingEnd,
    TrainingEvent,
    TrainingFailed,
    TrainingProgress,
    is_end,
)
from inference.server.serve import ServerConfig, TrainingServer
from inference.server.spare_time import AUTOGROUP
from inference.tasks.gate_recipe import GateRecipe, gate_recipe_text
from inference.tasks.recipe import RECIPES, Schedule
from inference.training import any_base, child
from inference.training.adapter import save_adapter
from tests.inference.training.test_gates import random_adapter
from tests.patience import PATIENCE, patiently

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[3]
STEPS = 30
WEIGHTS = "adapter_model.safetensors"


def recipe(**numbers: int) -> str:
    text = (RECIPES / "tweet_emotion.toml").read_text()
    for name, value in {"steps": STEPS, "batch": 4, **numbers}.items():
        text, found = re.subn(rf"(?m)^{name} = \d+", f"{name} = {value}", text)
        assert found == 1
    return text


@pytest.fixture
def job(base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """A training of moods below the VAR_DIR of this test."""
    monkeypatch.setenv("VAR_DIR", str(tmp_path))
    monkeypatch.setenv("DEVICE", "cpu")
    assert data == tmp_path / "data"
    return Train("t", recipe(), "data", "out", str(base))


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url, db=8, decode_responses=True, socket_timeout=PATIENCE) as client:
        client.flushdb()
        yield client


def end_of(job: Train, is_wanted: Callable[[], bool] = lambda: True) -> tuple[TrainingEnd, list[TrainingEvent]]:
    told: list[TrainingEvent] = []
    return child.outcome(job, told.append, is_wanted), told


def refusal(job: Train) -> str:
    end, _ = end_of(job)
    assert isinstance(end, TrainingFailed)
    assert "\n" not in end.reason
    return end.reason


def weights(job: Train, home: Path) -> bytes:
    """The adapter of an undisturbed training of the same recipe and rows."""
    end, _ = end_of(replace(job, out="undisturbed"))
    assert isinstance(end, Trained)
    return (home / "undisturbed" / WEIGHTS).read_bytes()


@pytest.fixture
def gate_job(job: Train, base: Path, tmp_path: Path) -> Train:
    """The same rows for a LoRA-Flow gate over two adapters in the store."""
    for number, digest in enumerate(("a" * 64, "b" * 64)):
        adapter = random_adapter(read_architecture(base / "config.json"), number)
        save_adapter(adapter, "base", tmp_path / "adapters" / digest)
    gate = GateRecipe("flow", ("a" * 64, "b" * 64), "b" * 64, schedule=Schedule(6, 4, 1e-2, max_length=100))
    return replace(job, gate=gate_recipe_text(gate))


# refusals


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"recipe": "steps = "}, "the recipe of this training cannot be read"),
        ({"recipe": recipe(steps=0)}, "steps in [training] is 0; it must be a whole number from 1"),
        ({"data": "nowhere"}, "it should hold train.jsonl and test.jsonl"),
        ({"data": "../elsewhere"}, "the folder ../elsewhere does not lie below"),
        ({"out": "."}, "the folder . does not lie below"),
        ({"base": "nowhere/at-all"}, "run `python -m inference.fetch` first"),
        ({"base": "a base"}, "BASE_MODEL=a base must end in a name"),
        ({"recipe": recipe(max_length=8)}, "fits max_length = 8 tokens; raise it"),
    ],
)
def test_a_job_that_cannot_be_done_is_refused_with_a_sentence(
    job: Train, changes: dict[str, str], problem: str
) -> None:
    assert problem in refusal(replace(job, **changes))


def test_a_row_that_does_not_fit_is_named_with_its_line_and_what_would_be_right(job: Train, data: Path) -> None:
    lines = (data / "train.jsonl").read_text().splitlines()
    lines[2] = '{"inputs": {"text": "hooray"}, "target": "joy"}'
    (data / "train.jsonl").write_text("\n".join(lines))
    assert refusal(job) == "train.jsonl, line 3 has the fields text; needed: tweet"


def test_a_disk_without_room_is_told_before_anything_is_trained(job: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child.shutil, "disk_usage", lambda place: SimpleNamespace(free=3 << 20))
    assert "3 MB are free" in refusal(job)
    assert "free 256 MB and train again" in refusal(job)


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk of the training server is full"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk of the training server is full"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "take a smaller batch"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "take a smaller batch"),
        (MemoryError(), "take a smaller batch"),
        (FloatingPointError("the loss of step 3 is nan; lower the learning rate"), "lower the learning rate"),
        (KeyError("lora_A"), "an error that is not its owner's fault: KeyError"),
    ],
)
def test_what_goes_wrong_while_training_is_told(
    job: Train, monkeypatch: pytest.MonkeyPatch, error: Exception, problem: str
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(any_base, "train", fail)
    assert problem in refusal(job)


# training


def test_a_training_begins_with_step_0_tells_its_last_step_and_leaves_an_adapter(job: Train, tmp_path: Path) -> None:
    end, told = end_of(job)
    assert isinstance(end, Trained)
    assert (end.folder, end.rows) == (str(tmp_path / "out"), 32)
    assert told[0] == TrainingProgress(0, STEPS)
    last = told[-1]
    assert isinstance(last, TrainingProgress)
    assert (last.step, last.seconds_left) == (STEPS, 0.0)
    assert {"adapter_config.json", WEIGHTS} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_a_training_that_is_stopped_goes_on_to_the_same_bits(job: Train, tmp_path: Path) -> None:
    asked = iter([True] * 3)
    end, _ = end_of(job, lambda: next(asked, False))
    assert end == TrainingCancelled(4)
    end, told = end_of(job)
    assert isinstance(end, Trained)
    assert min(event.step for event in told[1:]) == 5
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == weights(job, tmp_path)


def test_a_gate_over_stored_adapters_goes_on_where_it_was_stopped_and_leaves_its_losses(
    gate_job: Train, tmp_path: Path
) -> None:
    asked = iter([True] * 4)  # the first while its loss is measured
    end, _ = end_of(gate_job, lambda: next(asked, False))
    assert end == TrainingCancelled(4)
    end, told = end_of(gate_job)
    assert end == Trained(str(tmp_path / "out"), 32, end.minutes if isinstance(end, Trained) else 0)
    assert told[0] == TrainingProgress(0, 6)
    assert isinstance(told[-1], TrainingProgress)
    assert (told[1].step, told[-1].step) == (5, 6)  # type: ignore[union-attr]
    assert read_gate(tmp_path / "out" / GATE_FILE, hidden=32).kind == "flow"
    assert "loss_rows = 8\n" in (tmp_path / "out" / "card.toml").read_text()


def test_a_gates_part_that_is_gone_or_elsewhere_is_refused(gate_job: Train, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "adapters" / ("a" * 64))
    assert "there is no adapter in" in refusal(gate_job)
    assert "does not lie below" in refusal(replace(gate_job, gate=gate_job.gate.replace("b" * 64, "../data")))


PROMPT = (
    "import sys; from inference.training import child; child.take_spare_time = lambda: None; sys.exit(child.main())"
)
"""A child that does not wait for spare time, of which a machine that runs tests has little."""
DYING = """
import os, sys
from pathlib import Path
from inference.training import child

child.take_spare_time = lambda: None
note, report = Path(os.environ["VAR_DIR"]) / "steps", child.Reporter.__call__

def dying(self, step):
    report(self, step)
    before = note.read_text() if note.exists() else ""
    note.write_text(before + f"{step.number} ")
    if step.number == 27 and "27" not in before:
        os.kill(os.getpid(), 9)

child.Reporter.__call__ = dying
sys.exit(child.main())
"""


def until_its_end(redis: Redis, id: str) -> TrainingEvent:
    cursor = "0-0"
    for _ in patiently():
        news = queue.events(redis, id, cursor, block_ms=200)
        if news and is_end(news[-1][1]):
            return news[-1][1]
        cursor = news[-1][0] if news else cursor
    raise AssertionError(f"{id} did not end")


def test_a_child_that_is_killed_midway_goes_on_from_its_checkpoint_to_the_same_bits(
    job: Train, redis: Redis, tmp_path: Path
) -> None:
    queue.submit(redis, job)
    server = TrainingServer(redis, ServerConfig("one", 10.0, (sys.executable, "-c", DYING)))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert isinstance(until_its_end(redis, "t"), Trained)
    finally:
        server.close()
        thread.join()
    steps = [int(number) for number in (tmp_path / "steps").read_text().split()]
    assert steps == [*range(1, 28), *range(26, STEPS + 1)]
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == weights(job, tmp_path)


def test_the_server_that_is_told_to_end_keeps_a_checkpoint_and_gives_the_job_back(
    job: Train, redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    queue.submit(redis, replace(job, recipe=recipe(steps=100_000)))
    environment = {**os.environ, "REDIS_URL": f"{redis_url}?db=8", "WORKER_NAME": "trainer"}
    code = f"import sys; from inference.server import serve; sys.exit(serve.main((sys.executable, '-c', {PROMPT!r})))"
    server = subprocess.Popen([sys.executable, "-c", code], cwd=REPO, env=environment)
    while not any(isinstance(event, TrainingProgress) and event.step for _, event in queue.events(redis, "t")):
        assert server.poll() is None
        time.sleep(0.1)
    assert queue.servers(redis) == ["trainer"]
    server.send_signal(signal.SIGTERM)
    assert server.wait(PATIENCE) == 0
    assert queue.servers(redis) == []
    assert (tmp_path / "out" / "checkpoint.pt").is_file()
    mine = queue.claim(redis, 10.0)
    assert mine
    assert mine.attempts == 1
    assert mine.step > 0


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=REPO, env={**os.environ, **environment}, capture_output=True, text=True)


def test_the_server_and_the_checks_of_its_child_load_no_torch() -> None:
    code = "import sys, inference.server.serve, inference.training.child; print('torch' in sys.modules)"
    assert python(code).stdout == "False\n"
    code = "import sys; from inference.training.__main__ import main; print(main(['--serve']), 'torch' in sys.modules)"
    assert python(code, LEASE_SECONDS="for ever").stdout == "2 False\n"


SPARE = """
import os
from concurrent.futures import ThreadPoolExecutor
from inference.server.spare_time import AUTOGROUP, take_spare_time

take_spare_time()
policy = ThreadPoolExecutor().submit(os.sched_getscheduler, 0).result()
# In a control group of its own a process has a file that is empty: there are no shares of sessions.
share = (AUTOGROUP.read_text().split() if AUTOGROUP.exists() else []) or ["none"]
print(policy == os.SCHED_IDLE, os.nice(0), share[-1])
"""


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="only Linux has a policy for spare time")
@pytest.mark.parametrize("in_new_session", [True, False])
def test_a_child_takes_only_spare_time_and_slows_no_other_session(in_new_session: bool) -> None:
    def run(*command: str) -> list[str]:
        done = subprocess.run(command, cwd=REPO, start_new_session=in_new_session, capture_output=True, text=True)
        return done.stdout.split()

    # A new session may have a share where this one, as the first of its machine, has none.
    before = (run("cat", str(AUTOGROUP)) or ["none"])[-1]
    assert run(sys.executable, "-c", SPARE) == ["True", "19", "19" if in_new_session and before != "none" else before]
