"""Accepting requests: what becomes a row and a place in the queue, and what is refused with which sentence."""

from __future__ import annotations

import asyncio

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as site_settings
from django.contrib.auth.models import User

from inference.wire.capacity import Capacity
from inference.wire.protocol import AdapterRef, Generate, Message, Sampling
from loraland.generations.limits import check_size
from loraland.generations.models import Generation
from loraland.generations.start import Refused, start
from loraland.generations.visitor import Visitor

pytestmark = pytest.mark.django_db(transaction=True)

ANNA = Visitor(None, "anna", "session:anna", "192.0.2.1")
HELLO = [Message("user", "hello")]
FIELDS = [{"name": "text", "label": "Text", "rows": 2}, {"name": "lang", "label": "Language", "rows": 1}]
CHAT = Generation.Source.CHAT


async def claimed(wire) -> list[Generate]:
    claims = await wire.claim(site_settings.BASE_KEY, "w", "f", Capacity(10), 10)
    return [claim.request for claim in claims]


async def test_an_accepted_request_is_a_row_and_waits_on_the_wire(site_wire):
    generation = await start(ANNA, CHAT, None, messages=HELLO, sampling=Sampling(seed=5))
    stored = await Generation.objects.aget(pk=generation.pk)
    (request,) = await claimed(site_wire)
    assert (request.id, request.messages, request.owner) == (
        stored.wire_id,
        (Message("user", "hello"),),
        "session:anna",
    )
    assert stored.status == "queued"
    assert stored.request["sampling"]["seed"] == 5
    assert (stored.session_key, stored.base) == ("anna", site_settings.BASE_NAME)


async def test_the_request_names_the_adapter_by_digest_and_carries_its_template(site_wire, publish):
    version = await sync_to_async(publish)(template="{text} in {lang}", fields=FIELDS)
    await start(ANNA, CHAT, version, inputs={"text": "x", "lang": "de"})
    (request,) = await claimed(site_wire)
    assert request.adapter == AdapterRef("a" * 64, "{text} in {lang}", ("text", "lang"))
    assert request.inputs == {"text": "x", "lang": "de"}


async def test_a_wish_for_more_tokens_than_the_site_gives_is_cut(site_wire, settings):
    settings.MAX_NEW_TOKENS = 10
    await start(ANNA, CHAT, None, messages=HELLO, sampling=Sampling(max_tokens=500, min_tokens=20))
    (request,) = await claimed(site_wire)
    assert (request.sampling.max_tokens, request.sampling.min_tokens) == (10, 10)


@pytest.mark.parametrize(
    ("asked", "code", "status"),
    [
        ({}, "invalid_request", 400),
        ({"messages": HELLO, "prompt": "x"}, "invalid_request", 400),
        ({"prompt": "  "}, "invalid_request", 400),
        ({"prompt": "x" * 101}, "input_too_long", 413),
        ({"inputs": {"text": "x"}}, "invalid_request", 400),
        ({"prompt": "a\0b"}, "invalid_request", 400),
        ({"messages": [Message("user", "\ud83d")]}, "invalid_request", 400),
        ({"prompt": "x", "sampling": Sampling(stop=("\0",))}, "invalid_request", 400),
    ],
)
async def test_a_request_without_sense_is_refused_and_leaves_no_row(site_wire, settings, asked, code, status):
    settings.MAX_INPUT_CHARS = 100
    with pytest.raises(Refused) as refused:
        await start(ANNA, CHAT, None, **asked)
    assert (refused.value.code, refused.value.status) == (code, status)
    assert not await Generation.objects.aexists()


@pytest.mark.parametrize("inputs", [{"text": "x"}, {"text": "x", "lang": "de", "tone": "kind"}])
async def test_inputs_must_fill_the_template_field_by_field(site_wire, publish, inputs):
    version = await sync_to_async(publish)(template="{text} in {lang}", fields=FIELDS)
    with pytest.raises(Refused, match="text, lang"):
        await start(ANNA, CHAT, version, inputs=inputs)


async def test_messages_cannot_fill_a_template_of_several_fields(site_wire, publish):
    version = await sync_to_async(publish)(template="{text} in {lang}", fields=FIELDS)
    with pytest.raises(Refused, match="give them as inputs"):
        await start(ANNA, CHAT, version, messages=HELLO)


