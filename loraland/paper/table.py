"""Table 12 of the paper *LoRA Land* (arXiv 2405.00732), as printed: 31 tasks, ten base models, two GPTs."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

TABLE: Final = Path(__file__).with_name("table12.csv")
MODELS: Final = (
    "phi-2",
    "gemma-2b",
    "gemma-2b-instruct",
    "gemma-7b",
    "gemma-7b-instruct",
    "llama-2-7b",
    "llama-2-7b-chat",
    "mistral-7b",
    "mistral-7b-instruct",
    "zephyr-7b-beta",
)
"""The base models, in the table's order. Each was fine-tuned for each task: 310 adapters."""
GPTS: Final = ("gpt-3.5-turbo", "gpt-4")


@dataclass(frozen=True)
class Cell:
    """What one base model scored on one task, from 0 to 1."""

    base: float
    tuned: float

    @property
    def lift(self) -> float:
        return self.tuned - self.base


@dataclass(frozen=True)
class Task:
    """One row of the table: a cell for each base model, and what the two GPTs scored without fine-tuning."""

    name: str
    category: str
    metric: str
    cells: Mapping[str, Cell]
    gpts: Mapping[str, float]

    @property
    def gpt35(self) -> float:
        return self.gpts["gpt-3.5-turbo"]

    @property
    def gpt4(self) -> float:
        return self.gpts["gpt-4"]

    @property
    def best_tuned(self) -> float:
        return max(cell.tuned for cell in self.cells.values())

    @property
    def best_base(self) -> float:
        return max(cell.base for cell in self.cells.values())


@cache
def table() -> tuple[Task, ...]:
    """The 31 tasks in the order of the table."""
    with TABLE.open(newline="", encoding="utf-8") as file:
        return tuple(
            Task(
                row["task"],
                row["category"],
                row["metric"],
                {model: Cell(float(row[f"{model} base"]), float(row[f"{model} ft"])) for model in MODELS},
                {gpt: float(row[gpt]) for gpt in GPTS},
            )
            for row in csv.DictReader(file)
        )


@cache
def tasks() -> dict[str, Task]:
    """The tasks by name."""
    return {task.name: task for task in table()}
