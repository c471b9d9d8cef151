"""Correlations between complexity heuristics and scores as the paper prints them (its Figure 8), where it does."""

from __future__ import annotations

from typing import Final

PRINTED: Final[dict[str, dict[str, float]]] = {
    "base": {
        "input_p95": -0.41,
        "output_mean": -0.69,
        "output_sd": -0.76,
        "output_p95": -0.75,
        "example_mean": -0.56,
        "example_sd": -0.60,
        "example_p95": -0.58,
        "similarity_sd": -0.63,
    },
    "tuned": {
        "output_mean": -0.40,
        "output_sd": -0.47,
        "output_p95": -0.45,
        "example_sd": -0.41,
        "rows": 0.10,
    },
    "gain": {
        "input_mean": 0.32,
        "input_sd": 0.24,
        "input_p95": 0.32,
        "example_mean": 0.21,
        "rows": 0.26,
    },
}
"""Averages over the ten base models: of the base scores, of the fine-tuned scores and of the lifts."""