@pytest.mark.parametrize("fields", [{"status": "rejected"}, {"status": "retired"}, {"base": "Mistral-7B-v0.1"}])
async def test_a_version_that_does_not_answer_is_refused(site_wire, publish, fields):
    version = await sync_to_async(publish)(**fields)
    with pytest.raises(Refused) as refused:
        await start(ANNA, CHAT, version, messages=HELLO)
    assert refused.value.code == "adapter_not_served"


async def test_a_replaced_version_still_answers_to_its_digest(site_wire, publish):
    old = await sync_to_async(publish)(digest="a", status="retired")
    await sync_to_async(publish)(digest="b")
    old = await type(old).objects.select_related("adapter").aget(pk=old.pk)
    await start(ANNA, CHAT, old, messages=HELLO)
    (request,) = await claimed(site_wire)
    assert request.adapter.digest == "a" * 64


async def test_a_stranger_without_a_session_may_not_ask(site_wire):
    with pytest.raises(Refused, match="cookies"):
        await start(Visitor(None, "", ""), CHAT, None, messages=HELLO)


async def test_a_visitor_has_only_so_many_answers_at_once(site_wire, settings):
    settings.MAX_RUNNING_PER_VISITOR = 2
    await start(ANNA, CHAT, None, messages=HELLO)
    second = await start(ANNA, CHAT, None, messages=HELLO)
    with pytest.raises(Refused) as refused:
        await start(ANNA, CHAT, None, messages=HELLO)
    assert (refused.value.code, refused.value.status) == ("too_many_running", 429)
    await start(Visitor(None, "ben", "session:ben"), CHAT, None, messages=HELLO)
    await Generation.objects.filter(pk=second.pk).aupdate(status="done")
    await start(ANNA, CHAT, None, messages=HELLO)


async def test_an_address_has_only_so_many_answers_at_once(site_wire, settings):
    settings.MAX_RUNNING_PER_ADDRESS = 2
    for name in ("a", "b"):
        first = await start(Visitor(None, name, f"session:{name}", "192.0.2.7"), CHAT, None, messages=HELLO)
    third = Visitor(None, "c", "session:c", "192.0.2.7")
    with pytest.raises(Refused, match="wait for one to end, or sign in") as refused:
        await start(third, CHAT, None, messages=HELLO)
    assert (refused.value.code, refused.value.status) == ("too_many_running", 429)
    await start(Visitor(None, "d", "session:d", "192.0.2.8"), CHAT, None, messages=HELLO)
    await Generation.objects.filter(pk=first.pk).aupdate(status="done")
    await start(third, CHAT, None, messages=HELLO)


async def test_strangers_at_an_address_take_nothing_from_its_users_and_its_programs(site_wire, settings):
    settings.MAX_RUNNING_PER_ADDRESS = 1
    users = [await sync_to_async(User.objects.create_user)(name) for name in ("ada", "bob")]
    ada, bob = (Visitor(user.pk, "s", f"user:{user.pk}", "192.0.2.7") for user in users)
    for visitor in (Visitor(None, "a", "session:a", "192.0.2.7"), ada, Visitor(None, "", "key:1", "192.0.2.7")):
        await start(visitor, CHAT, None, messages=HELLO)
    await start(Visitor(None, "", "key:1", "192.0.2.7"), Generation.Source.API, None, prompt="x")
    with pytest.raises(Refused, match=r"for your network address, the most at once; wait for one to end\.$"):
        await start(bob, CHAT, None, messages=HELLO)


async def test_all_sessions_of_an_address_take_turns_as_a_few(site_wire):
    for number in range(12):
        await start(Visitor(None, f"s{number}", f"session:s{number}", "192.0.2.7"), CHAT, None, messages=HELLO)
    await start(Visitor(None, "s0", "session:s0", "192.0.2.8"), CHAT, None, messages=HELLO)
    *sybils, other = [generation async for generation in Generation.objects.order_by("created")]
    assert len({sybil.request["tenant"] for sybil in sybils}) <= 4
    assert len({sybil.request["owner"] for sybil in sybils}) == 12
    assert other.request["tenant"] not in {sybil.request["tenant"] for sybil in sybils}
    assert not any("192.0.2" in str(generation.request) + generation.address for generation in [*sybils, other])
    places = [await site_wire.place(generation.wire_id) for generation in [*sybils, other]]
    assert places[-1] <= 4, "whoever is alone at an address waits for a few of the others, not for all"


