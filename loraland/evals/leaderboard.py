"""The leaderboard: one entry for each adapter and task that were measured, filtered and sorted by an address."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from django.db.models import Avg, Count, F, QuerySet

from inference.tasks.bootstrap import interval
from inference.tasks.metrics import Tally
from inference.tasks.verdict import CLEAR, VERDICTS
from loraland import bases
from loraland.catalogue.categories import Category
from loraland.catalogue.finder import Facets, Finder
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.catalogue.score import Mark, Score
from loraland.catalogue.windows import WINDOW, window_of
from loraland.evals.counting import Comparison, answers_to_show
from loraland.evals.models import FEWEST_ROWS, Run, Standing
from loraland.evals.task_facts import TaskFacts, facts_of_all

MOST: Final = 200
"""Entries of one task, or of all that the paper has, which a page shows together."""
MOST_DRAWN: Final = 100
"""From more entries on the interval of their mean is the normal one, which is theirs to a tenth of a point."""
Z95: Final = 1.96
SORTS: Final = {"base": "base_score", "tuned": "tuned_score", "gain": "gain", "rows": "rows"}
COLUMNS: Final = {"task": "Task", "base": "Base", "tuned": "Fine-tuned", "gain": "Gain", "rows": "Rows"}
"""What the board can be sorted by. Words start from A, numbers from the largest; a minus in front turns it round."""


@dataclass(frozen=True)
class Entry:
    """One adapter on one task beside what it must beat. `version` is None when its weights are not here.

    `answers` is the run whose rows can be read, where there is one.
    """

    facts: TaskFacts
    compared: Comparison
    score: Score
    version: AdapterVersion | None
    answers: Run | None = None

    @property
    def category(self) -> Category:
        return self.facts.category

    @property
    def base(self) -> str:
        return bases.recorded(self.compared.tuned.base).name

    @property
    def named(self) -> str:
        """What tells it from others on the same task: its adapter's name, empty where the task bears it."""
        name = self.version.adapter.name if self.version else ""
        return "" if name == self.facts.title else name

    @property
    def gain(self) -> float:
        return self.compared.gain

    @property
    def is_clear(self) -> bool:
        return self.score.is_clear

    @property
    def counts(self) -> bool:
        """Whether it was measured on enough rows to enter the averages."""
        return self.compared.tuned.n >= FEWEST_ROWS


@dataclass(frozen=True)
class Query(Finder):
    """What the visitor asks of the leaderboard. A minus in front of an order turns it round."""

    verdict: str = ""

    orders = frozenset((*COLUMNS, *(f"-{key}" for key in COLUMNS)))

    @classmethod
    def of(cls, data: Mapping[str, Any], facets: Facets) -> Query:
        """Read the parameter `verdict` as well; an unknown one counts as none."""
        verdict = str(data.get("verdict", ""))
        return replace(super().of(data, facets), verdict=verdict if verdict in VERDICTS else "")

    @property
    def filters(self) -> dict[str, str]:
        return {**super().filters, "verdict": self.verdict}

    @property
    def rows(self) -> QuerySet[Standing]:
        """The rows that are asked for."""
        rows = Standing.objects.of_today()
        return self.found(rows.filter(is_clear=self.verdict == CLEAR) if self.verdict else rows)

    @property
    def columns(self) -> tuple[str, ...]:
        """What they are ordered by. Numbers begin with the largest."""
        key, is_turned = self.order.removeprefix("-"), self.order.startswith("-")
        if key == "task":
            return ("-title" if is_turned else "title", "pk")
        return (f"{'' if is_turned else '-'}{SORTS[key]}", "title", "pk")

    @property
    def headers(self) -> list[tuple[str, str, str, str]]:
        """Of each column its key, its label, where a click on it leads, and how the board is sorted by it now."""
        key, is_turned = self.order.removeprefix("-"), self.order.startswith("-")
        found = []
        for column, label in COLUMNS.items():
            turned = f"-{column}" if column == key and not is_turned else column
            ascending = (column == "task") != is_turned
            state = ("ascending" if ascending else "descending") if column == key else ""
            found.append((column, label, self.sorted_by(turned), state))
        return found


@dataclass(frozen=True)
class Board:
    """A window of entries; `next` is where they go on, empty at the end."""

    entries: list[Entry]
    next: str


@dataclass(frozen=True)
class Average:
    """The mean gain of `count` entries in points, with its 95 % interval over them."""

    count: int
    gain: float
    low: float
    high: float


def facets() -> Facets:
    """What there is of each base and category."""
    return Facets.of(Standing.objects.of_today(), "is_clear")


