"""Systems without a server, each a process that measures one run after another; all of a workload take theirs in turn.

So what the machine gives more or less of from minute to minute, it gives to all of them, and their ratios hold.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from inference.bases import DEFAULT_BASE_MODEL
from inference.fetch import packaged_file
from tests.bench import site
from tests.bench.bench import Bench
from tests.bench.peers import find_peer
from tests.bench.record import Run
from tests.bench.workloads import NEW_TOKENS, WORKLOADS

HEEDED: Final = (
    *("DECODER", "DECODER_UNIT", "DTYPE", "QUANTIZATION", "THREADS"),
    *("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"),
)
"""What the environment of the benchmark says of the engines that it measures."""
_AVX2: Final = {"DECODER": "native", "DECODER_UNIT": "avx2", "DTYPE": "bfloat16", "QUANTIZATION": "none"}
_TORCH_AVX2: Final = {"DECODER": "torch", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
_TORCH_AVX2 |= {"DECODER_UNIT": "", "QUANTIZATION": "none"}


@dataclass(frozen=True)
class System:
    """One row of the figures, of a `group` of `--systems`: an engine with `settings`, or the library of a `peer`."""

    name: str
    group: str
    workloads: tuple[str, ...]
    settings: dict[str, str] = field(default_factory=dict)
    peer: str = ""


SYSTEMS: Final = (
    System("engine", "engine", tuple(WORKLOADS)),
    System("engine int8", "bits", ("w1", "w3"), {"QUANTIZATION": "int8"}),
    System("engine int4", "bits", ("w1", "w3"), {"QUANTIZATION": "int4"}),
    System("engine avx2", "avx2", ("w1", "w2"), _AVX2),
    System("engine avx2 int4", "avx2", ("w1",), _AVX2 | {"QUANTIZATION": "int4"}),
    System("torch avx2 bf16", "avx2", ("w1", "w2"), _TORCH_AVX2 | {"DTYPE": "bfloat16"}),
    System("torch avx2 float32", "avx2", ("w1", "w2"), _TORCH_AVX2 | {"DTYPE": "float32"}),
    System("llama.cpp", "llama", ("w1",), peer="llama"),
    System("llama.cpp avx2", "llama", ("w1",), peer="llama-avx2"),
)


def in_turn(bench: Bench) -> None:
    """The workloads on the engine alone, as it is set up and restricted, and on libraries."""
    digests = dict[str, str]()
    for name in WORKLOADS:
        systems = [system for system in SYSTEMS if _is_wanted(bench, system, name)]
        if systems:
            digests = digests or _store(bench)
            _take_turns(bench, name, systems, digests)


def engine_variables(bench: Bench, settings: dict[str, str]) -> dict[str, str]:
    """The environment of an engine over the benchmark's own store."""
    heeded = {name: os.environ[name] for name in HEEDED if name in os.environ}
    return site.environment() | site.PLAIN | heeded | settings | {"VAR_DIR": str(bench.directory / "store")}


def _is_wanted(bench: Bench, system: System, name: str) -> bool:
    is_there = not system.peer or find_peer(bench.peers, system.peer) is not None
    is_asked = system.group in bench.systems and name in system.workloads
    return is_there and is_asked and bool(bench.wanted(system.name, [name]))


def _take_turns(bench: Bench, name: str, systems: list[System], digests: dict[str, str]) -> None:
    """Each run of a workload by every system before the next one; another begins each time."""
    with ExitStack() as stack:
        processes = {system.name: stack.enter_context(_started(bench, system)) for system in systems}
        live = [(name, process) for name, process in processes.items() if not process.refusal]
        for number in range(bench.runs):
            asks = bench.asks(name, f"direct-{number}")
            run = {
                "users": WORKLOADS[name].users,
                "asks": [(digests.get(ask.model, ""), ask.prompt, NEW_TOKENS) for ask in asks],
            }
            turn = number % max(1, len(live))
            for system, process in live[turn:] + live[:turn]:
                if bench.record.missing(system, name, number + 1):
                    bench.record.add(system, name, process.measure(run))


class Process:
    """A system that is ready, or has said in a sentence why it cannot be had here: its `refusal`."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self._name, self._process, self._is_fresh = name, process, True
        told = self._read()
        self.unit, self.refusal = str(told.get("unit", "")), str(told.get("refused", ""))
        print(f"{name:<24}{self.refusal or self.unit or 'ready'}", flush=True)

    def measure(self, run: dict[str, Any]) -> Run:
        """The figures of `run`. The first is warmed up for."""
        assert self._process.stdin
        print(json.dumps(run | {"is_first": self._is_fresh}), file=self._process.stdin, flush=True)
        self._is_fresh = False
        return self._read() | {"unit": self.unit}

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        raise RuntimeError(f"{self._name} ended with exit code {self._process.wait()}; see above")


@contextmanager
def _started(bench: Bench, system: System) -> Iterator[Process]:
    command, variables = [sys.executable, "-m", "tests.bench.direct"], engine_variables(bench, system.settings)
    if peer := find_peer(bench.peers, system.peer) if system.peer else None:
        file, threads = packaged_file(DEFAULT_BASE_MODEL), os.environ.get("THREADS") or os.cpu_count()
        command = [str(peer / "bin" / "python"), "-m", "tests.bench.llama", str(file), str(threads)]
        variables = site.environment()
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=site.REPO, env=variables, text=True, **streams) as process:
        try:
            yield Process(system.name, process)
        finally:
            assert process.stdin
            process.stdin.close()


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
