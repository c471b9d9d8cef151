"""Which runs count: the newest of each answerer on each task, and what an adapter's run is compared with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from inference.tasks.verdict import remark_of
from loraland.evals.models import Run

MOST: Final = 200
"""Runs on validation rows of one task that are looked at."""


@dataclass(frozen=True)
class Comparison:
    """An adapter's run beside the base's best, the best constant answer and another model on the same rows."""

    tuned: Run
    base: Run
    constant: Run | None = None
    reference: Run | None = None

    @property
    def gain(self) -> float:
        """In points of 100."""
        return 100 * ((self.tuned.score or 0.0) - (self.base.score or 0.0))

    @property
    def gain_interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the gain in points, where the rows of both runs are known."""
        pair = self.tuned.gains.get("base", {})
        return (100 * pair["low"], 100 * pair["high"]) if {"low", "high"} <= pair.keys() else None

    @property
    def remark(self) -> str:
        """What stands beside the gain where it is not clear, in a few words; empty for a clear one."""
        surely = self.gain_interval[0] if self.gain_interval else 0.0
        return remark_of(self.tuned.verdict, self.gain, surely, self.constant.answer if self.constant else None)


def comparisons(runs: Iterable[Run] | None = None) -> list[Comparison]:
    """The run that counts of every adapter on every task for which the base was measured too, by the rules of today."""
    by_task: dict[str, list[Run]] = defaultdict(list)
    for run in Run.objects.public().on_test() if runs is None else runs:
        if not run.is_outdated:
            by_task[run.task].append(run)
    return [found for measured in by_task.values() for found in _of_task(measured)]


def counting(runs: Iterable[Run]) -> list[Run]:
    """Those of `runs` that are told: the compared test runs, and the base's prompts on their validation rows."""
    every = sorted(runs, key=lambda run: run.finished or run.created, reverse=True)
    shown: dict[str, Run] = {}
    for found in comparisons(run for run in every if run.split == Run.Split.TEST):
        for run in (found.tuned, found.base, found.constant, found.reference):
            if run is not None:
                shown[str(run.pk)] = run
    return [*shown.values(), *_validation(every, {run.task for run in shown.values()})]


def shown_of(task: str, compared: Iterable[Comparison]) -> list[Run]:
    """The runs that the page of `task` shows: the `compared` test runs, and the base's prompts on validation rows."""
    shown: dict[UUID, Run] = {}
    for found in compared:
        for run in (found.tuned, found.base, found.constant, found.reference):
            if run is not None:
                shown[run.pk] = run
    return [*shown.values(), *_asked_on_validation(task)]


def answers_to_show(runs: Iterable[Run]) -> dict[UUID, Run]:
    """For each of `runs` whose answers can be read here, the run that holds them: itself, or else its drawn rows."""
    every = list(runs)
    whole = set(Run.objects.whole().filter(pk__in=[run.pk for run in every]).values_list("pk", flat=True))
    drawn: dict[tuple[str, ...], Run] = {}
    for run in Run.objects.drawn().whole().filter(task__in={run.task for run in every}):
        drawn.setdefault(_answerer(run), run)
    found = {run.pk: run if run.pk in whole else drawn.get(_answerer(run)) for run in every}
    return {pk: run for pk, run in found.items() if run is not None}


def drawn_answers(runs: Iterable[Run]) -> list[Run]:
    """The newest drawn rows of each answerer among the test `runs`."""
    tests = [run for run in runs if run.split == Run.Split.TEST]
    return list({run.pk: run for run in answers_to_show(tests).values() if run.split == Run.Split.DRAWN}.values())


def _answerer(run: Run) -> tuple[str, ...]:
    """Who answered, and how it was asked."""
    return run.task, run.subject, run.digest, run.base, run.prompt


def _of_task(runs: list[Run]) -> list[Comparison]:
    """`runs` are of one task, the newest first."""
    subject = Run.Subject
    of_base: dict[tuple[str, int, str], Run] = {}
    others: dict[tuple[str, int, str], Run] = {}
    for run in reversed(runs):  # of each the newest
        of_base |= {(run.rows_digest, run.n, run.base): run} if run.subject == subject.BASE else {}
        others[run.rows_digest, run.n, run.subject] = run
    found = []
    for tuned in _newest_weights(run for run in runs if run.subject == subject.ADAPTER):
        if base := of_base.get((tuned.rows_digest, tuned.n, tuned.base)):
            constant, reference = (
                others.get((tuned.rows_digest, tuned.n, kind)) for kind in (subject.CONSTANT, subject.REFERENCE)
            )
            found.append(Comparison(tuned, base, constant, reference))
    return found


def _newest_weights(runs: Iterable[Run]) -> list[Run]:
    """Of each adapter the run with most rows of the weights that were measured last; `runs` are the newest first."""
    chosen: dict[tuple[str, str], Run] = {}
    for run in runs:
        known = chosen.setdefault((run.adapter, run.base), run)
        if run.digest == known.digest and run.n > known.n:
            chosen[run.adapter, run.base] = run
    return list(chosen.values())


def _asked_on_validation(task: str) -> list[Run]:
    """The newest of each way in which a base was asked."""
    runs = Run.objects.public().of_today().filter(task=task, split=Run.Split.VALIDATION, subject=Run.Subject.BASE)
    newest: dict[tuple[str, str], Run] = {}
    for run in runs.order_by("-finished")[:MOST]:
        newest.setdefault((run.base, run.prompt), run)
    return list(newest.values())


def _validation(runs: list[Run], tasks: set[str]) -> list[Run]:
    newest: dict[tuple[str, str, str], Run] = {}
    for run in runs:
        if (
            run.task in tasks
            and not run.is_outdated
            and run.split == Run.Split.VALIDATION
            and run.subject == Run.Subject.BASE
        ):
            newest.setdefault((run.task, run.base, run.prompt), run)
    return list(newest.values())
