"""One row for each adapter that was measured on a task beside what it must beat: by what the leaderboard finds, counts
and orders.

Which run counts, and what it is compared with, is worked out of all runs of a task (`loraland.evals.counting`). So it
is kept, and worked out anew for a task when one of its runs ends, or becomes public or hidden with its version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final

from django.db import transaction
from django.db.models import Exists, OuterRef, Q
from django.db.models.signals import post_save

from inference.tasks.verdict import CLEAR
from loraland import database_lock
from loraland.catalogue.finder import searchable
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.evals.counting import Comparison, comparisons
from loraland.evals.models import Run, RunQuerySet, Standing
from loraland.evals.task_facts import TaskFacts, facts_of

BATCH: Final = 500
OF_VERSION: Final = frozenset({"status", "published_at", "digest", "publish_when_ready"})
"""What of a version says whether the runs of its weights are public."""


def place(task: str) -> None:
    """Write the rows of `task` anew."""
    names = [field.name for field in Standing._meta.concrete_fields if not field.primary_key]
    with transaction.atomic():
        database_lock.hold(f"standings of {task}")  # of two that write them the later sees what the first wrote
        found, facts = comparisons(Run.objects.public().on_test().filter(task=task)), facts_of(task)
        rows = [Standing(**columns_of(compared, facts)) for compared in found]
        Standing.objects.filter(task=task).exclude(pk__in=[row.pk for row in rows]).delete()
        Standing.objects.bulk_create(
            rows, update_conflicts=True, unique_fields=["tuned"], update_fields=names, batch_size=BATCH
        )


def place_all(tasks: Iterable[str]) -> None:
    for task in sorted(set(tasks)):
        place(task)


def complete() -> int:
    """Write the tasks anew that lack a row, or have one of a hidden run, as an older version of this program leaves
    them, or what is put into the database at once; how many."""
    hidden = Run.objects.hidden().filter(standing__isnull=False)
    tasks = {*_lacking().values_list("task", flat=True), *hidden.order_by().values_list("task", flat=True)}
    place_all(tasks)
    return len(tasks)


def columns_of(compared: Comparison, facts: TaskFacts) -> dict[str, Any]:
    tuned, base = compared.tuned, compared.base
    words = (facts.title, facts.name, facts.summary, facts.category.name, tuned.adapter, tuned.base, tuned.metric)
    return {
        "tuned": tuned,
        "against": base,
        "constant": compared.constant,
        "reference": compared.reference,
        "task": tuned.task,
        "text": searchable(*words),
        "title": facts.title.casefold()[:240],
        "category_key": facts.category.key,
        "base": tuned.base,
        "base_key": tuned.base.lower(),
        "base_score": base.points,
        "tuned_score": tuned.points,
        "gain": compared.gain,
        "rows": tuned.n,
        "is_clear": tuned.verdict == CLEAR,
        "scoring": tuned.scoring,
    }


def watch() -> None:
    """Write rows anew when what they are worked out of is saved."""
    post_save.connect(_of_run, Run, dispatch_uid="standings of a run")
    post_save.connect(_of_version, AdapterVersion, dispatch_uid="standings of a version")
    post_save.connect(_of_adapter, Adapter, dispatch_uid="standings of an adapter")


def _of_run(sender: type[Run], instance: Run, **sent: Any) -> None:
    if instance.is_finished and instance.split == Run.Split.TEST:
        place(instance.task)


def _of_version(sender: type[AdapterVersion], instance: AdapterVersion, **sent: Any) -> None:
    """A draft that becomes public brings its runs along, and may be newer than what stood there."""
    changed = sent.get("update_fields")
    if changed is None or OF_VERSION & {*changed}:
        _place_later(instance.adapter.slug)


def _of_adapter(sender: type[Adapter], instance: Adapter, **sent: Any) -> None:
    """A version that is shown no more may be a draft again; and a task without a recipe is called as the adapter that
    bears its name."""
    _place_later(instance.slug)


def _place_later(adapter: str) -> None:
    """Once the change is to be seen: its transaction holds the adapter, which an import of runs, that has a task's
    lock, may wait for."""
    placing = _placing(adapter)
    if all(call is not placing for _, call, *_ in transaction.get_connection().run_on_commit):
        transaction.on_commit(placing, robust=True)


@lru_cache(100)
def _placing(adapter: str) -> Callable[[], None]:
    """What writes the tasks of `adapter` anew: for each the same, so that it is found among what waits already."""

    def place_tasks() -> None:
        runs = Run.objects.filter(adapter=adapter, subject=Run.Subject.ADAPTER).order_by()
        named = Standing.objects.filter(task=adapter).order_by()
        place_all([*runs.values_list("task", flat=True), *named.values_list("task", flat=True)])

    return place_tasks


def _lacking() -> RunQuerySet:
    """Runs that count, as `comparisons` finds them, and have no row."""
    every = Run.objects.on_test().of_today().order_by()
    same = every.filter(task=OuterRef("task"), base=OuterRef("base"))
    rivals = same.filter(subject=Run.Subject.BASE, rows_digest=OuterRef("rows_digest"), n=OuterRef("n"))
    others = same.public().filter(subject=Run.Subject.ADAPTER, adapter=OuterRef("adapter"))
    later = Q(finished__gt=OuterRef("finished"))
    newer = others.filter(later & ~Q(digest=OuterRef("digest")))
    larger = others.filter(Q(n__gt=OuterRef("n")) | later & Q(n=OuterRef("n")), digest=OuterRef("digest"))
    found = every.public().filter(subject=Run.Subject.ADAPTER, standing__isnull=True)
    return found.filter(Exists(rivals), ~Exists(newer), ~Exists(larger))
