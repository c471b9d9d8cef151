"""The order of a benchmark: which server stands when, and what is measured on it; what is done is left out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from inference.config import DEFAULT_BASE_MODEL
from inference.fetch import packaged_file
from tests.bench import scenarios, site, vllm
from tests.bench.load import Target, measure
from tests.bench.processes import resident_mb
from tests.bench.random_adapters import write_adapters
from tests.bench.record import Record, Run
from tests.bench.tasks import Task, read_tasks
from tests.bench.training import beside_training
from tests.bench.workloads import NARROW, NEW_TOKENS, WIDE, WORKLOADS, Ask, Prompts

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
    vllm: Path | None
    llama: Path | None
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


def plain_site(bench: Bench) -> None:
    """The workloads and what else needs no cache, on one site; wide adapters come when memory has been read."""
    wanted = bench.wanted("site", WORKLOADS) if "site" in bench.systems else []
    others = bench.wanted("scenarios", ("startup", "fairness", "crowd", "cold"))
    if not wanted and not others:
        return
    with bench.site() as live:
        live.import_adapters([bench.adapters[name] for name in NARROW])
        for name in ("w1", "w2", "w3"):
            bench.load("site", name, live.target, wanted)
        if "w3" in wanted:
            bench.record.add("scenarios", "memory", {"worker_mb": resident_mb(live.worker)})
        bench.load("site", "w4", live.target, wanted)
        bench.fill("scenarios", "startup", lambda run: scenarios.startup(live))
        bench.fill("scenarios", "fairness", lambda run: scenarios.fairness(live, bench.prompts, f"fairness-{run}"))
        if "w5" in wanted:
            live.import_adapters([bench.adapters[name] for name in WIDE])
            bench.load("site", "w5", live.target, wanted)
        if {"crowd", "cold"} & set(others):
            scenarios.register_crowd(live, bench.base)
            bench.fill("scenarios", "crowd", lambda run: scenarios.crowd(live, bench.prompts, f"crowd-{run}"))
            bench.fill("scenarios", "cold", lambda run: scenarios.cold(live, bench.prompts, str(run)))


def quantised_site(bench: Bench) -> None:
    """One user and many of a site whose base has fewer bits."""
    for quantization in ("int8", "int4"):
        system = f"site {quantization}"
        wanted = bench.wanted(system, ("w1", "w3")) if "site" in bench.systems else []
        if wanted:
            with bench.site(QUANTIZATION=quantization) as live:
                live.import_adapters([bench.adapters[name] for name in NARROW])
                for name in wanted:
                    bench.load(system, name, live.target, wanted)


def overhead(bench: Bench) -> None:
    """What every process but the engine costs at 1,000 tokens a second."""
    if bench.wanted("scenarios", ["overhead"]):
        with site.running(bench.directory / "hollow", bench.models, site.PLAIN, worker="tests.bench.hollow") as live:
            bench.fill("scenarios", "overhead", lambda run: scenarios.overhead(live, bench.prompts, f"overhead-{run}"))


def prefix_cache(bench: Bench) -> None:
    if bench.wanted("scenarios", ["prefix"]):
        with bench.site(PREFIX_CACHE="on") as live:
            bench.fill("scenarios", "prefix", lambda run: scenarios.prefix(live, bench.prompts, bench.tasks, str(run)))


def training(bench: Bench) -> None:
    if bench.wanted("scenarios", ["training"]):
        with bench.site() as live:
            bench.fill("scenarios", "training", lambda run: beside_training(live, bench.prompts, f"training-{run}"))


def speculation(bench: Bench) -> None:
    """The same rows with speculation off and on, one user and eight; the answers must be the same."""
    if not bench.wanted("scenarios", ["speculation"]):
        return
    told: list[Run] = [{} for _ in range(bench.runs)]
    texts = set[str]()
    for setting in ("off", "on"):
        with bench.site(SPECULATION=setting) as live:
            scenarios.answers_of(live, bench.tasks, 8)
            for run in told:
                for users in (1, 8):
                    answered = scenarios.answers_of(live, bench.tasks, users)
                    run[f"{setting}_{users}_users"] = answered["tokens_per_second"]
                    texts.add(json.dumps(answered["texts"]))
    for run in told:
        run |= {f"gain_{users}_users": run[f"on_{users}_users"] / run[f"off_{users}_users"] for users in (1, 8)}
        bench.record.add("scenarios", "speculation", run | {"different_answers": len(texts) - 1})


def direct(bench: Bench) -> None:
    """The workloads on the engine alone, in a process of its own, over the same store of adapters."""
    names = bench.wanted("engine", WORKLOADS) if "engine" in bench.systems else []
    if not names:
        return
    digests, runs = _store(bench), []
    for name in names:
        users = WORKLOADS[name].users
        for number in range(bench.runs):
            asks = [
                (digests.get(ask.model, ""), ask.prompt, NEW_TOKENS) for ask in bench.asks(name, f"direct-{number}")
            ]
            runs.append({"users": users, "asks": asks, "is_first": number == 0})
    variables = site.environment() | site.PLAIN | {"VAR_DIR": str(bench.directory / "store")}
    told = _told("tests.bench.direct", runs, variables)
    for name in names:
        for _ in range(bench.runs):
            bench.record.add("engine", name, next(told))


def peft(bench: Bench) -> None:
    """The workloads offline, one static batch after another, through PEFT (W4: transformers alone)."""
    names = bench.wanted("peft", WORKLOADS) if "peft" in bench.systems else []
    if not names:
        return
    runs = []
    for name in names:
        asks = bench.asks(name, "peft")[: max(WORKLOADS[name].users, 2)]
        models, prompts = [ask.model for ask in asks], [ask.prompt for ask in asks]
        runs.append({"users": WORKLOADS[name].users, "models": models, "prompts": prompts, "tokens": NEW_TOKENS})
        runs[-1]["times"] = bench.runs
    adapters = next(iter(bench.adapters.values())).parent
    asked = {"base": str(bench.base), "adapters": str(adapters), "runs": runs}
    told = _told("tests.bench.peft_batch", asked, site.environment())
    for name in names:
        for _ in range(bench.runs):
            bench.record.add("peft", name, next(told))


def vllm_variants(bench: Bench) -> None:
    """vLLM, each variant started once, with the same load generator."""
    for variant, names in vllm.WORKLOADS_OF.items():
        wanted = bench.wanted(variant, names) if bench.vllm else []
        if not wanted or bench.vllm is None:
            continue
        adapters = next(iter(bench.adapters.values())).parent
        with vllm.running(bench.vllm, variant, bench.base, adapters, bench.directory / "vllm.log") as (target, seconds):
            bench.record.add(variant, "start", {"ready_seconds": seconds})
            for name in wanted:
                bench.load(variant, name, target, wanted)


def llama_cpp(bench: Bench) -> None:
    """W1 of the base's file of four bits in llama.cpp, which has no adapter to apply."""
    if not bench.llama or not bench.wanted("llama.cpp", ["w1"]):
        return
    runs = [
        {"prompts": [ask.prompt for ask in bench.asks("w1", f"llama-{number}")], "tokens": NEW_TOKENS}
        for number in range(bench.runs)
    ]
    asked = {"model": str(packaged_file(DEFAULT_BASE_MODEL)), "threads": os.cpu_count(), "runs": runs}
    for run in _told("tests.bench.llama", asked, site.environment(), bench.llama / "bin" / "python"):
        bench.record.add("llama.cpp", "w1", run)


