"""What stands on the leaderboard follows what is measured, published and withdrawn, whoever wrote it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.db.models import QuerySet
from django.test.utils import CaptureQueriesContext

from loraland.catalogue.models import AdapterVersion
from loraland.evals import migrations, standings
from loraland.evals.models import Run, Standing
from loraland.evals.tasks import complete_standings
from tests.patience import PATIENCE

Measured = Callable[..., Run]
Publish = Callable[..., AdapterVersion]
ELSEWHERE = "Mistral-7B-v0.1"
"""A base that is not served."""


def standing() -> list[tuple[str, str]]:
    """The tasks on the board, each with the first letter of the digest that stands there."""
    rows = Standing.objects.order_by("task", "tuned__digest").values_list("task", "tuned__digest")
    return [(task, digest[:1]) for task, digest in rows]


def beside(measured: Measured, task: str, **fields: Any) -> Run:
    """A run of an adapter beside one of its base."""
    measured(task, "base", 0.2, **{"base": ELSEWHERE, **fields})
    return measured(task, score=0.8, **{"base": ELSEWHERE, **fields})


def test_what_an_older_version_measured_comes_on_the_board(measured: Measured) -> None:
    for task in ("viggo", "dbpedia"):
        beside(measured, task)
    Standing.objects.filter(task="viggo").delete()
    complete_standings()
    assert standing() == [("dbpedia", "a"), ("viggo", "a")]


def test_nothing_is_written_for_runs_that_do_not_count(measured: Measured) -> None:
    measured("viggo", base=ELSEWHERE, digest="o" * 64)  # of other weights, before
    beside(measured, "viggo", n=300)
    beside(measured, "viggo")  # of fewer rows
    measured("dbpedia")  # its base was not measured
    beside(measured, "snli", scoring=0)  # by older rules
    before = standing()
    with CaptureQueriesContext(connection) as asked:
        assert standings.complete() == 0
    assert len(asked) == 2
    assert standing() == before == [("viggo", "a")]


def test_what_an_older_version_withdrew_goes_from_the_board(measured: Measured, publish: Publish) -> None:
    publish("viggo", status="validating")
    beside(measured, "viggo")
    QuerySet(AdapterVersion).update(status="retired")  # as who knows nothing of the board writes
    complete_standings()
    assert standing() == []
    QuerySet(AdapterVersion).update(status="validating")
    complete_standings()
    assert standing() == [("viggo", "a")]


def test_an_import_of_results_completes_the_board(measured: Measured, tmp_path: Path) -> None:
    beside(measured, "viggo")
    Standing.objects.all().delete()
    call_command("import_results", tmp_path)
    assert standing() == [("viggo", "a")]


def test_no_migration_works_by_the_rules_of_today() -> None:
    """They read the columns of today, which the tables of then have not."""
    for path in Path(migrations.__path__[0]).glob("0*.py"):
        assert "import standings" not in path.read_text(encoding="utf-8")


@pytest.mark.django_db(transaction=True)
def test_an_adapter_of_a_base_that_is_not_served_stands_while_it_is_listed(
    measured: Measured, publish: Publish
) -> None:
    """By the version that is shown: one that was replaced, or withdrawn, has never been published."""
    beside(measured, "viggo")
    publish("viggo", status="validating", base=ELSEWHERE).list_unserved()
    assert standing() == [("viggo", "a")]
    second = publish("viggo", "b", status="validating")
    second.list_unserved()
    assert standing() == []
    measured("viggo", base=ELSEWHERE, digest="b" * 64)
    assert standing() == [("viggo", "b")]
    second.retire()
    assert standing() == []


@pytest.mark.django_db(transaction=True)
def test_only_what_makes_a_version_public_or_hides_it_writes_the_board_anew(
    measured: Measured, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside(measured, "viggo")
    version = publish("viggo", status="ready", publish_when_ready=False, logit_delta=1.0)
    placed: list[str] = []
    monkeypatch.setattr(standings, "place", placed.append)
    version.put_off("The worker is away.")
    assert placed == []
    version.publish()
    assert placed == ["viggo"]


@pytest.mark.django_db(transaction=True)
def test_of_two_runs_that_end_at_once_both_stand(measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    measured("viggo", "base", 0.2)
    has_read, is_over = threading.Event(), threading.Event()
    compared = standings.comparisons

    def slowly(runs: Any) -> Any:
        """The first who reads waits for the second to end, which it does not before it is through itself."""
        found = compared(runs)
        if not has_read.is_set():
            has_read.set()
            is_over.wait(0.5)
        return found

    def other() -> None:
        has_read.wait(PATIENCE)
        measured("viggo", adapter="second", digest="b" * 64)
        is_over.set()
        connection.close()

    monkeypatch.setattr(standings, "comparisons", slowly)
    beside_it = threading.Thread(target=other)
    beside_it.start()
    measured("viggo", adapter="first")
    beside_it.join()
    assert standing() == [("viggo", "a"), ("viggo", "b")]
