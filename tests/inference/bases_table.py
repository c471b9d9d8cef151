"""`python -m tests.inference.bases_table`: run what is claimed of each family of bases, and write docs/bases.md of it.

A test that shows something of a family says so, ``@pytest.mark.cell(COLUMN, WHO)``, and is parametrised by `variant`;
``{kind}`` in a column stands for its parameter of that name. What passed is kept in a report, and the table is written
from it; ``--render`` writes the table again from the last report.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any, Final

import pytest

from inference.decoders.native.build import library_path, missing_feature

REPO: Final = Path(__file__).parents[2]
HERE: Final = Path(__file__).parent
REPORT: Final = HERE / "reports" / "bases.json"
DOCUMENT: Final = REPO / "docs" / "bases.md"
BEGIN, END = "<!-- what was run: begin -->", "<!-- what was run: end -->"
COLUMNS: Final = {
    "full": "in full",
    "bfloat16": "bfloat16",
    "bits": "bits in any company",
    "gguf": "GGUF",
    "gptq": "GPTQ",
    "awq": "AWQ",
    "nested nf4": "NF4",
    "llm.int8": "LLM.int8",
    "adapters": "adapters on all linears",
    "alone": "on each alone",
    "biases": "biases of adapters",
    "engine": "engine",
    "gradients": "gradients",
    "learns": "training",
}
"""What is shown, and its head in the table."""
WHO: Final = {"torch": "T", "C++": "C", "Triton": "G", "engine": "", "own": "own ", "PEFT": "PEFT "}
"""Who computes it, and its letter."""

Cell = tuple[str, str, str]
"""A column, who, and a variant."""


class Recorder:
    """Keeps the cells of the tests that pass."""

    def __init__(self) -> None:
        self.passed: set[Cell] = set()
        self.failed: set[Cell] = set()
        self._asked: dict[str, list[Cell]] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        for item in items:
            params = item.callspec.params if hasattr(item, "callspec") else {}
            self._asked[item.nodeid] = [_cell(mark, params) for mark in item.iter_markers("cell")]

    def pytest_runtest_logreport(self, report: Any) -> None:
        cells = self._asked.get(report.nodeid, [])
        if report.when == "call" and report.passed:
            self.passed.update(cells)
        elif not report.passed:
            self.failed.update(cells)


def _cell(mark: Any, params: Mapping[str, Any]) -> Cell:
    column, who = mark.args
    return column.format(**params), who, params["variant"]


def marked_modules() -> list[Path]:
    """The test files that show something of a family."""
    return sorted(path for path in HERE.rglob("test_*.py") if "pytest.mark.cell(" in path.read_text("utf-8"))


def declared() -> set[Cell]:
    """The cells that tests would show, by their marks alone."""
    return {cell for path in marked_modules() for test in _tests(path) for cell in _cells_of(test)}


def _tests(path: Path) -> Iterator[Any]:
    module = importlib.import_module(".".join(path.relative_to(REPO).with_suffix("").parts))
    return (value for name, value in vars(module).items() if name.startswith("test_") and hasattr(value, "pytestmark"))


def _cells_of(test: Any) -> Iterator[Cell]:
    marks = [mark for mark in test.pytestmark if mark.name == "cell"]
    values = [_values(mark) for mark in test.pytestmark if mark.name == "parametrize"]
    for chosen in product(*values) if marks else ():
        params = {key: value for part in chosen for key, value in part.items()}
        yield from (_cell(mark, params) for mark in marks)


def _values(mark: Any) -> list[dict[str, Any]]:
    names, rows = mark.args
    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    alone = len(names) == 1
    values = [tuple(row.values) if hasattr(row, "marks") else (row,) if alone else tuple(row) for row in rows]
    return [dict(zip(names, row, strict=True)) for row in values]


def table(cells: Iterable[Cell], variants: Mapping[str, tuple[str, Any]]) -> str:
    """The table in Markdown: a row for each family, and in each cell how many of its variants were run by whom."""
    families: dict[str, list[str]] = {}
    for variant, (family, _) in variants.items():
        families.setdefault(family, []).append(variant)
    found = {(column, who, variant) for column, who, variant in cells}
    lines = [f"| family | {' | '.join(COLUMNS.values())} |", f"|---|{'---|' * len(COLUMNS)}"]
    for family, members in families.items():
        row = (_text(found, column, members) for column in COLUMNS)
        lines.append(f"| {family}, {len(members)} | {' | '.join(row)} |")
    return "\n".join(lines)


def _text(found: set[Cell], column: str, members: list[str]) -> str:
    counts = {who: sum((column, who, variant) in found for variant in members) for who in WHO}
    return " ".join(f"{WHO[who]}{count}" for who, count in counts.items() if count)


def seen_with(report: Mapping[str, Any]) -> str:
    """With which versions and on which units of the processor it was run, in a sentence."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return f"Run with {versions}; C++ on {', '.join(report['units'])}."


def rendered(report: Mapping[str, Any]) -> str:
    """What stands in the document between its marks."""
    from tests.inference.families import VARIANTS  # which brings torch, and that only after it was prepared

    return f"{seen_with(report)}\n\n{table(map(tuple, report['cells']), VARIANTS)}"  # type: ignore[arg-type]


def in_document() -> str:
    text = DOCUMENT.read_text("utf-8")
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip()


def write(report: Mapping[str, Any]) -> None:
    text = DOCUMENT.read_text("utf-8")
    start, stop = text.index(BEGIN) + len(BEGIN), text.index(END)
    DOCUMENT.write_text(f"{text[:start]}\n\n{rendered(report)}\n\n{text[stop:]}", "utf-8")


def run() -> dict[str, Any] | None:
    """Run the tests; the report of what passed, or None where something failed, which shows nothing."""
    recorder = Recorder()
    code = pytest.main(["-q", "-m", "cell", *map(str, marked_modules())], plugins=[recorder])
    if code or recorder.failed:
        return None
    from inference.decoders.native.library import open_library, units_of

    versions = {name: version(name) for name in ("transformers", "peft", "torch", "gguf", "bitsandbytes", "triton")}
    units = units_of(open_library(library_path()))
    return {"versions": versions, "units": units, "cells": sorted(recorder.passed)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.inference.bases_table", description=__doc__.splitlines()[0])
    parser.add_argument("--render", action="store_true", help="write the table from the last report, and run nothing")
    if parser.parse_args().render:
        write(json.loads(REPORT.read_text("utf-8")))
        return 0
    if missing_feature() is not None:
        print(f"error: the C++ decoder cannot be had here: {missing_feature()}", file=sys.stderr)
        return 1
    report = run()
    if report is None:
        print(f"error: not all passed, and {REPORT} stays as it was", file=sys.stderr)
        return 1
    REPORT.parent.mkdir(exist_ok=True)
    cells = ",\n".join(f"  {json.dumps(cell)}" for cell in report.pop("cells"))
    head = json.dumps(report)[:-1]
    REPORT.write_text(f'{head}, "cells": [\n{cells}\n]}}\n', "utf-8")
    write(json.loads(REPORT.read_text("utf-8")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
