"""What processes cost, from /proc: processor seconds by name, resident memory, and what strangers took meanwhile."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TICK: Final = os.sysconf("SC_CLK_TCK")
PAGE: Final = os.sysconf("SC_PAGE_SIZE")
PROC: Final = Path("/proc")


def children(pid: int) -> list[int]:
    """The process `pid` and all its descendants."""
    parents = {pid: stat[1] for pid in _pids() if (stat := _stat(PROC / str(pid)))}
    found = [pid]
    for parent in found:
        found += [child for child, of in parents.items() if of == str(parent)]
    return found


def name_of(pid: int) -> str:
    """What a process of the site is for; for a stranger, its program."""
    line = (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    known = {
        "inference.training": "trainer",
        " -m inference": "worker",
        "bench.hollow": "worker",
        "loraland.web": "web",
        "celery": "celery",
        " record": "recorder",
    }
    known |= {"redis-server": "redis", " -m loraland": "supervisor"}
    return next((name for part, name in known.items() if part in line), line.split(" ")[0].rsplit("/", 1)[-1])


def cpu_seconds(pid: int) -> Counter[str]:
    """Processor seconds so far of every process below `pid`, by name.

    A worker's are told apart: those of its main thread, where the event loop runs, and those of all others.
    """
    seconds: Counter[str] = Counter()
    for child in children(pid):
        try:
            name = name_of(child)
        except OSError:  # it has ended
            continue
        total = _seconds(PROC / str(child))
        if name == "worker":
            loop = _seconds(PROC / str(child) / "task" / str(child))
            seconds["worker's loop"] += loop
            seconds["worker's device"] += total - loop
        else:
            seconds[name] += total
    return seconds


def resident_mb(pid: int) -> float:
    """Resident memory of one process, in MB."""
    return int((PROC / str(pid) / "statm").read_text().split()[1]) * PAGE / 2**20


def machine_seconds() -> tuple[float, float]:
    """Processor seconds of the whole machine so far: those spent, and those that the hypervisor took away."""
    user, nice, system, _, _, irq, softirq, steal, *_ = map(int, (PROC / "stat").read_text().split("\n")[0].split()[1:])
    return (user + nice + system + irq + softirq) / TICK, steal / TICK


@dataclass(frozen=True)
class Meter:
    """A moment to which a later one is compared."""

    roots: tuple[int, ...]
    own: Counter[str]
    spent: float
    stolen: float

    @classmethod
    def start(cls, *roots: int) -> Meter:
        own = Counter[str]()
        for root in roots:
            own.update(cpu_seconds(root))
        return cls(roots, own, *machine_seconds())

    def since(self) -> tuple[dict[str, float], float]:
        """Processor seconds by name since then, and those of strangers, the hypervisor among them."""
        now = Meter.start(*self.roots)
        own = {name: round(value - self.own[name], 3) for name, value in now.own.items()}
        strangers = now.spent - self.spent + now.stolen - self.stolen - sum(own.values())
        return own, round(max(0.0, strangers), 3)


def _pids() -> list[int]:
    return [int(path.name) for path in PROC.iterdir() if path.name.isdigit()]


def _seconds(place: Path) -> float:
    stat = _stat(place)
    return (int(stat[11]) + int(stat[12])) / TICK if stat else 0.0


def _stat(place: Path) -> list[str]:
    """The fields of a stat file behind the program's name: the state comes first, then the parent."""
    try:
        return (place / "stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return []
