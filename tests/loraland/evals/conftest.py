"""Finished runs to show."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.utils import timezone

from loraland.evals.models import Run, Sample


@pytest.fixture
def measured(db: None) -> Callable[..., Run]:
    """`measured(task, subject, score, **fields)` keeps a finished run; `samples` gives (answer, target) pairs."""

    def make(task: str = "tweet_emotion", subject: str = "adapter", score: float = 0.7, **fields: object) -> Run:
        samples = fields.pop("samples", ())
        adapter = task if subject == "adapter" else ""
        facts = {"metric": "accuracy", "n": 100, "base": "SmolLM2-135M-Instruct", "adapter": adapter, **fields}
        if subject == "adapter":
            facts = {"digest": "a" * 64, "verdict": "gain", **facts}
        run = Run.objects.create(task=task, subject=subject, score=score, **facts)
        for index, (answer, target) in enumerate(samples):
            earned = float(answer == target)
            Sample.objects.create(
                run=run, index=index, prompt="?", answer=answer, read=answer, target=target, earned=earned
            )
        run.finished = timezone.now()
        run.save()
        return run

    return make


@pytest.fixture
def board(measured: Callable[..., Run]) -> None:
    """Two clear gains and a third that is none."""
    for task, base, tuned, verdict in (
        ("tweet_emotion", 0.25, 0.75, "gain"),
        ("gsm8k", 0.02, 0.03, "no clear gain"),
        ("dbpedia", 0.2, 0.95, "gain"),
    ):
        measured(task, "base", base, prompt="instruction", low=base - 0.01, high=base + 0.01)
        measured(task, "adapter", tuned, low=tuned - 0.02, high=tuned + 0.02, verdict=verdict)
