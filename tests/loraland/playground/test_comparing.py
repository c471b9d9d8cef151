"""Comparing: one prompt, columns that start, fail and stop apart, and an address that brings them back."""

from __future__ import annotations

import re
import uuid
from typing import Any

import pytest

from inference.wire.protocol import Delta, Failed, Finished, Generate
from loraland.generations.models import Generation
from loraland.playground.models import Comparison
from tests.loraland.playground.page import Page, text_of
from tests.loraland.scripted_worker import echo

pytestmark = pytest.mark.django_db(transaction=True)

BRIDGE = {"title": "Tower Bridge", "text": "A bridge in London."}


async def compare(page: Page, *columns: str, **prompt: Any) -> tuple[dict[str, Any], dict[int, str]]:
    """Ask, and return the comparison with the answer of each column that has started."""
    await page.say(type="compare", request="c", columns=list(columns), **prompt)
    compared = await page.hear("compared", "refused")
    answers: dict[int, str] = {}
    for _ in columns if compared["type"] == "compared" else ():
        told = await page.hear("started", "refused", request="c")
        answers[told["position"]] = told.get("answer", "")
    return compared, answers


def base_fails(request: Generate) -> list[Any]:
    if request.adapter is None:
        return [Delta(request.id, "half"), Failed(request.id, "out_of_memory", "The device is full; ask again.")]
    return echo(request)


def base_never_ends(request: Generate) -> list[Any]:
    return echo(request) if request.adapter else [Delta(request.id, "on and on")]


async def test_every_column_has_an_answer_of_its_own(site_wire, answering, anna, topic):
    worker = answering()
    async with anna.page() as page:
        compared, answers = await compare(page, "topic", "base", inputs=BRIDGE)
        ends = {}
        while len(ends) < 2:
            end = await page.hear("finished")
            ends[end["answer"]] = end
    assert set(ends) == set(answers.values())
    assert compared["expected"] == "Building"
    by_adapter = {bool(request.adapter): request for request in worker.seen}
    assert by_adapter[True].inputs == BRIDGE
    assert by_adapter[False].messages[0].content == "Title: Tower Bridge\nText: A bridge in London.\nTopic:"


async def test_a_column_that_fails_leaves_the_others_whole(site_wire, answering, anna, topic):
    async with anna.page() as page:
        _, answers = await compare(page, "topic", "base", inputs=BRIDGE)
        answering(base_fails)
        ends = [await page.hear("finished", "failed") for _ in answers]
    ended = {end["answer"]: end for end in ends}
    assert (ended[answers[1]]["type"], ended[answers[1]]["text"]) == ("failed", "half")
    assert (ended[answers[0]]["type"], ended[answers[0]]["reason"]) == ("finished", "done")


async def test_a_column_that_lags_is_stopped_alone(site_wire, answering, anna, topic):
    worker = answering(base_never_ends)
    async with anna.page() as page:
        _, answers = await compare(page, "topic", "base", inputs=BRIDGE)
        assert (await page.hear("finished"))["answer"] == answers[0]
        await page.say(type="stop", answer=answers[1])
        assert (await page.hear("finished"))["reason"] == "stopped"
    assert worker.stopped == [uuid.UUID(answers[1]).hex]


async def test_a_column_that_is_refused_leaves_the_others_running(site_wire, answering, anna, topic, settings):
    settings.MAX_RUNNING_PER_VISITOR = 1
    async with anna.page() as page:
        compared, answers = await compare(page, "topic", "base", inputs=BRIDGE)
        answering()
        assert (await page.hear("finished"))["answer"] == answers[0]
    assert answers[1] == ""
    html = (await anna.get(compared["url"])).content.decode()
    assert re.search(r'data-state="failed".*wait for one to end.*data-act="retry">Ask again', html, re.DOTALL)


