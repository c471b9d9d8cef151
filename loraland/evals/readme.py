"""The tables of results in README and docs/results.md, made of the files in `results/`: nobody types a score."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from inference.tasks.metrics import METRICS, SCORING
from inference.tasks.verdict import CLEAR, VERDICTS, remark_of
from loraland.evals.models import FEWEST_ROWS
from loraland.evals.results import read_file
from loraland.evals.task_facts import facts_of
from loraland.evals.templatetags.figures import hundredfold, signed

START: Final = "<!-- results -->"
END: Final = "<!-- /results -->"
PLACES: Final = {"README.md": 10, "docs/results.md": 1000}
"""The files with a table, and how many rows it has at most."""


class ReadmeError(ValueError):
    """A file without a place for the table; the message is a sentence."""


def table(directory: Path, most: int) -> str:
    """What the files in `directory` tell of adapters, the largest gain first; of more than `most` some, evenly down."""
    rows = sorted(_rows(directory), key=lambda row: -row["gain"])
    lines = [
        "| task | metric | base | fine-tuned (95 % interval) | gain | rows | verdict |",
        "|---|---|--:|--:|--:|--:|---|",
        *map(_line, _evenly(rows, most)),
    ]
    if not rows:
        return "Nothing is measured yet."
    counted = [row for row in rows if row["n"] >= FEWEST_ROWS]
    clear = [row["gain"] for row in counted if row["verdict"] == CLEAR]
    return "\n".join([*lines, "", _sum(clear, [row["gain"] for row in counted])])


def put(text: str, table: str) -> str:
    """`text` of a file with `table` between its marks. Raises `ReadmeError`."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ReadmeError(f"The file has no {START} with {END} after it; write them where the table belongs.")
    return f"{before}{START}\n{table}\n{END}{after}"


def _rows(directory: Path) -> Iterable[dict[str, Any]]:
    for path in sorted(directory.glob("*.json")):
        runs = {run["id"]: run for run in read_file(path).get("runs", ())}
        for run in runs.values():
            base = runs.get(run["gains"].get("base", {}).get("run", ""))
            counts = run.get("split") == "test" and run.get("scoring", 1) == SCORING
            if run["subject"] == "adapter" and counts and base is not None:
                constant = runs.get(run["gains"].get("constant", {}).get("run", ""))
                always = constant.get("answer", "") if constant else None
                gain, surely = run["score"] - base["score"], run["gains"]["base"].get("low", 0.0)
                remark = remark_of(run["verdict"], gain, surely, always)
                yield {**run, "task": path.stem, "against": base["score"], "gain": gain, "remark": remark}


def _evenly(rows: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    count = min(most, len(rows))
    return (
        rows if count == len(rows) else [rows[round(place * (len(rows) - 1) / (count - 1))] for place in range(count)]
    )


def _line(row: dict[str, Any]) -> str:
    cells = (
        f"{facts_of(row['task']).title} (`{row['adapter']}`)",
        METRICS[row["metric"]].name,
        hundredfold(row["against"]),
        f"**{hundredfold(row['score'])}**{_interval(row)}",
        signed(100 * row["gain"]),
        str(row["n"]),
        row["remark"] or VERDICTS[CLEAR],
    )
    return f"| {' | '.join(cells)} |"


def _interval(row: dict[str, Any]) -> str:
    return "" if row["low"] is None else f" ({hundredfold(row['low'])}–{hundredfold(row['high'])})"


def _sum(clear: list[float], every: list[float]) -> str:
    if not every:
        return f"None is measured on {FEWEST_ROWS} rows."
    part = f"{len(clear)} clear gains, {signed(100 * fmean(clear))} points on average" if clear else "No clear gain"
    return f"{part}; all {len(every)} measured: {signed(100 * fmean(every))}."
