"""What all stages of a benchmark share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from inference.bases import DEFAULT_BASE_MODEL
from tests.bench import site
from tests.bench.load import Target, measure
from tests.bench.random_adapters import write_adapters
from tests.bench.record import Record, Run
from tests.bench.tasks import Task, read_tasks
from tests.bench.workloads import WORKLOADS, Ask, Prompts

ROWS_PER_TASK: Final = 8


@dataclass
class Bench:
    """What all stages share: the record, a directory to work in, and what is wanted how often."""

    record: Record
    directory: Path
    models: Path
    only: tuple[str, ...]
    systems: tuple[str, ...]
    runs: int
    peers: Path
    data: Path | None

    @property
    def base(self) -> Path:
        return self.models / DEFAULT_BASE_MODEL

    @cached_property
    def prompts(self) -> Prompts:
        return Prompts(self.base)

    @cached_property
    def adapters(self) -> dict[str, Path]:
        """The random adapters of the workloads, by name."""
        return {path.name: path for path in write_adapters(self.base, self.directory / "adapters")}

    @cached_property
    def tasks(self) -> list[Task]:
        return read_tasks(self.data, ROWS_PER_TASK)

    def site(self, **settings: str) -> AbstractContextManager[site.Site]:
        return site.running(self.directory / "var", self.models, site.PLAIN | settings)

    def wanted(self, system: str, names: Iterable[str]) -> list[str]:
        """Those of `names` that are asked for and not yet measured."""
        return [name for name in names if name in self.only and self.record.missing(system, name, self.runs)]

    def fill(self, system: str, name: str, run: Callable[[int], Run]) -> None:
        if name in self.wanted(system, [name]):
            self.record.fill(system, name, self.runs, run)

    def asks(self, name: str, run: object) -> list[Ask]:
        workload = WORKLOADS[name]
        return self.prompts.asks(workload.models, workload.requests, f"{name}-{run}")

    def load(self, system: str, name: str, target: Target, wanted: Iterable[str]) -> None:
        """One workload on a server, if `wanted`: all its runs, after a request of each user and adapter to warm up."""
        if name not in wanted:
            return
        workload = WORKLOADS[name]
        warm = self.prompts.asks(workload.models, max(workload.users, len(workload.models)), f"{name}-warm")
        measure(target, [Ask(ask.model, ask.prompt, 4) for ask in warm], workload.users)
        self.fill(system, name, lambda run: asdict(measure(target, self.asks(name, run), workload.users)))
