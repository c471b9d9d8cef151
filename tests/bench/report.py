"""The tables of a record: for a terminal and for docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.bench.bars import BARS
from tests.bench.workloads import WORKLOADS

Row = Sequence[str]
HEAD = ("system", "workload", "tok/s", "first ms", "p95 ms", "next ms", "strangers", "of peak")
HOST = ("web", "redis", "worker's loop", "recorder", "celery", "supervisor")
"""What serves and does not compute."""
COSTS = (*HOST, "worker's device", "client")
PARTS_HEAD = ("setting", "peak, GFLOP/s", "part", "32 answers, ms", "of peak", "256 of prompts, ms", "of peak")
COST_HEAD = ("workload", "the host's", *COSTS)
BAR_HEAD = ("what", "measured", "bar", "goal", "")


def figures(medians: dict[str, Any]) -> list[Row]:
    """One row a system and workload."""
    names = ("tokens_per_second", "first_ms", "first_p95_ms", "next_ms")
    return [
        (
            system,
            f"{workload.upper()} {WORKLOADS[workload].title}",
            *(_number(run.get(name)) for name in names),
            f"{run['strangers']:.0%}" if "strangers" in run else "–",
            _percent(run.get("of_peak")),
        )
        for system, workloads in medians.items()
        for workload, run in workloads.items()
        if workload in WORKLOADS
    ]


def costs(medians: dict[str, Any]) -> list[Row]:
    """Processor seconds per 1,000 tokens of each process, in each workload and beside a hollow engine."""
    told = {name.upper(): run["cpu"] for name, run in medians.get("site", {}).items() if name in WORKLOADS}
    told |= {name: run for name, run in medians.get("scenarios", {}).items() if name == "overhead"}
    return [
        (name, *(f"{seconds:.3f}" for seconds in (_of_host(cpu), *(cpu.get(cost, 0.0) for cost in COSTS))))
        for name, cpu in told.items()
    ]


def _of_host(cpu: dict[str, float]) -> float:
    return sum(cpu.get(name, 0.0) for name in HOST)


def parts(medians: dict[str, Any]) -> list[Row]:
    """One row a setting and part: milliseconds, and of what the unit's instruction can do at most."""
    return [
        (name, f"{run['unit']}, {run['instruction']} {run['peak_gflops']:,.0f}", part, *_of_shapes(run, part))
        for name, run in medians.get("parts", {}).items()
        for part in run["answers"]
    ]


def _of_shapes(run: dict[str, Any], part: str) -> list[str]:
    shapes = [run[shape][part] for shape in ("answers", "prompts")]
    return [text for shape in shapes for text in (f"{shape['ms']:.2f}", _percent(shape["of_peak"]))]


def scenarios(medians: dict[str, Any]) -> list[Row]:
    return [
        (
            name,
            "; ".join(f"{key.replace('_', ' ')} {_number(value)}" for key, value in run.items() if _is_number(value)),
        )
        for name, run in medians.get("scenarios", {}).items()
    ]


def bars(medians: dict[str, Any]) -> list[Row]:
    return [bar.line({"medians": medians}) for bar in BARS]


def text(medians: dict[str, Any]) -> str:
    """Everything, in columns."""
    return "\n\n".join(_columns(head, rows) for _, head, rows in _tables(medians) if rows)


def markdown(about: dict[str, str], medians: dict[str, Any]) -> str:
    """Everything, with the machine, for a document."""
    machine = "\n".join(f"- {name}: {value}" for name, value in about.items())
    tables = [f"{title}\n\n{_markdown_table(head, rows)}" for title, head, rows in _tables(medians) if rows]
    return "\n\n".join([machine, *tables]) + "\n"


def _tables(medians: dict[str, Any]) -> list[tuple[str, Row, list[Row]]]:
    return [
        ("### Figures", HEAD, figures(medians)),
        ("### Parts of a pass", PARTS_HEAD, parts(medians)),
        ("### Processor seconds per 1,000 tokens", COST_HEAD, costs(medians)),
        ("### Scenarios", ("scenario", "medians"), scenarios(medians)),
        ("### Bars", BAR_HEAD, bars(medians)),
    ]


def _columns(head: Row, rows: list[Row]) -> str:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
    )


def _markdown_table(head: Row, rows: list[Row]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}%"


def _number(value: Any) -> str:
    if not _is_number(value):
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
