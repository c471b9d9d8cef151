"""The process that trains one job for the training server: ``python -m inference.training.child``.

It reads a `Train` as the first line of its input and writes events, one a line, the last of which is an end. When its
input ends or it gets SIGTERM it keeps a checkpoint and ends with `TrainingCancelled`: no child outlives its server.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from inference.adapters.gate_head import GATE_FILE
from inference.adapters.stored import FILES, AdapterNotFound, cache_of, held
from inference.bases import base_name
from inference.config import EngineConfig, read_config, start_logging
from inference.fetch import FetchError, find_model
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
from inference.server.spare_time import take_spare_time
from inference.server.trained import give_back, take_rows
from inference.tasks.card import CARD
from inference.tasks.data import DataError, read_split
from inference.tasks.gate_recipe import GateRecipe, parse_gate_recipe
from inference.tasks.recipe import Recipe, parse_recipe

if TYPE_CHECKING:
    from inference.training.gate_run import GateJob
    from inference.training.loop import Step
    from inference.training.run import Job

ROOM: Final = 256 * 2**20
"""Bytes that must be free for checkpoints and the adapter."""
PACE_SECONDS: Final = 0.2
"""Steps that follow each other faster are not all told."""

Tell = Callable[[TrainingEvent], None]

log = logging.getLogger(__name__)


def main() -> int:
    """Train what the input asks for; 0 when an end was told. The `Share` of the processor is the one argument."""
    start_logging()
    if sys.argv[1:] != ["full"]:
        take_spare_time()
    tell, unwanted = _teller(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: unwanted.set())
    job: Train = decode(sys.stdin.readline())
    threading.Thread(target=_await_silence, args=[unwanted], daemon=True).start()
    tell(outcome(job, tell, lambda: not unwanted.is_set()))
    return 0


def outcome(job: Train, tell: Tell, is_wanted: Callable[[], bool]) -> TrainingEnd:
    """Do `job` and say how it ended; whatever goes wrong is told as a sentence."""
    try:
        config = read_config(base=job.base)
        data, out = (_place(config.var_dir, folder) for folder in (job.data, job.out))
        take_rows(config.adapter_store, job.id, data)
        recipe = parse_recipe("this training", job.recipe)
        read_split(data, recipe.task, recipe.field_names)
        base = find_model(config)
        _make_room(out)
        gate = parse_gate_recipe(job.gate) if job.gate else None
        report = Reporter((gate or recipe).schedule.steps, tell)
        report.begin()
        end = _train(config, recipe, gate, (data, out, base), report, is_wanted)
        if isinstance(end, Trained):
            give_back(config.adapter_store, job.id, out, (*FILES, GATE_FILE, CARD))
        return end
    except Exception as error:
        # The last line of defence: an end that nobody hears of would be tried again and again.
        reason = _reason(error)
        if reason is None:
            log.exception("failed id=%s", job.id)
            reason = f"the training met an error that is not its owner's fault: {type(error).__name__}, {error}"
        return TrainingFailed(" ".join(reason.split()))


def _train(
    config: EngineConfig,
    recipe: Recipe,
    gate: GateRecipe | None,
    folders: tuple[Path, Path, Path],
    report: Reporter,
    is_wanted: Callable[[], bool],
) -> TrainingEnd:
    """`folders` are those of the rows, of what is trained and of the base."""
    # Imported after everything that can be refused without it: torch takes seconds.
    import torch

    from inference.training.any_base import train
    from inference.training.gate_run import train_gate
    from inference.training.run import Cancelled, Job

    torch.set_num_threads(1)
    device = torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
    job = Job(recipe, *folders, base_name(config.base_model), device)
    try:
        if gate:
            with _parts_of(gate, config) as parts:
                blend = train_gate(_gate_job(job, gate, parts, config), report, is_wanted, measured_on="test")
            return Trained(str(job.out), blend.rows, blend.minutes)
        [done] = train([job], report, is_wanted)
    except Cancelled:
        return TrainingCancelled(report.step)
    return Trained(str(done.job.out), done.rows, done.minutes)


@contextmanager
def _parts_of(gate: GateRecipe, config: EngineConfig) -> Iterator[tuple[Path, ...]]:
    """The folders of the adapters that `gate` weighs, which stay while it learns."""
    cache = cache_of(config.adapter_store, config.adapters_dir, config.adapter_cache_mb)
    with ExitStack() as stack:
        if cache:
            yield tuple(stack.enter_context(held(cache, digest)) for digest in gate.parts)
        else:
            yield tuple(_place(config.adapters_dir, digest) for digest in gate.parts)


def _gate_job(job: Job, gate: GateRecipe, parts: tuple[Path, ...], config: EngineConfig) -> GateJob:
    """The same of a gate over stored adapters."""
    from inference.training.gate_run import GateJob

    rows = ((job.recipe, job.data),)
    return GateJob(gate, parts, rows, job.out, job.base, job.base_name, job.device, config.max_rank)


class Reporter:
    """Tells the steps of one training and how long the rest will take."""

    def __init__(self, steps: int, tell: Tell) -> None:
        self._steps, self._tell = steps, tell
        self._told = 0.0
        self._first: tuple[float, int] | None = None
        self.step = 0

    def begin(self) -> None:
        self._tell(TrainingProgress(0, self._steps))

    def __call__(self, step: Step) -> None:
        now = time.monotonic()
        self.step = step.number
        # The first step of an attempt compiles and warms up: the second is the first to be timed.
        self._first = self._first or (now, step.number)
        if now - self._told >= PACE_SECONDS or step.number == self._steps:
            self._told = now
            self._tell(TrainingProgress(step.number, self._steps, step.loss, self._seconds_left(now)))

    def _seconds_left(self, now: float) -> float | None:
        assert self._first
        since, first = self._first
        return (now - since) / (self.step - first) * (self._steps - self.step) if self.step > first else None


def _place(var_dir: Path, folder: str) -> Path:
    place = (var_dir / folder).resolve()
    if var_dir.resolve() not in place.parents:
        raise DataError(f"the folder {folder} does not lie below {var_dir}, where trainings read and write")
    return place


def _make_room(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(out).free) < ROOM:
        raise OSError(errno.ENOSPC, f"{free >> 20} MB are free", str(out))


def _reason(error: Exception) -> str | None:
    """What to tell the owner of a training that ended with `error`; None when it says nothing to them."""
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
        return f"the disk of the training server is full ({error}); free {ROOM >> 20} MB and train again"
    # torch's error of a GPU, which cannot be named before torch is there, and the one of its allocator on a CPU
    if isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error):
        return (
            "the memory did not suffice; take a smaller batch, a lower rank or a smaller max_length, "
            "or give the training server a device with more of it (TRAINER_DEVICE)"
        )
    if isinstance(error, ValueError | FetchError | FloatingPointError | OSError | AdapterNotFound):
        return str(error)
    return None


def _teller() -> Tell:
    """What writes events to the server; whatever else is printed goes to standard error."""
    lines = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1, encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def tell(event: TrainingEvent) -> None:
        try:
            print(encode(event), file=lines)
        except BrokenPipeError:
            log.warning("nobody listens event=%s", event)

    return tell


def _await_silence(unwanted: threading.Event) -> None:
    """Wait until the server has closed our input, which it does when it ends, in whatever way."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    unwanted.set()


if __name__ == "__main__":
    sys.exit(main())
