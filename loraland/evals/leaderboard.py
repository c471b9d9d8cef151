"""The leaderboard: one entry for each adapter and task that were measured, filtered and sorted by an address."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Final

from inference.tasks.bootstrap import interval
from inference.tasks.metrics import Tally
from inference.tasks.verdict import CLEAR, UNCLEAR, VERDICTS
from loraland import bases
from loraland.catalogue.categories import Category
from loraland.catalogue.finder import Facets, Finder, searchable
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.catalogue.score import Mark, Score
from loraland.evals.counting import Comparison, answers_to_show, comparisons
from loraland.evals.models import Run
from loraland.evals.task_facts import TaskFacts, facts_of

FEWEST_ROWS: Final = 100
"""Test rows from which on a gain enters the averages: with these a share is known to about ten points."""
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
    def gain(self) -> float:
        return self.compared.gain

    @property
    def is_clear(self) -> bool:
        return self.score.is_clear

    @property
    def counts(self) -> bool:
        """Whether it was measured on enough rows to enter the averages."""
        return self.compared.tuned.n >= FEWEST_ROWS

    @property
    def text(self) -> str:
        facts, run = self.facts, self.compared.tuned
        words = (facts.title, facts.name, facts.summary, facts.category.name, run.adapter, run.base, run.metric)
        return searchable(*words)


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
class Average:
    """The mean gain of `count` entries in points, with its 95 % bootstrap interval over them."""

    count: int
    gain: float
    low: float
    high: float


def entries() -> list[Entry]:
    """All entries, in no order."""
    published = Adapter.objects.published()
    here = {(adapter.slug, adapter.published.digest): adapter for adapter in published if adapter.published}
    compared = comparisons()
    answers = answers_to_show(found.tuned for found in compared)
    return [_entry(found, here, answers.get(found.tuned.pk)) for found in compared]


def facets(every: Iterable[Entry]) -> Facets:
    """What `every` has of each category and base."""
    listed = list(every)
    names = {entry.base.lower(): entry.base for entry in listed} | {base.key: base.name for base in bases.served()}
    counted = Counter(entry.category.key for entry in listed)
    return Facets(counted, Counter(entry.base.lower() for entry in listed), names, {})


def select(every: Iterable[Entry], query: Query) -> list[Entry]:
    """Those of `every` that have every word of `query`, its category and its verdict, in its order."""
    found = [
        entry for entry in every if query.matches(entry) and query.verdict in ("", CLEAR if entry.is_clear else UNCLEAR)
    ]
    key = query.order.removeprefix("-")
    starts_high = key != "task"
    by_name = sorted(found, key=lambda entry: entry.facts.title.casefold())
    return sorted(by_name, key=_SORTS[key], reverse=starts_high != query.order.startswith("-"))


def average(chosen: Iterable[Entry]) -> Average | None:
    """The mean gain of those of `chosen` that count; None where none does."""
    gains = [entry.gain for entry in chosen if entry.counts]
    if not gains:
        return None
    low, high = interval([Tally(gain) for gain in gains])
    return Average(len(gains), fmean(gains), low, high)


def _entry(compared: Comparison, here: Mapping[tuple[str, str], Adapter], answers: Run | None) -> Entry:
    """`here` are the published adapters by slug and digest."""
    adapter = here.get((compared.tuned.adapter, compared.tuned.digest))
    version = adapter.published if adapter else None
    if version is not None and adapter is not None:
        version.adapter = adapter
    return Entry(facts_of(compared.tuned.task), compared, score_of_runs(compared), version, answers)


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


_SORTS: Final[dict[str, Callable[[Entry], Any]]] = {
    "task": lambda entry: entry.facts.title.casefold(),
    "base": lambda entry: entry.score.base,
    "tuned": lambda entry: entry.score.tuned,
    "gain": lambda entry: entry.gain,
    "rows": lambda entry: entry.score.n,
}