def board(query: Query, after: str = "", most: int = WINDOW) -> Board:
    """The window of what `query` asks for from the place `after`. Raises `Http404` for what is no place."""
    window = window_of(query.rows.defer("text"), query.columns, after, most)
    return Board(_entries(window.rows), window.next)


def plain(query: Query, after: str, most: int) -> Board:
    """The same for a table, which has no links: `version` and `answers` are nowhere looked for."""
    window = window_of(query.rows.defer("text"), query.columns, after, most)
    compared = _compared(window.rows)
    facts = facts_of_all({found.tuned.task for found in compared})
    return Board([_entry(found, facts[found.tuned.task], {}, None) for found in compared], window.next)


def entries(tasks: Collection[str], most: int = MOST) -> list[Entry]:
    """Those of `tasks`, at most so many, the largest gain first."""
    rows = Standing.objects.of_today().filter(task__in=tasks)
    return _entries(rows.defer("text").order_by("-gain", "title", "pk")[:most])


def count(tasks: Collection[str]) -> int:
    """How many there are of `tasks`."""
    return Standing.objects.of_today().filter(task__in=tasks).count()


def average(rows: QuerySet[Standing]) -> Average | None:
    """The mean gain of those of `rows` that count; None where none does."""
    told = rows.filter(rows__gte=FEWEST_ROWS).aggregate(
        count=Count("pk"), mean=Avg("gain"), square=Avg(F("gain") * F("gain"))
    )
    count, mean = told["count"], told["mean"]
    if not count:
        return None
    if count <= MOST_DRAWN:
        gains = rows.filter(rows__gte=FEWEST_ROWS).order_by("pk").values_list("gain", flat=True)
        return Average(count, mean, *_drawn(tuple(gains)))
    error = Z95 * math.sqrt(max(0.0, told["square"] - mean**2) / (count - 1))
    return Average(count, mean, mean - error, mean + error)


@lru_cache(8)
def _drawn(gains: tuple[float, ...]) -> tuple[float, float]:
    """The bootstrap interval of the mean of `gains`, which takes some time and is the same each time."""
    return interval([Tally(gain) for gain in gains])


def _compared(rows: Iterable[Standing]) -> list[Comparison]:
    """What `rows` stand for, in their order. The runs are read apart: joined, each would hold its row and be garbage
    that only a collection finds."""
    standing = [(row.tuned_id, row.against_id, row.constant_id, row.reference_id) for row in rows]
    runs = Run.objects.in_bulk({pk for pks in standing for pk in pks if pk})
    return [
        Comparison(runs[tuned], runs[base], runs.get(constant), runs.get(reference))
        for tuned, base, constant, reference in standing
    ]


def _entries(rows: Iterable[Standing]) -> list[Entry]:
    """The entries of `rows`, in their order."""
    compared = _compared(rows)
    slugs = {found.tuned.adapter for found in compared}
    published = Adapter.objects.published().filter(slug__in=slugs).only("slug", "name", "category", "published__digest")
    here = {(adapter.slug, adapter.published.digest): adapter for adapter in published if adapter.published}
    answers = answers_to_show(found.tuned for found in compared)
    facts = facts_of_all({found.tuned.task for found in compared})
    return [_entry(found, facts[found.tuned.task], here, answers.get(found.tuned.pk)) for found in compared]


def _entry(
    compared: Comparison, facts: TaskFacts, here: Mapping[tuple[str, str], Adapter], answers: Run | None
) -> Entry:
    """`here` are the published adapters by slug and digest."""
    adapter = here.get((compared.tuned.adapter, compared.tuned.digest))
    version = adapter.published if adapter else None
    if version is not None and adapter is not None:
        version.adapter = adapter
    return Entry(facts, compared, score_of_runs(compared), version, answers)


def score_of_runs(compared: Comparison) -> Score:
    """A comparison in points of 100, with the best constant answer and another model as marks."""
    tuned, base = compared.tuned, compared.base
    others = (("constant", compared.constant), ("reference", compared.reference))
    return Score(
        metric=tuned.metric,
        base=_points(base.score) or 0.0,
        tuned=_points(tuned.score) or 0.0,
        low=_points(tuned.low),
        high=_points(tuned.high),
        n=tuned.n,
        base_prompt=base.prompt,
        is_clear=tuned.verdict == CLEAR,
        remark=compared.remark,
        base_low=_points(base.low),
        base_high=_points(base.high),
        marks=tuple(Mark(kind, run.who, run.points) for kind, run in others if run is not None),
    )


def _points(value: float | None) -> float | None:
    return None if value is None else 100 * value