STAGES: Final = (
    overhead,
    plain_site,
    quantised_site,
    direct,
    vllm_variants,
    llama_cpp,
    peft,
    prefix_cache,
    speculation,
    training,
)


def _store(bench: Bench) -> dict[str, str]:
    """A store of the random adapters for an engine of its own; their digests by name."""
    from inference.adapters.identity import adapter_digest

    home = bench.directory / "store"
    (home / "adapters").mkdir(parents=True, exist_ok=True)
    (home / "models").symlink_to(bench.models.resolve())
    digests = {}
    for name, path in bench.adapters.items():
        config = json.loads((path / "adapter_config.json").read_text())
        digests[name] = adapter_digest(config, path / "adapter_model.safetensors")
        (home / "adapters" / digests[name]).mkdir()
        for file in path.iterdir():
            (home / "adapters" / digests[name] / file.name).hardlink_to(file)
    return digests


def _told(
    module: str, asked: Any, variables: dict[str, str], python: str | Path = sys.executable
) -> Iterator[dict[str, float]]:
    """What a measuring process of its own writes, one run a line, as it comes."""
    command, streams = [str(python), "-m", module], {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=site.REPO, env=variables, text=True, **streams) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(asked))
        process.stdin.close()
        yield from (json.loads(line) for line in process.stdout if line.startswith("{"))
    if process.returncode:
        raise RuntimeError(f"{module} ended with exit code {process.returncode}; see above")
