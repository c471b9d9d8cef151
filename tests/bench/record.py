"""The file that a benchmark fills run by run, so that one which was interrupted can go on."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.site import REPO

Run = dict[str, Any]


class Record:
    """Runs by system and workload, kept in `path`."""

    def __init__(self, path: Path, is_resumed: bool) -> None:
        self._path = path
        self.runs: dict[str, dict[str, list[Run]]] = {}
        self.about = {"began": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "code": _commit(), **machine()}
        if is_resumed and path.is_file():
            kept = json.loads(path.read_text())
            self.runs, self.about = kept["runs"], kept["about"]

    def missing(self, system: str, workload: str, times: int) -> int:
        return max(0, times - len(self.runs.get(system, {}).get(workload, [])))

    def fill(self, system: str, workload: str, times: int, run: Callable[[int], Run]) -> None:
        """Do the runs that are missing; `run` gets their numbers."""
        for number in range(times - self.missing(system, workload, times), times):
            self.add(system, workload, run(number))

    def add(self, system: str, workload: str, run: Run) -> None:
        self.runs.setdefault(system, {}).setdefault(workload, []).append(run)
        print(f"{system:<24}{workload:<12}{_short(run)}", flush=True)
        self.save()

    def save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        whole = {"about": self.about, "medians": self.medians(), "runs": self.runs}
        self._path.write_text(json.dumps(whole, indent=1))

    def medians(self) -> dict[str, dict[str, Run]]:
        return {
            system: {workload: _median(runs) for workload, runs in workloads.items()}
            for system, workloads in self.runs.items()
        }


def machine() -> dict[str, str]:
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    flags = processor_flags()
    useful = [
        flag for flag in ("avx2", "avx_vnni", "avx512_bf16", "amx_bf16", "avx512_vnni", "amx_int8") if flag in flags
    ]
    return {
        "processor": f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, {' '.join(useful)}",
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
    }


def processor_flags() -> list[str]:
    """What Linux says this processor has, by its own words; nothing elsewhere."""
    return next((line for line in _cpuinfo() if line.startswith("flags")), "").split()


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def _commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=REPO, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def _median(runs: list[Run]) -> Run:
    """The median of every number; of what is nested too. Anything else is the last run's."""
    names = {name for run in runs for name in run}
    return {name: _median_of([run[name] for run in runs if name in run]) for name in sorted(names)}


def _median_of(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return _median(values)
    return statistics.median(values) if isinstance(values[0], int | float) else values[-1]


def _short(run: Run) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in run.items() if isinstance(value, int | float))
