"""The leaderboard for programs: as rows of plain values, in CSV and in JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

from loraland.evals.leaderboard import Entry
from loraland.evals.models import Run


def row_of(entry: Entry) -> dict[str, Any]:
    """One entry in scores from 0 to 1; what was not measured is None."""
    compared, facts = entry.compared, entry.facts
    tuned, base = compared.tuned, compared.base
    interval = compared.gain_interval
    assert tuned.finished is not None  # only finished runs are compared
    return {
        "task": facts.name,
        "category": facts.category.name,
        "metric": tuned.metric,
        "adapter": tuned.adapter,
        "digest": tuned.digest,
        "base_model": tuned.base,
        "rows": tuned.n,
        "base": _rounded(base.score),
        "base_low": _rounded(base.low),
        "base_high": _rounded(base.high),
        "base_prompt": base.prompt,
        "tuned": _rounded(tuned.score),
        "tuned_low": _rounded(tuned.low),
        "tuned_high": _rounded(tuned.high),
        "constant": _score(compared.constant),
        "reference": _score(compared.reference),
        "reference_model": compared.reference.base if compared.reference else None,
        "gain": _rounded(compared.gain / 100),
        "gain_low": _rounded(interval[0] / 100 if interval else None),
        "gain_high": _rounded(interval[1] / 100 if interval else None),
        "verdict": tuned.verdict,
        "measured_by": str(tuned.get_source_display()),
        "date": tuned.finished.date().isoformat(),
    }


def as_csv(parts: Iterable[Iterable[Entry]]) -> Iterator[str]:
    """The rows with a line of names first, part by part."""
    names: list[str] = []
    for rows in (list(map(row_of, part)) for part in parts):
        text = io.StringIO()
        writer = csv.DictWriter(text, names or (rows[0] if rows else ()))
        if rows and not names:
            names = [*rows[0]]
            writer.writeheader()
        writer.writerows(rows)
        yield text.getvalue()


def as_json(parts: Iterable[Iterable[Entry]]) -> Iterator[str]:
    """The rows in one object, part by part."""
    yield '{"entries": ['
    separator = ""
    for rows in (list(map(row_of, part)) for part in parts):
        yield separator + ", ".join(map(json.dumps, rows))
        separator = ", " if rows else separator
    yield "]}"


def _score(run: Run | None) -> float | None:
    return _rounded(run.score) if run else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
