"""The socket of a page: who may open it, what it may ask for, and how answers reach it."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as site_settings
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session

from inference.wire.protocol import Delta, Failed, Finished
from loraland.generations.models import Generation
from loraland.playground import consumers
from loraland.playground.models import Answer, Conversation
from tests.loraland.playground.page import Browser, Page, text_of
from tests.loraland.scripted_worker import ScriptedWorker, echo

LONG = "a" * 70_000

pytestmark = pytest.mark.django_db(transaction=True)


async def start(page: Page, text: str = "one two three", **more: Any) -> dict[str, Any]:
    await page.say(**{"type": "start", "request": "r1", "conversation": None, "adapter": "", "text": text, **more})
    return await page.hear("started", "refused")


def endless(request: Any) -> list[Any]:
    return [Delta(request.id, "one"), Delta(request.id, " two")]


async def test_an_answer_streams_and_ends_with_its_figures(site_wire, answering, anna):
    answering()
    async with anna.page() as page:
        started = await start(page)
        deltas, end = await page.hear_out(started["answer"])
    assert text_of(deltas) == end["text"] == "one two three"
    assert len(deltas) == 3
    assert (end["type"], end["reason"]) == ("finished", "done")
    assert "first token" in end["foot"]
    assert "<b>3</b> out" in end["foot"]


@pytest.mark.parametrize("text", ["a\0b", "half \ud83d"])
async def test_text_that_cannot_be_kept_is_refused_with_a_sentence(site_wire, anna, text):
    async with anna.page() as page:
        refused = await start(page, text)
        assert (refused["type"], refused["code"], refused["request"]) == ("refused", "bad_message", "r1")
        await page.say(type="compare", request="r2", columns=["base", "base"], text=text)
        assert (await page.hear("refused"))["error"].startswith("The text holds a NUL")
    assert not await Generation.objects.aexists()


async def test_the_turn_and_its_answer_are_kept(site_wire, answering, anna):
    answering()
    async with anna.page() as page:
        started = await start(page, "Tell me of trains")
        await page.hear_out(started["answer"])
    kept = await Conversation.objects.of(anna.visitor).aget()
    answer = await Answer.objects.select_related("generation", "turn").aget()
    assert (str(kept.id), kept.title) == (started["conversation"], "Tell me of trains")
    assert (answer.turn.text, answer.generation.text) == ("Tell me of trains", "Tell me of trains")


async def test_the_next_turn_carries_the_ones_before(site_wire, answering, anna):
    worker = answering()
    async with anna.page() as page:
        first = await start(page, "hello there")
        await page.hear_out(first["answer"])
        second = await start(page, "and again", conversation=first["conversation"])
        await page.hear_out(second["answer"])
    said = [(message.role, message.content) for message in worker.seen[-1].messages]
    assert said == [("user", "hello there"), ("assistant", "hello there"), ("user", "and again")]


async def test_an_adapter_gets_its_fields(site_wire, answering, anna, topic):
    worker = answering()
    inputs = {"title": "Tower Bridge", "text": "A bridge."}
    async with anna.page() as page:
        started = await start(page, "", adapter="topic", inputs=inputs)
        _, end = await page.hear_out(started["answer"])
    assert (worker.seen[0].inputs, worker.seen[0].adapter.digest) == (inputs, topic.digest)
    assert 'href="/adapters/topic/"' in end["foot"]
    assert topic.short_digest in end["foot"]


async def test_free_text_fills_a_template_of_one_field(site_wire, answering, anna, emotion):
    worker = answering()
    async with anna.page() as page:
        started = await start(page, "What a day!", adapter="emotion")
        await page.hear_out(started["answer"])
    assert worker.seen[0].inputs == {"tweet": "What a day!"}


async def test_a_stop_is_seen_while_the_answer_streams(site_wire, answering, anna):
    worker = answering(endless)
    async with anna.page() as page:
        started = await start(page)
        await page.hear("delta", text=" two")
        await page.say(type="stop", answer=started["answer"])
        _, end = await page.hear_out(started["answer"])
    assert (end["reason"], end["text"]) == ("stopped", "one two")
    assert "You stopped this answer" in end["foot"]
    assert worker.stopped == [uuid.UUID(started["answer"]).hex]


async def test_a_page_that_comes_back_goes_on_from_its_cursor(site_wire, answering, anna):
    async with anna.page() as page:
        started = await start(page)
    answering()
    async with anna.page() as page:
        await page.say(type="resume", answer=started["answer"], after="0-0")
        whole, _ = await page.hear_out(started["answer"])
    async with anna.page() as page:
        await page.say(type="resume", answer=started["answer"], after=whole[0]["cursor"])
        _, end = await page.hear_out(started["answer"])
    assert text_of(whole) == end["text"] == "one two three"


async def test_a_page_that_drops_in_mid_answer_misses_and_repeats_nothing(site_wire, answering, anna):
    answering(endless)
    async with anna.page() as page:
        started = await start(page)
        first = await page.hear("delta")
    async with anna.page() as page:
        await page.say(type="resume", answer=started["answer"], after=first["cursor"])
        second = await page.hear("delta")
        await page.say(type="stop", answer=started["answer"])
        rest, end = await page.hear_out(started["answer"])
    assert text_of([first, second, *rest]) == end["text"] == "one two"


async def test_two_tabs_see_the_same_answer(site_wire, answering, anna):
    async with anna.page() as one, anna.page() as other:
        started = await start(one)
        await other.say(type="resume", answer=started["answer"], after="0-0")
        answering()
        ends = await asyncio.gather(one.hear_out(started["answer"]), other.hear_out(started["answer"]))
    assert [text_of(deltas) for deltas, _ in ends] == ["one two three"] * 2


async def test_a_repeat_is_known_by_its_cursor(site_wire, answering, anna):
    answering()
    async with anna.page() as page:
        started = await start(page)
        once, end = await page.hear_out(started["answer"])
        page_again = {"type": "resume", "answer": started["answer"], "after": once[1]["cursor"]}
        await Generation.objects.aupdate(status="queued")
        await page.say(**page_again)
        rest, _ = await page.hear_out(started["answer"])
    assert [delta["cursor"] for delta in rest] == [delta["cursor"] for delta in once[2:]]
    assert text_of(once) == end["text"]


async def test_a_waiting_page_learns_its_place_and_that_no_worker_is_up(site_wire, anna):
    async with anna.page() as page:
        started = await start(page)
        place = await page.hear("place")
    assert (place["answer"], place["place"], place["workers"]) == (started["answer"], 0, "none")
    assert place["base"] == "", "where there is one base nobody asks which"


async def test_a_waiting_page_learns_that_the_worker_is_starting(site_wire, anna):
    await ScriptedWorker(site_wire, site_settings.BASE_KEY, echo).beat(ready=False)
    async with anna.page() as page:
        await start(page)
        assert (await page.hear("place"))["workers"] == "starting"


async def test_a_failed_answer_says_what_to_do_next(site_wire, answering, anna):
    sentence = "The prompt has 5000 tokens; at most 4096 fit. Shorten it."
    answering(lambda request: [Failed(request.id, "prompt_too_long", sentence)])
    async with anna.page() as page:
        started = await start(page)
        _, end = await page.hear_out(started["answer"])
    assert (end["type"], end["code"], end["error"]) == ("failed", "prompt_too_long", sentence)
    assert sentence in end["foot"]
    assert 'data-act="edit"' in end["foot"]


async def test_regenerating_keeps_the_earlier_answer(site_wire, answering, anna):
    worker = answering()
    async with anna.page() as page:
        first = await start(page, "hello")
        await page.hear_out(first["answer"])
        await page.say(type="regenerate", request="r2", answer=first["answer"], sampling={"temperature": 0})
        second = await page.hear("started")
        await page.hear_out(second["answer"])
    assert second["turn"] == first["turn"]
    assert await Answer.objects.filter(turn=first["turn"]).acount() == 2
    assert worker.seen[1].sampling.temperature > 0
    assert len(worker.seen[1].messages) == 1


async def test_hostile_output_comes_out_inert(site_wire, answering, anna):
    hostile = (
        "**x** <script>alert(1)</script> <img src=x onerror=alert(1)> ![i](https://e/i.png) [j](javascript:alert(1))"
    )
    answering(lambda request: [Delta(request.id, hostile), Finished(request.id, "done")])
    async with anna.page() as page:
        started = await start(page)
        _, end = await page.hear_out(started["answer"])
    assert "<strong>x</strong>" in end["html"]
    assert not any(f"<{tag}" in end["html"] for tag in ("script", "img"))
    assert 'href="javascript' not in end["html"]


# Refusals


async def test_a_foreign_origin_is_refused(site_wire, anna):
    async with anna.page(origin="https://evil.example") as page:
        assert not page.is_open


async def test_the_socket_of_a_newcomers_page_begins_a_session_and_keeps_what_is_asked(site_wire, transactional_db):
    newcomer = Browser()
    async with newcomer.page(query="new") as page:
        started = await start(page)
        newcomer.client.cookies.load(page.cookie)
    kept = newcomer.client.cookies[site_settings.SESSION_COOKIE_NAME]
    assert (kept["httponly"], kept["samesite"], kept["path"]) == (True, "Lax", "/")
    assert (await newcomer.get(f"/chat/{started['conversation']}/")).status_code == 200
    async with newcomer.page(query="new") as page:  # the page that was loaded before comes back
        assert page.cookie == ""
        await page.say(type="resume", answer=started["answer"], after="0-0")
        assert (await page.hear())["type"] != "refused"
    assert await Session.objects.acount() == 1


async def test_an_address_begins_only_so_many_sessions_an_hour(site_wire, transactional_db, settings):
    """Whoever takes no cookie would leave a row with every connection."""
    settings.ANONYMOUS_PER_HOUR = 1
    for _ in range(4):
        async with Browser().page(query="new", client="203.0.113.7") as page:
            assert page.cookie
    async with Browser().page(query="new", client="203.0.113.7") as page:
        assert await page.closed() == consumers.TOO_MANY
    async with Browser().page(query="new", client="203.0.113.8") as page:
        assert page.cookie
    assert await Session.objects.acount() == 5


async def test_a_newcomer_has_a_session_while_nobody_counts(transactional_db, settings, tmp_path):
    settings.REDIS_URL = f"unix://{tmp_path}/none.sock"
    async with Browser().page(query="new", client="203.0.113.7") as page:
        assert page.cookie


async def test_a_socket_without_a_session_is_closed(site_wire, transactional_db):
    async with Browser().page() as page:
        assert await page.closed() == consumers.SIGNED_OUT


@pytest.mark.parametrize("message", [{"type": "stop"}, {"type": "resume", "after": "0-0"}])
async def test_another_visitors_answer_is_not_found(site_wire, anna, ben, message):
    async with anna.page() as page:
        started = await start(page)
    async with ben.page() as page:
        await page.say(**message, answer=started["answer"])
        refused = await page.hear()
    assert (refused["type"], refused["code"], refused["answer"]) == ("refused", "not_found", started["answer"])
    assert not (await site_wire.history(uuid.UUID(started["answer"]).hex))


async def test_another_visitors_turn_cannot_be_regenerated(site_wire, answering, anna, ben):
    answering()
    async with anna.page() as page:
        started = await start(page)
        await page.hear_out(started["answer"])
    async with ben.page() as page:
        await page.say(type="regenerate", request="r", answer=started["answer"])
        assert (await page.hear())["code"] == "not_found"


async def test_another_visitors_conversation_cannot_be_continued(site_wire, anna, ben):
    async with anna.page() as page:
        started = await start(page)
    async with ben.page() as page:
        refused = await start(page, conversation=started["conversation"])
    assert refused["code"] == "not_found"
    assert await Generation.objects.of(ben.visitor).acount() == 0


async def test_an_unknown_adapter_is_refused_with_a_way_on(site_wire, anna):
    async with anna.page() as page:
        refused = await start(page, adapter="nobody")
    assert (refused["code"], refused["act"]) == ("model_not_found", "choose")


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        ("{", "not JSON"),
        ("[]", "JSON object"),
        ('{"type": "drop"}', "Unknown type"),
        ('{"type": "stop", "answer": "7"}', "not the id"),
        ('{"type": "stop", "answer": "7", "force": true}', "no force"),
        ('{"type": "start", "request": "r", "text": "  "}', "Write something"),
        ('{"type": "start", "request": "r", "text": "a", "inputs": {"b": "c"}}', "not both"),
        ('{"type": "start", "request": "r", "text": "a", "sampling": {"temperature": 9}}', "Temperature is a number"),
        ('{"type": "start", "request": "r", "text": "a", "sampling": {"top_k": 1.5}}', "whole number"),
        *[
            (f'{{"type": "resume", "answer": "{uuid.UUID(int=7)}", "after": "{after}"}}', "after is a cursor")
            for after in ("soon", "5", "99999999999999999999-0", "1-99999999999999999999", "٣-0", "0" * 60)
        ],
        (
            '{"type": "start", "request": "r", "text": "a", "sampling": {"seed": "' + "0" * 20 + "9" * 40 + '"}}',
            "Seed is",
        ),
        ('{"type": "compare", "request": "r", "columns": ["base"], "text": "a"}', "2 to 4 columns"),
        (f'{{"type": "start", "request": "r", "text": "{LONG}"}}', "at most 65536 bytes"),
    ],
)
async def test_a_message_out_of_shape_is_refused_with_a_sentence(site_wire, anna, sent, sentence):
    async with anna.page() as page:
        await page.say_text(sent)
        refused = await page.hear()
    assert (refused["type"], refused["code"]) == ("refused", "bad_message")
    assert sentence in refused["error"]


async def test_a_visitor_has_so_many_answers_at_once(site_wire, anna, settings):
    settings.MAX_RUNNING_PER_VISITOR = 1
    async with anna.page() as page:
        await start(page)
        refused = await start(page)
    assert (refused["code"], refused["act"]) == ("too_many_running", "retry")
    assert refused["retry_after"]


async def test_signing_out_closes_the_socket(site_wire, transactional_db, monkeypatch):
    monkeypatch.setattr(consumers, "SESSION_SECONDS", 0.05)
    user = await sync_to_async(User.objects.create_user)("ada", password="correct-horse-9")
    ada = await Browser(user).visit()
    async with ada.page() as page:
        await sync_to_async(ada.client.logout)()
        assert await page.closed() == consumers.SIGNED_OUT


async def test_after_signing_out_nothing_more_is_taken(site_wire, transactional_db):
    user = await sync_to_async(User.objects.create_user)("ada", password="correct-horse-9")
    ada = await Browser(user).visit()
    async with ada.page() as page:
        await sync_to_async(ada.client.logout)()
        await page.say(type="start", request="r", text="still there?", adapter="")
        assert await page.closed() == consumers.SIGNED_OUT
    assert await Generation.objects.acount() == 0


async def test_a_page_that_asks_whether_anybody_is_there_is_answered(site_wire, anna):
    async with anna.page() as page:
        await page.say(type="ping")
        assert await page.hear("pong") == {"type": "pong"}