@pytest.mark.parametrize(
    ("setting", "code"), [("MAX_INPUT_CHARS", "input_too_long"), ("MAX_RUNNING_PER_VISITOR", "too_many_running")]
)
async def test_a_comparison_that_asks_nothing_leaves_no_row(site_wire, anna, topic, settings, setting, code):
    """It costs its sender nothing, so that whoever sends one after the other would fill the disk."""
    setattr(settings, setting, 0)
    async with anna.page() as page:
        for _ in range(3):
            refused, _ = await compare(page, "topic", "base", inputs=BRIDGE)
            assert (refused["type"], refused["code"]) == ("refused", code)
    assert not await Comparison.objects.aexists()
    assert not await Generation.objects.aexists()


async def test_one_column_is_asked_again(site_wire, answering, anna, topic):
    async with anna.page() as page:
        compared, answers = await compare(page, "topic", "base", inputs=BRIDGE)
        answering(base_fails)
        for _ in answers:
            await page.hear("finished", "failed")
        await page.say(type="retry", request="again", comparison=compared["comparison"], position=1)
        again = await page.hear("started")
        assert (again["position"], again["request"]) == (1, "again")
        await page.hear("failed", answer=again["answer"])
    columns = (await Comparison.objects.aget()).columns.select_related("generation")
    kept = [str(column.generation_id) async for column in columns]
    assert kept == [answers[0], again["answer"]]


async def test_a_running_column_is_not_asked_again(site_wire, anna, topic):
    async with anna.page() as page:
        compared, _ = await compare(page, "topic", "base", inputs=BRIDGE)
        await page.say(type="retry", request="again", comparison=compared["comparison"], position=0)
        refused = await page.hear("refused")
    assert (refused["code"], refused["position"]) == ("too_many_running", 0)


async def test_another_visitors_comparison_is_not_found(site_wire, anna, ben, topic):
    async with anna.page() as page:
        compared, _ = await compare(page, "topic", "base", inputs=BRIDGE)
    async with ben.page() as page:
        await page.say(type="retry", request="mine", comparison=compared["comparison"], position=0)
        assert (await page.hear())["code"] == "not_found"
    assert (await ben.get(compared["url"])).status_code == 404
    assert (await anna.get(compared["url"])).status_code == 200


async def test_its_address_brings_a_comparison_back(site_wire, answering, anna, topic):
    answering()
    async with anna.page() as page:
        compared, answers = await compare(page, "topic", "base", inputs=BRIDGE)
        for _ in answers:
            await page.hear("finished")
    html = (await anna.get(compared["url"])).content.decode()
    assert html.index(answers[0]) < html.index(answers[1])
    assert "A bridge in London.</textarea>" in html
    assert '<span class="expected-text">Building</span>' in html


async def test_an_unknown_column_starts_nothing(site_wire, anna, topic):
    async with anna.page() as page:
        refused, _ = await compare(page, "topic", "nobody", inputs=BRIDGE)
    assert (refused["type"], refused["code"]) == ("refused", "model_not_found")
    assert await Generation.objects.acount() == 0


async def test_a_prompt_without_the_leads_fields_is_refused_by_name(site_wire, anna, topic):
    async with anna.page() as page:
        refused, _ = await compare(page, "topic", "base", text="A bridge in London.")
    assert "title, text" in refused["error"]


async def test_streams_of_columns_do_not_mix(site_wire, answering, anna, topic, emotion):
    def twice(request: Generate) -> list[Any]:
        name = "emotion" if request.adapter and "tweet" in request.inputs else "topic"
        return [Delta(request.id, f"{name} "), Delta(request.id, "says"), Finished(request.id, "done")]

    async with anna.page() as page:
        _, answers = await compare(page, "topic", "emotion", inputs=BRIDGE)
        answering(twice)
        deltas: dict[str, list[dict[str, Any]]] = {answer: [] for answer in answers.values()}
        left = len(answers)
        while left:
            told = await page.hear("delta", "finished")
            left -= told["type"] == "finished"
            if told["type"] == "delta":
                deltas[told["answer"]].append(told)
    assert [text_of(deltas[answers[at]]) for at in (0, 1)] == ["topic says", "emotion says"]
