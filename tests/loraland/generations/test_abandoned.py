"""Answers that nobody reads: whose end, after how long, and what counts as a reader."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as site_settings
from django.contrib.auth.models import User
from django.template.loader import render_to_string

from inference.wire.protocol import Delta, Finished, Message
from loraland.generations import abandoned, readers, reading
from loraland.generations.abandoned import Abandoned, end_unread
from loraland.generations.models import Generation
from loraland.generations.recorder import Recorder
from loraland.generations.start import start
from loraland.generations.visitor import Visitor
from loraland.playground.accounts import adopt
from loraland.playground.answers import view_of
from tests.loraland.scripted_worker import ScriptedWorker, echo
from tests.patience import PATIENCE

pytestmark = pytest.mark.django_db(transaction=True)

ANNA = Visitor(None, "anna", "session:anna", "192.0.2.1")
USER = Visitor(None, "ben", "user:7")
KEY = Visitor(None, "", "key:1")
GRACE = 1.0


@pytest.fixture(autouse=True)
def short_grace(settings) -> None:
    settings.UNREAD_SECONDS = GRACE


async def ask(visitor: Visitor = ANNA, source: str = "chat") -> Generation:
    return await start(visitor, Generation.Source(source), None, messages=[Message("user", "one two three")])


async def outcome(generation: Generation) -> tuple[str, str]:
    await Recorder("r").step(50)
    stored = await Generation.objects.aget(pk=generation.pk)
    return stored.status, stored.error_code


def endless(request) -> list[Delta]:
    return [Delta(request.id, "one")]


async def until_stopped(worker: ScriptedWorker) -> None:
    async with asyncio.timeout(PATIENCE):
        while not worker.stopped:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_waiting_answer_that_nobody_reads_is_stopped_and_says_so(site_wire):
    generation = await ask()
    await end_unread()
    assert await outcome(generation) == ("queued", ""), "there is time for a page to come back"
    await asyncio.sleep(GRACE)
    await end_unread()
    assert await outcome(generation) == ("stopped", abandoned.CODE)
    stored = await Generation.objects.aget(pk=generation.pk)
    foot = render_to_string("playground/_foot.html", {"answer": view_of(stored)})
    assert "Nobody was reading this answer" in foot
    assert "You stopped" not in foot
    assert await readers.unread() == []


async def test_a_running_answer_that_nobody_reads_is_stopped_with_what_there_is(site_wire, answering):
    worker = answering(endless)
    generation = await ask()
    await asyncio.sleep(GRACE)
    await end_unread()
    await until_stopped(worker)
    assert await outcome(generation) == ("stopped", abandoned.CODE)
    assert (await Generation.objects.aget(pk=generation.pk)).text == "one"


async def test_an_answer_that_is_read_goes_on(site_wire, answering):
    answering(endless)
    generation = await ask()
    async with aclosing(reading.events(generation)) as events:
        await anext(events)
        for _ in range(3):
            await asyncio.sleep(GRACE / 2)
            await end_unread()
        assert await outcome(generation) == ("queued", "")


async def test_a_reader_who_comes_back_in_time_keeps_the_answer(site_wire, answering):
    answering(endless)
    generation = await ask()
    for _ in range(3):
        await asyncio.sleep(GRACE / 2)
        again = await Generation.objects.aget(pk=generation.pk)
        await Generation.objects.filter(pk=generation.pk).aupdate(created="2026-01-01T00:00:00Z")
        async with aclosing(reading.events(again)) as events:
            await anext(events)
    await end_unread()
    assert await outcome(generation) == ("queued", "")


async def test_who_begins_to_read_as_the_last_one_leaves_is_shown():
    own = readers.Readers()
    async with own.reading("a", is_new=True):
        pass
    async with own.reading("b", is_new=True):
        await asyncio.sleep(0.01)
        assert not own._showing.done()


async def test_a_reader_whose_process_has_gone_is_none(site_wire, monkeypatch):
    """What a killed process does: it shows itself no more."""
    generation = await ask()
    async with aclosing(reading.events(generation)) as events:
        following = asyncio.create_task(anext(events))
        await asyncio.sleep(0.05)
        readers.readers()._showing.cancel()
        await asyncio.sleep(GRACE + 0.1)
        await end_unread()
        await following
    assert await outcome(generation) == ("stopped", abandoned.CODE)


@pytest.mark.parametrize(
    ("visitor", "source", "status"),
    [(KEY, "api", "stopped"), (USER, "chat", "queued"), (Visitor(None, "", "evaluation"), "evaluation", "queued")],
)
async def test_programs_are_treated_as_strangers_and_others_may_close_the_page(site_wire, visitor, source, status):
    generation = await ask(visitor, source)
    await asyncio.sleep(GRACE)
    await end_unread()
    assert (await outcome(generation))[0] == status


async def test_an_answer_is_kept_for_a_visitor_who_signs_in_meanwhile(site_wire):
    generation = await ask()
    user = await sync_to_async(User.objects.create_user)("anna")
    await sync_to_async(adopt)(ANNA.session_key, user)
    await asyncio.sleep(GRACE)
    await end_unread()
    assert await outcome(generation) == ("queued", "")


async def test_an_answer_that_has_ended_stays_as_it_is(site_wire):
    generation = await ask()
    await ScriptedWorker(site_wire, site_settings.BASE_KEY, echo).step()
    await asyncio.sleep(GRACE)
    await Recorder("r").step(50)
    await end_unread()
    stored = await Generation.objects.aget(pk=generation.pk)
    assert (stored.status, stored.error) == ("done", "")
    assert isinstance(stored.terminal(), Finished)


async def test_nothing_is_ended_before_readers_had_time_to_show_themselves(site_wire):
    generation = await ask()
    await asyncio.sleep(GRACE)
    patient = Abandoned()
    await patient.end()
    assert await outcome(generation) == ("queued", "")
    await asyncio.sleep(GRACE)
    patient.be_patient()
    await patient.end()
    assert await outcome(generation) == ("queued", "")
    await asyncio.sleep(GRACE)
    await patient.end()
    assert (await outcome(generation))[0] == "stopped"
