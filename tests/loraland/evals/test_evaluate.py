"""Measuring through the queue: every answer is kept, what was left off goes on, and the base is asked at its best."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
from asgiref.sync import sync_to_async
from django.core.management import CommandError, call_command
from django.db import connections

from inference.tasks.baseline import STYLES
from inference.tasks.data import Row, Split
from inference.tasks.recipe import load_recipe
from inference.wire.protocol import Delta, Event, Failed, Finished, Generate, Stats
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.evals import asking, questions
from loraland.evals.asking import Answered, CannotMeasure, ask_engine
from loraland.evals.bakeoff import Trial, carry_out, fitting
from loraland.evals.measuring import measure, open_run
from loraland.evals.models import Run, Sample
from loraland.evals.questions import Question, RunPlan
from loraland.generations.models import Generation
from loraland.generations.reading import events
from tests.loraland.scripted_worker import ScriptedWorker

pytestmark = pytest.mark.django_db(transaction=True)

RECIPE = load_recipe("tweet_emotion")
MOODS = ("joy", "anger", "anger", "sadness")


def rows(count: int, start: int = 0) -> tuple[Row, ...]:
    return tuple(Row({"tweet": f"tweet {n} of {MOODS[n % 4]}"}, MOODS[n % 4]) for n in range(start, start + count))


SPLIT = Split(train=rows(40), validation=rows(8, 40), test=rows(8, 48))


def answer(request: Generate, text: str) -> Sequence[Event]:
    stats = Stats(completion_tokens=1, fingerprint="scripted-1")
    return [Delta(request.id, text, (1,)), Finished(request.id, "done", stats)]


def able(request: Generate) -> Sequence[Event]:
    """The adapter knows its task; the base says a right word too, but only after four examples as plain text."""
    if request.adapter:
        return answer(request, request.inputs["tweet"].rsplit(" ", 1)[1])
    is_shown = request.prompt and request.prompt.startswith("Tweet:") and request.prompt.count("Tweet:") == 5
    return answer(request, " Joy!\nTweet: more" if is_shown else "It is hard to say.")


def nothing(*_: object) -> None:
    return None


@pytest.fixture
async def adapter(publish: Callable[..., AdapterVersion]) -> AsyncIterator[AdapterVersion]:
    fields = [{"name": "tweet", "label": "Tweet", "rows": 3}]
    version = await sync_to_async(publish)("tweet_emotion", template=RECIPE.template, fields=fields)
    yield await AdapterVersion.objects.select_related("adapter").aget(pk=version.pk)
    await sync_to_async(connections.close_all)()


async def test_a_trial_scores_the_adapter_against_the_bases_best_prompt_and_the_best_constant(answering, adapter):
    worker = answering(able)
    told: list[Run] = []
    seen = 0

    def count(*_: object) -> None:
        nonlocal seen
        seen += 1

    trial = Trial(RECIPE, SPLIT, [adapter])
    await carry_out(trial, count, told.append)
    assert seen == trial.rows == len(worker.seen)
    constant, *styles, base, tuned = told
    assert {request.sampling.stop for request in worker.seen} == {("\n\nTweet:",), ()}
    assert (constant.score, {run.prompt for run in styles}) == (0.5, set(STYLES))
    assert (base.prompt, base.score, base.split) == ("four examples", 0.25, "test")
    assert (tuned.score, tuned.verdict, tuned.digest) == (1.0, "gain", adapter.digest)
    assert tuned.gains["base"]["run"] == str(base.pk)
    assert 0 < tuned.gains["base"]["low"] < tuned.gains["base"]["high"] <= 1
    assert (tuned.fingerprint, tuned.n, tuned.is_finished) == ("scripted-1", 8, True)
    await adapter.arefresh_from_db()
    assert (adapter.score["base"], adapter.score["tuned"], adapter.score["gain"]) == (0.25, 1.0, "gain")
    sample = await Sample.objects.filter(run=base).afirst()
    assert (sample.answer, sample.read, sample.target, sample.earned) == (" Joy!\nTweet: more", "joy", "joy", 1.0)
    assert sample.prompt.endswith("Tweet: tweet 48 of joy\nEmotion:")


async def test_an_adapter_of_another_base_is_measured_against_that_one(site_wire, adapter, other_base):
    await Adapter.objects.aupdate(base=other_base)
    theirs = await AdapterVersion.objects.select_related("adapter").aget()
    told: list[Run] = []
    worker = ScriptedWorker(site_wire, other_base.lower(), able)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(worker.run())
        await carry_out(Trial(RECIPE, SPLIT, [theirs]), nothing, told.append)
        worker.leaving = True
    assert {run.base for run in told} == {other_base}
    assert (told[-1].verdict, told[-1].gains["base"]["run"]) == ("gain", str(told[-2].pk))


async def test_its_questions_wait_behind_those_of_visitors(site_wire, adapter, monkeypatch):
    classes: list[str] = []

    async def submit(request: object, base: str, queue_class: str, limit: int) -> None:
        classes.append(queue_class)
        await original(request, base, queue_class, limit)

    original, plan = site_wire.submit, questions.of_adapter(adapter, RECIPE, SPLIT.test)
    monkeypatch.setattr(site_wire, "submit", submit)
    with pytest.raises(TimeoutError):
        async with asking.asyncio.timeout(0.3):
            await ask_engine(plan, plan.questions[0])
    generation = await Generation.objects.aget()
    assert (classes, generation.source, generation.tenant) == (["evaluation"], "evaluation", "evaluation")
    *_, (_, end) = [event async for event in events(generation)]
    assert end.reason == "stopped", "nobody waits for it any more"


async def test_a_run_that_was_left_off_asks_only_what_it_lacks(adapter):
    plan = questions.of_adapter(adapter, RECIPE, SPLIT.test)
    run = await sync_to_async(open_run)(plan)
    asked: list[int] = []

    async def knows(plan: RunPlan, question: Question) -> Answered:
        asked.append(question.index)
        return Answered(question.target)

    async def knows_three(plan: RunPlan, question: Question) -> Answered:
        if len(asked) == 3:
            raise CannotMeasure("The lights went out.")
        return await knows(plan, question)

    with pytest.raises(CannotMeasure, match="The lights went out"):
        await measure(run, plan, knows_three, nothing, concurrency=1)
    assert await Sample.objects.acount() == 3
    assert not (await Run.objects.aget()).is_finished
    again = await sync_to_async(open_run)(plan)
    assert again.pk == run.pk
    await measure(again, plan, knows, nothing, concurrency=1)
    assert asked == list(range(8))
    assert (again.score, await again.samples.acount()) == (1.0, 8)


async def test_what_is_measured_is_not_asked_again_unless_that_is_wished(answering, adapter):
    worker = answering(able)
    await carry_out(Trial(RECIPE, SPLIT, [adapter]), nothing, nothing)
    count, runs = len(worker.seen), await Run.objects.acount()
    await carry_out(Trial(RECIPE, SPLIT, [adapter]), nothing, nothing)
    assert (len(worker.seen), await Run.objects.acount()) == (count, runs)
    await carry_out(Trial(RECIPE, SPLIT, [adapter], again=True), nothing, nothing)
    assert (len(worker.seen), await Run.objects.acount()) == (2 * count, 2 * runs)


async def test_an_adapter_whose_prompt_was_mended_is_measured_anew(adapter):
    first = await sync_to_async(open_run)(questions.of_adapter(adapter, RECIPE, SPLIT.test))

    async def knows(plan: RunPlan, question: Question) -> Answered:
        return Answered(question.target)

    plan = questions.of_adapter(adapter, RECIPE, SPLIT.test)
    await measure(first, plan, knows, nothing)
    assert (await sync_to_async(open_run)(plan)).pk == first.pk
    adapter.template = "Another: {tweet}"
    other = questions.of_adapter(adapter, RECIPE, SPLIT.test)
    assert (await sync_to_async(open_run)(other)).pk != first.pk


async def test_what_was_imported_without_its_answers_is_measured_here(answering, adapter):
    answering(able)
    await carry_out(Trial(RECIPE, SPLIT, [adapter]), nothing, nothing)
    await Sample.objects.filter(run__subject="base").adelete()
    await carry_out(Trial(RECIPE, SPLIT, [adapter]), nothing, nothing)
    assert await Run.objects.filter(subject="base", split="test").acount() == 2
    assert await Run.objects.filter(subject="adapter").acount() == 1


async def test_a_failure_that_may_pass_is_asked_again(answering, adapter, monkeypatch):
    monkeypatch.setattr(asking, "LONGEST_PAUSE_SECONDS", 0)
    tries: list[str] = []

    def second_time(request: Generate) -> Sequence[Event]:
        tries.append(request.id)
        return [Failed(request.id, "worker_lost", "The worker is gone.")] if len(tries) < 2 else answer(request, "joy")

    answering(second_time)
    plan = questions.of_adapter(adapter, RECIPE, SPLIT.test)
    assert (await ask_engine(plan, plan.questions[0])).text == "joy"
    assert len(tries) == 2


async def test_a_question_that_cannot_be_answered_earns_nothing_and_says_why(answering, adapter):
    answering(lambda request: [Failed(request.id, "prompt_too_long", "The prompt has 9000 tokens.")])
    await carry_out(Trial(RECIPE, SPLIT, [adapter]), nothing, nothing)
    run = await Run.objects.aget(subject="adapter")
    sample = await run.samples.afirst()
    assert (run.score, sample.error, run.verdict) == (0.0, "The prompt has 9000 tokens.", "no clear gain")


@pytest.mark.parametrize("code", ["adapter_refused", "invalid_request", "internal"])
async def test_a_failure_that_is_not_the_questions_own_ends_the_measuring_with_its_reason(answering, adapter, code):
    answering(lambda request: [Failed(request.id, code, "Its shapes do not fit.")])
    with pytest.raises(CannotMeasure, match="Its shapes do not fit"):
        await carry_out(Trial(RECIPE, SPLIT, [adapter]), nothing, nothing)
    assert not await Run.objects.filter(finished__isnull=False).exclude(subject="constant").aexists()


async def test_an_adapter_with_other_fields_does_not_fit_the_task(adapter):
    with pytest.raises(CannotMeasure, match="tweet_emotion reads tweet, and the rows of viggo have"):
        fitting(load_recipe("viggo"), [adapter])


def test_the_command_measures_what_has_a_recipe_and_tells(
    site_data: Path, adapter_in_place: AdapterVersion, publish: Callable[..., AdapterVersion], monkeypatch, capsys
):
    publish("an-owners-own", digest="b")

    async def knows(plan: RunPlan, question: Question) -> Answered:
        return Answered(question.target if plan.version else "joy")

    monkeypatch.setattr("loraland.evals.management.commands.evaluate.ask_engine", knows)
    call_command("evaluate", "--data", str(site_data), "--limit", "4")
    run = Run.objects.get(subject="adapter")
    assert (run.n, run.score, run.samples.count()) == (4, 1.0, 4)
    assert "tweet_emotion: tweet_emotion@aaaaaaaaaaaa, with its own prompt: 100.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--adapters", "cooking"], "'cooking' is published; choose another. There are tweet_emotion"),
        (["--tasks", "cooking"], "there is no recipe for the task 'cooking'"),
        (["--tasks", "viggo"], "there is no data for viggo"),
        (["--reference"], "needs REFERENCE_URL"),
    ],
)
def test_what_cannot_be_measured_is_refused(site_data: Path, adapter_in_place: AdapterVersion, arguments, reason):
    with pytest.raises(CommandError, match=reason):
        call_command("evaluate", "--data", str(site_data), *arguments)
    assert not Run.objects.exists()


@pytest.fixture
def adapter_in_place(publish: Callable[..., AdapterVersion]) -> AdapterVersion:
    fields = [{"name": "tweet", "label": "Tweet", "rows": 3}]
    return publish("tweet_emotion", template=RECIPE.template, fields=fields)


@pytest.fixture
def site_data(tmp_path: Path) -> Path:
    """A folder with the rows of one task."""
    folder = tmp_path / "tweet_emotion"
    folder.mkdir()
    for name, part in (("train", SPLIT.train), ("test", SPLIT.test)):
        lines = [json.dumps({"inputs": row.inputs, "target": row.target}) for row in part]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path
