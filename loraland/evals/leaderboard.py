"""The leaderboard: one entry for each adapter and task that were measured, filtered and sorted by an address."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final
from urllib.parse import urlencode

from inference.tasks.bootstrap import interval
from inference.tasks.metrics import Tally
from inference.tasks.verdict import CLEAR, VERDICTS
from loraland.catalogue.categories import Category, category_of, position
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.catalogue.score import Mark, Score
from loraland.evals.counting import Comparison, answers_to_show, comparisons
from loraland.evals.models import Run
from loraland.evals.task_facts import TaskFacts, facts_of

MAX_WORDS: Final = 12
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
        """What a search looks through, in lower case."""
        facts, run = self.facts, self.compared.tuned
        words = (facts.title, facts.name, facts.summary, facts.category.name, run.adapter, run.base, run.metric)
        return " ".join(words).replace("_", " ").casefold()


@dataclass(frozen=True)
class Query:
    """What the visitor asks for. Unknown categories, verdicts and orders count as none."""

    words: str = ""
    category: str = ""
    verdict: str = ""
    order: str = "gain"

    @classmethod
    def of(cls, data: Mapping[str, Any], keys: Iterable[str]) -> Query:
        """Read the parameters `q`, `category`, `verdict` and `sort` of an address; `keys` are the categories."""
        words = " ".join(str(data.get("q", "")).split()[:MAX_WORDS])[:120]
        category, verdict, order = (str(data.get(name, "")) for name in ("category", "verdict", "sort"))
        return cls(
            words,
            category if category in set(keys) else "",
            verdict if verdict in VERDICTS else "",
            order if order.removeprefix("-") in COLUMNS else "gain",
        )

    @property
    def is_filtered(self) -> bool:
        return bool(self.words or self.category or self.verdict)

    @property
    def address(self) -> str:
        """The query as the shortest query string, empty or with its question mark."""
        return self.sorted_by(self.order)

    def sorted_by(self, order: str) -> str:
        """The query string of the same entries in another order."""
        pairs = {"q": self.words, "category": self.category, "verdict": self.verdict}
        given = {key: value for key, value in {**pairs, "sort": "" if order == "gain" else order}.items() if value}
        return f"?{urlencode(given)}" if given else ""

    @property
    def headers(self) -> list[tuple[str, str, str, str]]:
        """Of each column its key, its label, where a click on it leads, and how the board is sorted by it now."""
        key, is_turned = self.order.removeprefix("-"), self.order.startswith("-")
        found = []
        for each, label in COLUMNS.items():
            turned = f"-{each}" if each == key and not is_turned else each
            ascending = (each == "task") != is_turned
            state = ("ascending" if ascending else "descending") if each == key else ""
            found.append((each, label, self.sorted_by(turned), state))
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
    answers = answers_to_show(each.tuned for each in compared)
    return [_entry(each, here, answers.get(each.tuned.pk)) for each in compared]


def select(every: Iterable[Entry], query: Query) -> list[Entry]:
    """Those of `every` that have every word of `query`, its category and its verdict, in its order."""
    words = query.words.casefold().replace("_", " ").split()
    found = [entry for entry in every if _matches(entry, words, query)]
    key = query.order.removeprefix("-")
    starts_high = key != "task"
    by_name = sorted(found, key=lambda entry: entry.facts.title.casefold())
    return sorted(by_name, key=_SORTS[key], reverse=starts_high != query.order.startswith("-"))


def count_by_category(every: Iterable[Entry]) -> list[tuple[Category, int]]:
    """The categories that `every` has, in their order."""
    kinds = [entry.category for entry in every]
    counts = Counter(kind.key for kind in kinds)
    named = {kind.key: kind if kind.key != "other" else category_of("") for kind in kinds}
    return [(kind, counts[kind.key]) for kind in sorted(named.values(), key=position)]


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


def _matches(entry: Entry, words: list[str], query: Query) -> bool:
    return (
        (not query.category or entry.category.key == query.category)
        and (not query.verdict or entry.is_clear == (query.verdict == CLEAR))
        and all(word in entry.text for word in words)
    )


_SORTS: Final[dict[str, Callable[[Entry], Any]]] = {
    "task": lambda entry: entry.facts.title.casefold(),
    "base": lambda entry: entry.score.base,
    "tuned": lambda entry: entry.score.tuned,
    "gain": lambda entry: entry.gain,
    "rows": lambda entry: entry.score.n,
}