async def test_one_key_leaves_places_in_the_queue_for_everybody_else(site_wire, settings):
    settings.QUEUE_LIMIT = 4
    key = Visitor(None, "", "key:1")
    for _ in range(2):
        await start(key, Generation.Source.API, None, prompt="x")
    with pytest.raises(Refused, match="2 of your answers are waiting, your share of the queue") as refused:
        await start(key, Generation.Source.API, None, prompt="x")
    assert (refused.value.code, refused.value.status, refused.value.retry_after) == ("queue_full", 429, 10)
    assert (await Generation.objects.aget(status="error")).error == refused.value.sentence
    await start(ANNA, CHAT, None, messages=HELLO)


async def test_the_hourly_quota_counts_sessions_and_addresses_but_not_users(site_wire, settings):
    settings.ANONYMOUS_PER_HOUR = 1
    for name in ("a", "b", "c", "d"):
        await start(Visitor(None, name, f"session:{name}", "192.0.2.7"), CHAT, None, messages=HELLO)
    for visitor in (Visitor(None, "a", "session:a", "192.0.2.8"), Visitor(None, "e", "session:e", "192.0.2.7")):
        with pytest.raises(Refused) as refused:
            await start(visitor, CHAT, None, messages=HELLO)
        assert refused.value.status == 429
        assert 0 < refused.value.retry_after <= 3600
    await start(Visitor(None, "", "key:1", "192.0.2.7"), CHAT, None, messages=HELLO)


async def test_the_quota_holds_when_many_ask_at_once(site_wire, settings):
    settings.ANONYMOUS_PER_HOUR = 3
    asked = [start(ANNA, CHAT, None, messages=HELLO) for _ in range(8)]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(outcome, Generation) for outcome in outcomes) == 3
    assert {outcome.code for outcome in outcomes if isinstance(outcome, Refused)} == {"quota"}


async def test_a_full_queue_refuses_and_the_row_tells_why(site_wire, settings):
    settings.QUEUE_LIMIT = 1
    await start(ANNA, CHAT, None, messages=HELLO)
    with pytest.raises(Refused) as refused:
        await start(ANNA, CHAT, None, messages=HELLO)
    assert (refused.value.status, refused.value.retry_after) == (503, 10)
    row = await Generation.objects.aget(status="error")
    assert row.error_code == "queue_full"


async def test_a_redis_that_is_away_refuses_and_leaves_no_answer_waiting(settings, tmp_path):
    settings.REDIS_URL = f"unix://{tmp_path}/nothing.sock"
    for visitor in (ANNA, Visitor(None, "", "key:1")):
        with pytest.raises(Refused) as refused:
            await start(visitor, CHAT, None, messages=HELLO)
        assert refused.value.status == 503
    assert not await Generation.objects.unfinished().aexists()


def chat(*texts: str) -> tuple[Message, ...]:
    return tuple(Message("user" if at % 2 == 0 else "assistant", text) for at, text in enumerate(texts))


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (("x" * 101,), "The text has 101 characters; at most 100 are allowed. Shorten it."),
        (("x", "y", "x" * 101), "Your message has 101 characters; at most 100 are allowed. Shorten it."),
        (
            ("x" * 30, "y" * 31, "x" * 90),
            "Your message has 90 characters and the earlier ones of this chat 61; "
            "together at most 100 are read. Shorten it, or start a new chat.",
        ),
    ],
)
def test_what_is_too_long_is_told_with_what_was_counted(settings, texts, told):
    settings.MAX_INPUT_CHARS = 100
    with pytest.raises(Refused) as refused:
        check_size(chat(*texts), None, None)
    assert refused.value.sentence == told


def test_fields_that_are_too_long_together_are_no_chat(settings):
    settings.MAX_INPUT_CHARS = 100
    with pytest.raises(Refused, match=r"^The text has 101 characters; at most 100 are allowed\. Shorten it\.$"):
        check_size(None, None, {"title": "x" * 71, "text": "y" * 30})
