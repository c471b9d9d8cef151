"""The adapters that were published beside the paper, on the Hugging Face hub: they can be imported."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from loraland.paper.table import Cell, Task, tasks

LIST: Final = Path(__file__).with_name("published.toml")
BASE: Final = "Mistral-7B-v0.1"
MODEL: Final = "mistral-7b"
"""The base model's name in Table 12."""


@dataclass(frozen=True)
class Published:
    """One adapter on the hub. `task` names its row of Table 12; empty for one that the paper does not report."""

    repository: str
    name: str
    category: str
    source: str = ""
    task: str = ""

    @property
    def slug(self) -> str:
        """Its name in addresses here; our own adapters have the names of the tasks."""
        return self.repository.replace("/", "-")

    @property
    def address(self) -> str:
        return f"https://huggingface.co/{self.repository}"

    @property
    def row(self) -> Task | None:
        """What the paper reports of its task."""
        return tasks().get(self.task)

    @property
    def cell(self) -> Cell | None:
        """What the paper reports of its task on its base model."""
        return self.row.cells[MODEL] if self.row else None

    @property
    def account(self) -> str:
        """What there is to say of it before anyone has measured it here."""
        said = f"Published beside the paper LoRA Land as {self.repository}."
        if self.row is None or self.cell is None:
            return f"{said} The paper reports no score for its task."
        return (
            f"{said} For its task the paper reports {100 * self.cell.base:.1f} of 100 for the base, "
            f"{100 * self.cell.tuned:.1f} fine-tuned and {100 * self.row.gpt4:.1f} for GPT-4 ({self.row.metric}). "
            "These weights may not be those that the paper measured."
        )


@cache
def published() -> tuple[Published, ...]:
    """All of them, in the order of the hub's collection."""
    return tuple(Published(**entry) for entry in tomllib.loads(LIST.read_text(encoding="utf-8"))["adapter"])


def find(repository: str) -> Published | None:
    """The published adapter with this hub id."""
    return next((entry for entry in published() if entry.repository == repository), None)
