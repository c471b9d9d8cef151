"""The paper's Table 12 to walk through: one model over all tasks, one task over all models, or all at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from loraland.catalogue.categories import Category, category_of
from loraland.catalogue.finder import query_string
from loraland.catalogue.score import Mark, Score
from loraland.evals.leaderboard import Entry
from loraland.paper.table import MODELS, Cell, Task, table, tasks

DEFAULT_MODEL: Final = "mistral-7b"
ALL: Final = "all"
VALUES: Final = {"tuned": "fine-tuned", "base": "base", "lift": "lift", "gpt4": "fine-tuned − GPT-4"}
"""What the table of all models can show."""
GPT_MARKS: Final = (("gpt-35", "gpt-3.5-turbo", "GPT-3.5"), ("gpt-4", "gpt-4", "GPT-4"))


@dataclass(frozen=True)
class Query:
    """What the visitor looks at. `task` wins over `model`; `model` may be all, and then `value` counts."""

    model: str = DEFAULT_MODEL
    task: str = ""
    value: str = "tuned"

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Query:
        """Read the parameters `model`, `task` and `value` of an address; unknown ones count as none."""
        model, task, value = (str(data.get(name, "")) for name in ("model", "task", "value"))
        return cls(
            model if model in (*MODELS, ALL) else DEFAULT_MODEL,
            task if task in tasks() else "",
            value if value in VALUES else "tuned",
        )

    @property
    def address(self) -> str:
        """The query string that asks for this."""
        return query_string(
            model=self.model if self.model != DEFAULT_MODEL else "",
            task=self.task,
            value=self.value if self.value != "tuned" else "",
        )


@dataclass(frozen=True)
class Line:
    """One dumbbell of the paper with its name, and what was measured here on the task of the same name."""

    name: str
    task: Task
    category: Category
    score: Score
    ours: Entry | None = None

    @property
    def over_gpt4(self) -> float:
        return self.score.tuned - 100 * self.task.gpt4


def lines(query: Query, measured: Iterable[Entry]) -> list[Line]:
    """The dumbbells that `query` asks for; none when it asks for all models at once."""
    ours = {entry.facts.paper_task: entry for entry in measured if entry.facts.paper_task}
    if query.task:
        task = tasks()[query.task]
        found = [_line(model, task, task.cells[model]) for model in MODELS]
        return sorted(found, key=lambda line: -line.score.tuned)
    if query.model == ALL:
        return []
    return [_line(task.name, task, task.cells[query.model], ours.get(task.name)) for task in table()]


def matrix(query: Query) -> list[tuple[Task, Category, list[float]]]:
    """Every task with one value of each model, in points of 100; none unless `query` asks for all models."""
    if query.task or query.model != ALL:
        return []
    return [
        (task, category_of(task.category), [100 * _value(query.value, task, task.cells[model]) for model in MODELS])
        for task in table()
    ]


def _line(name: str, task: Task, cell: Cell, ours: Entry | None = None) -> Line:
    marks = tuple(Mark(kind, label, 100 * task.gpts[gpt]) for kind, gpt, label in GPT_MARKS)
    score = Score(task.metric, 100 * cell.base, 100 * cell.tuned, marks=marks)
    return Line(name, task, category_of(task.category), score, ours)


def _value(value: str, task: Task, cell: Cell) -> float:
    match value:
        case "base":
            return cell.base
        case "lift":
            return cell.lift
        case "gpt4":
            return cell.tuned - task.gpt4
    return cell.tuned
