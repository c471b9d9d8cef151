"""The paper's headline averages, recomputed from its Table 12, beside the figures that it prints (its Table 4)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Final

from loraland.paper.table import MODELS, table


@dataclass(frozen=True)
class Printed:
    """A row of Table 4: averages without and with fine-tuning, and on how many of the 31 tasks it beats GPT-4."""

    base: float
    tuned: float
    wins: int


PRINTED: Final = {
    "gemma-2b-instruct": Printed(0.326, 0.645, 20),
    "gemma-7b": Printed(0.187, 0.645, 20),
    "gemma-7b-instruct": Printed(0.377, 0.656, 20),
    "gemma-2b": Printed(0.145, 0.657, 21),
    "phi-2": Printed(0.274, 0.677, 22),
    "llama-2-7b": Printed(0.252, 0.696, 21),
    "llama-2-7b-chat": Printed(0.370, 0.708, 23),
    "mistral-7b-instruct": Printed(0.462, 0.724, 24),
    "mistral-7b": Printed(0.271, 0.732, 26),
    "zephyr-7b-beta": Printed(0.350, 0.742, 27),
}
PRINTED_TOTAL: Final = Printed(0.301, 0.688, 224)
PRINTED_LIFT: Final = 34
"""Points by which the abstract says that fine-tuned models beat their base."""
PRINTED_OVER_GPT4: Final = 10
ROUNDING: Final = 0.001
"""How far an average of figures with three decimals can lie from its own printed value: half a unit for each."""


@dataclass(frozen=True)
class Summary:
    """What Table 12 says of one base model. `wins` counts tasks above GPT-4, `ties` those level with it."""

    model: str
    base: float
    tuned: float
    improved: int
    wins: int
    ties: int

    @property
    def lift(self) -> float:
        return self.tuned - self.base

    @property
    def printed(self) -> Printed:
        return PRINTED[self.model]

    @property
    def tuned_follows(self) -> bool:
        return abs(self.tuned - self.printed.tuned) <= ROUNDING


@dataclass(frozen=True)
class Headline:
    """The whole table in a few figures, each an average of 31 tasks or a count of 310 pairs."""

    base: float
    tuned: float
    best_base: float
    best_tuned: float
    gpt4: float
    improved: int
    wins: int
    ties: int
    pairs: int

    @property
    def lift(self) -> float:
        return self.tuned - self.base

    @property
    def best_lift(self) -> float:
        return self.best_tuned - self.best_base

    @property
    def over_gpt4(self) -> float:
        return self.best_tuned - self.gpt4


@cache
def summaries() -> tuple[Summary, ...]:
    """One summary for each base model, the best fine-tuned average first."""
    return tuple(sorted((_summary(model) for model in MODELS), key=lambda summary: -summary.tuned))


@cache
def headline() -> Headline:
    """The figures of the whole table."""
    rows, models = table(), summaries()
    return Headline(
        base=fmean(model.base for model in models),
        tuned=fmean(model.tuned for model in models),
        best_base=fmean(row.best_base for row in rows),
        best_tuned=fmean(row.best_tuned for row in rows),
        gpt4=fmean(row.gpt4 for row in rows),
        improved=sum(model.improved for model in models),
        wins=sum(model.wins for model in models),
        ties=sum(model.ties for model in models),
        pairs=len(rows) * len(models),
    )


def _summary(model: str) -> Summary:
    rows = [(row.cells[model], row.gpt4) for row in table()]
    return Summary(
        model=model,
        base=fmean(cell.base for cell, _ in rows),
        tuned=fmean(cell.tuned for cell, _ in rows),
        improved=sum(cell.tuned > cell.base for cell, _ in rows),
        wins=sum(cell.tuned > gpt4 for cell, gpt4 in rows),
        ties=sum(cell.tuned == gpt4 for cell, gpt4 in rows),
    )
