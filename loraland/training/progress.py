"""The page of one training: its stages, its loss, the time left, its result, and what to do next."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from django.utils import timezone

from inference.tasks.metrics import METRICS
from inference.tasks.template import filled
from loraland.catalogue.categories import category_of
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.score import Score
from loraland.evals.counting import Comparison, comparisons
from loraland.evals.leaderboard import score_of_runs
from loraland.evals.models import Run
from loraland.training.chart import chart
from loraland.training.models import Training
from loraland.training.presets import duration
from loraland.training.rows import parts_of

STAGES: Final = (
    (Training.State.WAITING, "Waits its turn"),
    (Training.State.TRAINING, "Trains"),
    (Training.State.EXAMINING, "Is examined"),
    (Training.State.MEASURING, "Is measured"),
    (Training.State.DONE, "Draft"),
)


@dataclass(frozen=True)
class Stage:
    """One stage of the way; `kind` is its CSS class: past, now, ahead or broken."""

    name: str
    kind: str


def context_of(training: Training) -> dict[str, Any]:
    """What the page shows."""
    version = training.version
    compared = comparison_of(training)
    return {
        "training": training,
        "prompt": filled(training.template, {name: f"{{{name}}}" for name in training.recipe.field_names}),
        "num_left_out": _num_left_out(training),
        "metric_name": METRICS[training.metric].name,
        "category": category_of(training.category),
        "version": version,
        "is_published": version is not None and version.status == AdapterVersion.Status.PUBLISHED,
        "can_publish": version is not None and version.status == AdapterVersion.Status.READY,
        "stages": stages(training),
        "chart": chart(training.losses, training.steps),
        "time_left": time_left(training),
        "share": 100 * training.step / training.steps if training.steps else 0,
        "measured_share": 100 * training.measured / training.to_measure if training.to_measure else 0,
        "compared": compared,
        "score": score_of(compared),
    }


def _num_left_out(training: Training) -> int:
    """Rows that are longer than the training takes; none where its data set has gone from the disk."""
    with suppress(OSError):
        lengths = parts_of(training.data).lengths(training.template, training.of_base)
        return sum(length > training.max_length for length in lengths)
    return 0


def stages(training: Training) -> list[Stage]:
    """The way of a training, with the stage that it is in or that it ended in."""
    order: list[str] = [state for state, _ in STAGES]
    reached = order.index(training.state) if training.state in order else _reached(training)
    has_ended = not training.is_active
    kinds = []
    for index in range(len(order)):
        if index < reached or training.state == Training.State.DONE:
            kinds.append("past")
        elif index == reached:
            kinds.append("broken" if has_ended else "now")
        else:
            kinds.append("ahead")
    return [Stage(name, kind) for (_, name), kind in zip(STAGES, kinds, strict=True)]


def time_left(training: Training) -> str:
    """How long the training itself will still take, in words; empty where that is not known."""
    if training.state != Training.State.TRAINING or training.seconds_left is None or training.told is None:
        return ""
    passed = (timezone.now() - training.told).total_seconds()
    return duration(max(0.0, training.seconds_left - passed))


def comparison_of(training: Training) -> Comparison | None:
    """The measured result, beside the base's; None before there is one."""
    if training.run is None:
        return None
    runs = Run.objects.on_test().filter(task=training.slug, rows_digest=training.run.rows_digest)
    found = comparisons([training.run, *runs.exclude(subject=Run.Subject.ADAPTER)])
    return found[0] if found else None


def score_of(compared: Comparison | None) -> Score | None:
    return score_of_runs(compared) if compared else None


def _reached(training: Training) -> int:
    """How far a training came that was cancelled or failed."""
    if training.version is not None:
        return 3 if training.to_measure else 2
    if training.rows:
        return 2
    return 1 if training.started else 0
