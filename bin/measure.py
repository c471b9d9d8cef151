#!/usr/bin/env python3
"""What the code measures, each figure beside its bound; ends with 1 where one is broken. `make check` runs it.

What keeps a module in its place: each of `inference` belongs to a room that the contract of its floors names. So does
each package of `loraland`; the modules beside those start and wrap them, and are covered as all of the site is by "The
site never loads torch".
"""

from __future__ import annotations

import ast
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from source import Module, imports, modules


@dataclass(frozen=True)
class Figure:
    what: str
    value: float
    bound: float
    offenders: tuple[str, ...] = ()

    @property
    def is_kept(self) -> bool:
        return self.value <= self.bound

    def __str__(self) -> str:
        told = "" if self.is_kept else f"  BROKEN {', '.join(self.offenders)}".rstrip()
        return f"{self.what:<62}{self.value:>8,.0f}  at most {self.bound:,.0f}{told}"


def main() -> int:
    repo = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]
    figures = measure(repo)
    print(*figures, sep="\n")
    return 0 if all(figure.is_kept for figure in figures) else 1


def measure(repo: Path) -> list[Figure]:
    known = modules(repo)
    project = tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    lengths = sorted(length for module in known.values() for length in _function_lengths(module))
    return [
        _counted("modules of inference beside its rooms", _flat(known, "inference"), 6),
        _counted("modules outside the import contracts", _uncovered(known, contracts), 0),
        _counted("names of inference's modules typed in pyproject.toml", _typed(project), 28),
        _counted("circles of imports", _circles(known), 0),
        Figure("lines of a function, median", median(lengths), 8),
        Figure("lines of a function, nine of ten at most", quantiles(lengths, n=10)[-1], 30),
        Figure("lines of production code", sum(module.text.count("\n") for module in known.values()), 63_000),
    ]


def _counted(what: str, names: list[str], bound: int) -> Figure:
    return Figure(what, len(names), bound, tuple(names))


def _flat(known: dict[str, Module], house: str) -> list[str]:
    return [name for name, module in known.items() if name.rpartition(".")[0] == house and not module.is_package]


def _uncovered(known: dict[str, Module], contracts: list[dict[str, Any]]) -> list[str]:
    floors = {f"{container}.{room}" for container, room in _floors(contracts)}
    beside = {name for name, module in known.items() if name.count(".") == 1 and not module.is_package}
    sites_own = {name for name in beside if name.startswith("loraland.")}
    return [name for name in known if "." in name and _room(name) not in floors | sites_own]


def _room(name: str) -> str:
    return ".".join(name.split(".")[:2])


def _floors(contracts: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [
        (container, room.strip())
        for contract in contracts
        if contract["type"] == "layers"
        for container in contract["containers"]
        for floor in contract["layers"]
        for room in floor.split("|")
    ]


def _typed(project: dict[str, Any]) -> list[str]:
    """The floors, the modules without torch and those of strict typing: what has to follow when a module moves."""
    contracts = project["tool"]["importlinter"]["contracts"]
    listed = [f"{container}.{room}" for container, room in _floors(contracts)]
    listed += [name for contract in contracts for name in contract.get("source_modules", ())]
    for override in project["tool"]["mypy"]["overrides"]:
        listed += [override["module"]] if isinstance(override["module"], str) else override["module"]
    return [name for name in listed if name.startswith("inference.")]


def _circles(known: dict[str, Module]) -> list[str]:
    """Each set of modules that import one another, directly or through others."""
    below = {name: imports(module, known) for name, module in known.items()}
    reached = {name: _reached(name, below) for name in below}
    circles = {frozenset(other for other in reached[name] if name in reached[other]) for name in below}
    return [" <-> ".join(sorted(circle)) for circle in circles if circle]


def _reached(start: str, below: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for name in below[waiting.pop()] - seen:
            seen.add(name)
            waiting.append(name)
    return seen


def _function_lengths(module: Module) -> list[int]:
    functions = (node for node in ast.walk(module.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return [(node.end_lineno or node.lineno) - node.lineno + 1 for node in functions]


if __name__ == "__main__":
    sys.exit(main())
