"""Rows drawn by a seed: asked of the base at its best and of the adapter, kept as they come, never counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from asgiref.sync import sync_to_async
from django.core.management import CommandError, call_command
from django.db import connections

from inference.tasks.data import Row, Split
from inference.tasks.recipe import load_recipe
from loraland.catalogue.models import AdapterVersion
from loraland.evals.asking import Answered, CannotMeasure
from loraland.evals.drawing import Draw, answer_drawn
from loraland.evals.models import Run
from loraland.evals.questions import Question, RunPlan, draw

pytestmark = pytest.mark.django_db(transaction=True)

RECIPE = load_recipe("tweet_emotion")
TESTS = tuple(Row({"tweet": f"tweet {number}"}, "joy") for number in range(50))
SPLIT = Split(train=tuple(Row({"tweet": f"old {n}"}, "joy") for n in range(40)), validation=TESTS[:1], test=TESTS)
Measured = Callable[..., Run]


@pytest.fixture
def version(publish: Callable[..., AdapterVersion], measured: Measured) -> AdapterVersion:
    """A published adapter whose base was measured to do best with four examples."""
    publish("tweet_emotion", digest="a", template=RECIPE.template, fields=[{"name": "tweet", "label": "T", "rows": 3}])
    measured("tweet_emotion", "base", 0.4, prompt="four examples", n=300)
    measured("tweet_emotion", score=0.8, n=300)
    return AdapterVersion.objects.select_related("adapter").get()


def test_a_seed_draws_the_same_rows_each_time_and_another_seed_draws_others() -> None:
    assert draw(30, 300, 0) == draw(30, 300, 0) == sorted(set(draw(30, 300, 0)))
    assert draw(30, 300, 0) != draw(30, 300, 1)
    assert draw(30, 8, 0) == list(range(8))


async def test_base_and_adapter_answer_the_same_rows_and_a_second_call_asks_only_what_is_missing(version):
    asked: list[tuple[str, int]] = []

    async def knows(plan: RunPlan, question: Question) -> Answered:
        if len(asked) == 7:
            raise CannotMeasure("The lights went out.")
        asked.append((plan.facts["prompt"], question.index))
        return Answered("joy" if plan.version else "anger")

    wanted = Draw(RECIPE, SPLIT, [version], count=5)
    with pytest.raises(CannotMeasure, match="The lights went out"):
        await answer_drawn(wanted, lambda: None, knows)
    asked.append(("the lights are on", 0))
    base, tuned = await answer_drawn(wanted, lambda: None, knows)
    rows = draw(5, 50, 0)
    assert [index for style, index in asked if style == "four examples"] == rows, "what is kept is not asked again"
    assert {index for style, index in asked if style == "template"} == set(rows)
    assert (base.score, tuned.score, base.split, tuned.seed) == (0.0, 1.0, "drawn", 0)
    assert tuned.gains["base"]["run"] == str(base.pk)
    await version.arefresh_from_db()
    assert version.score == {}, "a few rows are no score"
    await sync_to_async(connections.close_all)()


async def test_an_adapter_without_a_score_is_refused_for_nobody_knows_how_the_base_is_at_its_best(version):
    other = replace_digest(version)
    with pytest.raises(CannotMeasure, match="tweet_emotion has no score on tweet_emotion; run evaluate on it first"):
        await answer_drawn(Draw(RECIPE, SPLIT, [other], count=5), lambda: None)
    await sync_to_async(connections.close_all)()


def replace_digest(version: AdapterVersion) -> AdapterVersion:
    version.digest = "f" * 64
    return version


def test_the_command_draws_for_open_tasks_alone_when_that_is_wished(version, tmp_path: Path, monkeypatch, capsys):
    folder = tmp_path / "tweet_emotion"
    folder.mkdir()
    for name, rows in (("train", SPLIT.train), ("test", SPLIT.test)):
        lines = [json.dumps({"inputs": row.inputs, "target": row.target}) for row in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")

    async def knows(plan: RunPlan, question: Question) -> Answered:
        return Answered("joy")

    monkeypatch.setattr("loraland.evals.management.commands.sample_answers.ask_engine", knows)
    call_command("sample_answers", "--data", tmp_path, "--open")
    assert not Run.objects.drawn().exists(), "the terms of these tweets are not known"
    call_command("sample_answers", "--data", tmp_path, "--rows", "4", "--seed", "3")
    assert [(run.subject, run.n, run.seed) for run in Run.objects.drawn()] == [("adapter", 4, 3), ("base", 4, 3)]
    assert "tweet_emotion@aaaaaaaaaaaa, with its own prompt: 100.0" in capsys.readouterr().out
    with pytest.raises(CommandError, match="--rows is 0"):
        call_command("sample_answers", "--data", tmp_path, "--rows", "0")
