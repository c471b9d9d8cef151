"""A finished run never changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from loraland.evals.models import Run, RunFinished, Sample

Measured = Callable[..., Run]


def test_a_run_can_change_until_it_is_finished(db: None) -> None:
    run = Run.objects.create(task="viggo", metric="rouge_l", subject="base", base="m", n=2)
    run.score = 0.5
    run.save()
    Sample.objects.create(run=run, index=0, prompt="?", target="x", earned=1.0)
    run.delete()
    assert not Run.objects.exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda run: run.save(),
        lambda run: run.delete(),
        lambda run: Sample.objects.create(run=run, index=9, prompt="?", target="x", earned=1.0),
        lambda run: run.samples.get().delete(),
        lambda run: run.samples.get().save(),
    ],
)
def test_a_finished_run_and_its_samples_stay_as_they_are(measured: Measured, change: Callable[[Run], object]) -> None:
    run = measured(samples=[("joy", "joy")])
    with pytest.raises(RunFinished, match="stays as it is"):
        change(run)
    assert (Run.objects.get().score, Sample.objects.get().earned) == (0.7, 1.0)


def test_its_tallies_come_in_the_order_of_the_rows(measured: Measured) -> None:
    run = measured(samples=[("joy", "joy"), ("joy", "anger")])
    assert [tally.earned for tally in run.tallies()] == [1.0, 0.0]
