"""Rows of real tasks for the trained adapters in adapters/: their cards' examples, or test rows of data sets."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.site import REPO
from tests.bench.workloads import Ask

LONGEST = 128


@dataclass(frozen=True)
class Task:
    """A trained adapter, its template, and rows of inputs."""

    slug: str
    template: str
    rows: tuple[dict[str, str], ...]
    examples: tuple[dict[str, Any], ...]

    def asks(self) -> list[Ask]:
        return [Ask(self.slug, inputs=row, tokens=LONGEST, ignore_eos=False) for row in self.rows]

    def fill(self, inputs: dict[str, str]) -> str:
        text = self.template
        for name, value in inputs.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    def shown(self, inputs: dict[str, str]) -> str:
        """A prompt that shows the card's examples before `inputs`: what requests of one task have in common."""
        answered = [f"{self.fill(example['inputs'])} {example['expected']}" for example in self.examples]
        return "\n\n".join([*answered, self.fill(inputs)])


def read_tasks(data: Path | None, count: int) -> list[Task]:
    """Every shipped adapter with up to `count` rows: of `data`/<slug>/test.jsonl if there is one, else of its card."""
    tasks = []
    for path in sorted((REPO / "adapters").glob("*/card.toml")):
        card = tomllib.loads(path.read_text())
        examples = tuple(card.get("example", ()))
        rows = _test_rows(data / path.parent.name / "test.jsonl", count) if data else ()
        rows = rows or tuple(example["inputs"] for example in examples)[:count]
        tasks.append(Task(path.parent.name, card["prompt"]["template"], rows, examples))
    return tasks


def _test_rows(path: Path, count: int) -> tuple[dict[str, str], ...]:
    if not path.is_file():
        return ()
    with path.open() as lines:
        return tuple(json.loads(line)["inputs"] for line, _ in zip(lines, range(count), strict=False))
