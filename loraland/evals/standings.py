"""One row for each adapter that was measured on a task beside what it must beat: by what the leaderboard finds, counts
and orders.

Which run counts, and what it is compared with, is worked out of all runs of a task (`loraland.evals.counting`). So it
is kept, and worked out anew for a task when one of its runs ends, or becomes public or hidden with its version.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from django.db import transaction
from django.db.models.signals import post_save

from inference.tasks.verdict import CLEAR
from loraland.catalogue.finder import searchable
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.evals.counting import Comparison, comparisons
from loraland.evals.models import Run, Standing
from loraland.evals.task_facts import TaskFacts, facts_of

BATCH: Final = 500


def place(task: str) -> None:
    """Write the rows of `task` anew."""
    found = comparisons(Run.objects.public().on_test().filter(task=task))
    facts = facts_of(task)
    rows = [Standing(**columns_of(compared, facts)) for compared in found]
    names = [field.name for field in Standing._meta.concrete_fields if not field.primary_key]
    with transaction.atomic():
        Standing.objects.filter(task=task).exclude(pk__in=[row.pk for row in rows]).delete()
        Standing.objects.bulk_create(
            rows, update_conflicts=True, unique_fields=["tuned"], update_fields=names, batch_size=BATCH
        )


def place_all(tasks: Iterable[str]) -> None:
    for task in sorted(set(tasks)):
        place(task)


def complete() -> None:
    """Write the rows of tasks that have none, as those whose runs were put into the database at once."""
    lacking = Run.objects.on_test().filter(subject=Run.Subject.ADAPTER, standing__isnull=True).order_by()
    place_all(lacking.values_list("task", flat=True).distinct())


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
    runs = Run.objects.filter(adapter=instance.adapter.slug, subject=Run.Subject.ADAPTER).order_by()
    place_all(runs.values_list("task", flat=True).distinct())


def _of_adapter(sender: type[Adapter], instance: Adapter, **sent: Any) -> None:
    """A task without a recipe is called as the adapter that bears its name."""
    if Standing.objects.filter(task=instance.slug).exists():
        place(instance.slug)
