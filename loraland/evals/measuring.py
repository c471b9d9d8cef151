"""Making a run: taken up where it was left, every answer kept as it comes, and closed with its score."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.db import transaction
from django.utils import timezone

from inference.tasks.bootstrap import interval, paired_interval
from inference.tasks.metrics import METRICS, score
from inference.tasks.verdict import verdict_of
from loraland.evals.asking import Answered, Ask
from loraland.evals.cards import show_score
from loraland.evals.counting import Comparison
from loraland.evals.models import Run, Sample
from loraland.evals.questions import Question, RunPlan

CONCURRENCY: Final = 64
"""Questions that wait in the queue at once."""
IDENTITY: Final = ("task", "subject", "digest", "base", "prompt", "split", "rows_digest", "seed", "source", "scoring")
"""What makes two runs the same measurement."""
RIVALS: Final = ("base", "constant")
"""Whom an adapter must beat."""


async def ensure_run(plan: RunPlan, ask: Ask, on_row: Callable[[], object], again: bool = False) -> Run:
    """The finished run of `plan`, made now unless it is there; `on_row` is told of every row that is asked.

    Raises `loraland.evals.asking.CannotMeasure`; another call goes on where this one stopped.
    """
    run = await sync_to_async(open_run)(plan, again)
    if plan.constant is not None:
        if not run.is_finished:
            await sync_to_async(give_constant)(run, plan)
    elif run.is_finished:
        for _ in plan.questions:
            on_row()
    else:
        await measure(run, plan, ask, on_row)
    return run


def open_run(plan: RunPlan, again: bool = False) -> Run:
    """The run that `plan` describes: a whole one unless `again`, one that was left off, or a new one."""
    facts = {"adapter": "", "digest": "", **plan.facts}
    same = Run.objects.filter(**{name: facts[name] for name in IDENTITY})
    whole = next((run for run in same.whole() if _asks_the_same(run, plan)), None)
    if whole is not None and not again:
        return whole
    unfinished = next((run for run in same.filter(finished__isnull=True) if _asks_the_same(run, plan)), None)
    return unfinished or Run.objects.create(**facts, version=version("loraland"))


def _asks_the_same(run: Run, plan: RunPlan) -> bool:
    """Whether `run` put its rows into the words of `plan`: an adapter's prompt may have been mended since."""
    asked = {question.index: question.prompt for question in plan.questions}
    first = run.samples.first()
    return first is None or asked.get(first.index) == first.prompt


async def measure(
    run: Run, plan: RunPlan, ask: Ask, on_row: Callable[[], object], concurrency: int = CONCURRENCY
) -> None:
    """Ask what `run` lacks and close it. Raises `loraland.evals.asking.CannotMeasure`; what was answered stays."""
    known = {index async for index in run.samples.values_list("index", flat=True)}
    for _ in known:
        on_row()
    room = asyncio.Semaphore(concurrency)

    async def one(question: Question) -> None:
        async with room:
            answered = await ask(plan, question)
            await sync_to_async(keep)(run, plan, question, answered)
            on_row()

    try:
        async with asyncio.TaskGroup() as tasks:
            for question in plan.questions:
                if question.index not in known:
                    tasks.create_task(one(question))
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    await sync_to_async(finish)(run)


def give_constant(run: Run, plan: RunPlan) -> None:
    """Close the run of a constant answer, which nobody has to be asked for."""
    assert plan.constant is not None
    with transaction.atomic():
        run.samples.all().delete()
        for question in plan.questions:
            keep(run, plan, question, Answered(plan.constant))
        finish(run)


def keep(run: Run, plan: RunPlan, question: Question, answered: Answered) -> None:
    """Keep one answer with what it earned."""
    read = plan.read(answered.text)
    tally = METRICS[run.metric](read, question.target)
    Sample.objects.create(
        run=run,
        index=question.index,
        prompt=question.prompt,
        answer=answered.text,
        read=read,
        target=question.target,
        earned=tally.earned,
        possible=tally.possible,
        error=answered.error,
    )
    if answered.fingerprint not in run.fingerprint.split():
        run.fingerprint = f"{run.fingerprint} {answered.fingerprint}".strip()[:200]
        run.save(update_fields=["fingerprint"])


def finish(run: Run) -> None:
    """Close `run`: its score with the interval and, for an adapter, its gain over what it must beat."""
    tallies = run.tallies()
    run.score = score(tallies)
    run.low, run.high = interval(tallies)
    if run.subject == Run.Subject.ADAPTER:
        run.gains = {rival: gain for rival in RIVALS if (gain := _gain(run, rival))}
        if len(run.gains) == len(RIVALS):
            run.verdict = verdict_of(*((gain["low"], gain["high"]) for gain in run.gains.values()))
    run.finished = timezone.now()
    run.save()
    if run.split == Run.Split.TEST:
        base, constant = (Run.objects.filter(pk=run.gains.get(rival, {}).get("run")).first() for rival in RIVALS)
        if base is not None:
            show_score(Comparison(run, base, constant))


def _gain(run: Run, subject: str) -> dict[str, Any]:
    """The paired interval of `run` less the newest run of `subject` on the same rows; empty where there is none."""
    same = Run.objects.filter(
        task=run.task, split=run.split, rows_digest=run.rows_digest, subject=subject, scoring=run.scoring
    )
    other = same.whole().filter(base=run.base).first()
    if other is None:
        return {}
    low, high = paired_interval(run.tallies(), other.tallies())
    return {"run": str(other.pk), "low": low, "high": high}
