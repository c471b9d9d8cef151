"""How hard a data set looks before anything is trained on it: the complexity heuristics of the paper's second part.

Lengths are counted in words and marks, so that they are the same for every base; the paper counts tokens. Similarity
is the ROUGE-L of target and inputs; compressibility is the share of an example's bytes that is left after deflate, so
that a small figure means much repetition.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import Final

from inference.tasks.data import Row
from inference.tasks.metrics import rouge_l
from inference.tasks.words import count

COMPARED_ROWS: Final = 400
"""Similarity is taken on so many rows, evenly spread: it grows with the product of two lengths."""
COMPARED_CHARS: Final = 8000
"""And on so much of the inputs and of the target of each."""

NAMES: Final = {
    "input_mean": "input length, mean",
    "input_sd": "input length, sd",
    "input_p95": "input length, p95",
    "output_mean": "output length, mean",
    "output_sd": "output length, sd",
    "output_p95": "output length, p95",
    "example_mean": "example length, mean",
    "example_sd": "example length, sd",
    "example_p95": "example length, p95",
    "similarity_mean": "input–output ROUGE-L, mean",
    "similarity_sd": "input–output ROUGE-L, sd",
    "compressibility_mean": "compressibility, mean",
    "compressibility_sd": "compressibility, sd",
    "rows": "training rows",
}

Heuristics = dict[str, float]


def heuristics(rows: Sequence[Row]) -> Heuristics:
    """The figures of `NAMES` for the training `rows`, of which there is at least one."""
    inputs = [count(_input(row)) for row in rows]
    outputs = [count(row.target) for row in rows]
    step = max(1, len(rows) // COMPARED_ROWS)
    compared = [(_input(row)[:COMPARED_CHARS], row.target[:COMPARED_CHARS]) for row in rows[::step]]
    similarity = [rouge_l(*pair).earned for pair in compared]
    compressed = [_compressed(f"{_input(row)}\n{row.target}") for row in rows]
    found = {
        **_spread("input", inputs),
        **_spread("output", outputs),
        **_spread("example", [sum(pair) for pair in zip(inputs, outputs, strict=True)]),
        "similarity_mean": fmean(similarity),
        "similarity_sd": pstdev(similarity),
        "compressibility_mean": fmean(compressed),
        "compressibility_sd": pstdev(compressed),
        "rows": len(rows),
    }
    return {name: round(value, 4) for name, value in found.items()}


def _input(row: Row) -> str:
    return "\n".join(row.inputs.values())


def _compressed(text: str) -> float:
    data = text.encode()
    return len(zlib.compress(data, 9)) / len(data) if data else 1.0


def _spread(name: str, lengths: Sequence[int]) -> dict[str, float]:
    ordered = sorted(lengths)
    return {
        f"{name}_mean": fmean(lengths),
        f"{name}_sd": pstdev(lengths),
        f"{name}_p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
    }
