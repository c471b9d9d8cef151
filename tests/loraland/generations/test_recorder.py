"""Keeping answers: every end on the wire becomes one outcome in the database, whatever breaks in between."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as site_settings
from django.db import OperationalError
from django.utils import timezone

from inference.wire.capacity import Capacity
from inference.wire.protocol import Delta, Failed, Finished, Generate, Message, Probe, Stats, TokenWeights
from loraland import inference_client
from loraland.catalogue.models import AdapterVersion
from loraland.generations import metrics, reconciler, recorder
from loraland.generations.models import Generation
from loraland.generations.recorder import Recorder
from loraland.generations.start import start
from loraland.generations.stop import stop
from loraland.generations.visitor import Visitor
from tests.loraland.scripted_worker import ScriptedWorker, echo

pytestmark = pytest.mark.django_db(transaction=True)

ANNA = Visitor(None, "anna", "session:anna")


async def ask(text: str = "one two three") -> Generation:
    return await start(ANNA, Generation.Source.CHAT, None, messages=[Message("user", text)])


async def answered(wire, script=echo) -> None:
    await ScriptedWorker(wire, site_settings.BASE_KEY, script).step()


async def test_a_finished_answer_is_kept_with_its_stats_and_its_stream_starts_to_expire(site_wire):
    generation = await ask()
    await answered(site_wire)
    assert await inference_client.redis().ttl(f"generation:{generation.wire_id}") == -1
    assert await Recorder("r").step(50)
    await generation.arefresh_from_db()
    assert (generation.status, generation.text) == ("done", "one two three")
    assert generation.stats["completion_tokens"] == 3
    assert generation.finished is not None
    assert (
        0 < await inference_client.redis().ttl(f"generation:{generation.wire_id}") <= site_settings.STREAM_TTL_SECONDS
    )


async def test_what_weighed_each_token_of_a_blend_is_kept_and_of_others_there_is_nothing(site_wire):
    plain, blend = await ask(), await ask()

    def weighed(request: Any) -> list[Any]:
        if request.id == plain.wire_id:
            return echo(request)
        pieces = [TokenWeights("one", (0.25, 0.75)), TokenWeights("\0 two", (1.0, 0.0))]
        return [Delta(request.id, piece.token, weights=(piece,)) for piece in pieces] + [Finished(request.id, "done")]

    await answered(site_wire, weighed)
    await Recorder("r").step(50)
    for generation in (plain, blend):
        await generation.arefresh_from_db()
    assert (plain.weights, blend.weights) == ([], [["one", [0.25, 0.75]], [" two", [1.0, 0.0]]])


async def test_an_answer_that_failed_keeps_what_it_said_and_the_sentence(site_wire):
    generation = await ask()
    failed = Failed(generation.wire_id, "out_of_memory", "Send a shorter prompt.")
    await answered(site_wire, lambda request: [Delta(request.id, "one "), failed])
    await Recorder("r").step(50)
    await generation.arefresh_from_db()
    assert (generation.status, generation.text) == ("error", "one ")
    assert (generation.error_code, generation.error) == ("out_of_memory", "Send a shorter prompt.")
    assert generation.terminal() == failed


async def test_an_answer_stopped_while_it_waits_is_kept_as_stopped(site_wire):
    generation = await ask()
    await stop(generation)
    await Recorder("r").step(50)
    await generation.arefresh_from_db()
    assert (generation.status, generation.text) == ("stopped", "")


async def test_an_entry_seen_twice_is_written_and_counted_once(site_wire):
    generation = await ask()
    await answered(site_wire)
    terminal = (await site_wire.history(generation.wire_id))[-1][1]
    assert await recorder.record(terminal) == 1
    assert await recorder.record(Failed(generation.wire_id, "internal", "late")) == 0
    await generation.arefresh_from_db()
    assert generation.status == "done"
    answers = [count for count in await metrics.counts() if count.name == "answers"]
    assert [(count.adapter, count.label, count.value) for count in answers] == [("base", "chat:done", 1.0)]


async def test_nothing_is_lost_while_the_database_is_down(site_wire, monkeypatch):
    first = await ask()
    await answered(site_wire)
    keeper = Recorder("r")
    with monkeypatch.context() as down:
        down.setattr(Generation, "record", lambda *_: (_ for _ in ()).throw(OperationalError("the disk has gone")))
        assert not await keeper.step(50)
        second = await ask("four")
        await answered(site_wire)
        assert not await keeper.step(50)
    assert await keeper.step(50)
    rows = [row async for row in Generation.objects.order_by("created")]
    assert [(row.id, row.text) for row in rows] == [(first.id, "one two three"), (second.id, "four")]


async def test_what_ended_meanwhile_is_written_together_probes_and_strangers_answers_among_it(site_wire, publish):
    version = await sync_to_async(publish)(status="validating", probe_id="p" * 32)
    await site_wire.submit(Probe("p" * 32, version.ref), site_settings.BASE_KEY, "evaluation", 10)
    await site_wire.submit(Generate("not-ours", prompt="x"), site_settings.BASE_KEY, "chat", 10)
    generations = [await ask(f"{number}") for number in range(5)]
    proven = Stats(logit_delta=0.5)
    for _ in range(7):
        await answered(site_wire, lambda asked: [Delta(asked.id, "x"), Finished(asked.id, "done", proven)])
    assert await Recorder("r").step(50)
    assert [row.text async for row in Generation.objects.all()] == ["x"] * len(generations)
    await version.arefresh_from_db()
    assert version.status == "published"
    answers = [count for count in await metrics.counts() if count.name == "answers"]
    assert [(count.label, count.value) for count in answers] == [("chat:done", 5.0)]
    assert await site_wire.finished("another", 10, 1) == []


async def test_one_that_cannot_be_written_does_not_hold_up_those_that_ended_with_it(site_wire, monkeypatch):
    _, faulty, _ = [await ask(text) for text in ("one", "two", "three")]
    for _ in range(3):
        await answered(site_wire)
    keeper, write = Recorder("r"), Generation.record

    def record(generation: Generation, *ended) -> bool:
        if generation.id == faulty.id:
            raise OperationalError("this row cannot be written")
        return write(generation, *ended)

    with monkeypatch.context() as faulted:
        faulted.setattr(Generation, "record", record)
        assert not await keeper.step(50)
    assert {row.id async for row in Generation.objects.unfinished()} == {faulty.id}
    assert await keeper.step(50)
    assert [row.text async for row in Generation.objects.order_by("created")] == ["one", "two", "three"]
    counted = {count.label: count.value for count in await metrics.counts() if count.name == "answers"}
    assert counted == {"chat:done": 3.0}


async def test_what_a_recorder_read_and_did_not_write_is_written_by_its_next_life(site_wire):
    generation = await ask()
    await answered(site_wire)
    assert await site_wire.finished("r", 10, 50)
    await inference_client.close()
    assert await Recorder("r").step(50)
    await generation.arefresh_from_db()
    assert generation.status == "done"


async def test_an_answer_that_nobody_here_asked_for_does_not_hold_up_the_others(site_wire):
    await site_wire.submit(Generate("not-ours", prompt="x"), site_settings.BASE_KEY, "chat", 10)
    generation = await ask()
    await answered(site_wire)
    assert await Recorder("r").step(50)
    await generation.arefresh_from_db()
    assert generation.status == "done"


async def test_the_verdict_of_a_probe_goes_to_its_version(site_wire, publish):
    version = await sync_to_async(publish)(status="validating", probe_id="p" * 32)
    await site_wire.submit(Probe("p" * 32, version.ref), site_settings.BASE_KEY, "evaluation", 10)
    await answered(site_wire, lambda request: [Finished(request.id, "done", Stats(logit_delta=0.5))])
    assert await Recorder("r").step(50)
    await version.arefresh_from_db()
    assert (version.status, version.logit_delta) == ("published", 0.5)


async def test_a_proof_that_says_nothing_of_the_adapter_is_asked_for_again(site_wire, publish):
    version = await sync_to_async(publish)(status="validating", probe_id="p" * 32)
    await site_wire.submit(Probe("p" * 32, version.ref), site_settings.BASE_KEY, "evaluation", 10)
    await answered(site_wire, lambda request: [Failed(request.id, "lost", "Nobody knows.")])
    keeper = Recorder("r")
    assert await keeper.step(50)
    await reconciler.reconcile()
    assert await site_wire.claim(site_settings.BASE_KEY, "w", "f", Capacity(10), 10) == [], "not at once"
    await AdapterVersion.objects.filter(pk=version.pk).aupdate(proof_due=timezone.now())
    await reconciler.reconcile()
    await answered(site_wire, lambda request: [Finished(request.id, "done", Stats(logit_delta=0.5))])
    assert await keeper.step(50)
    await version.arefresh_from_db()
    assert version.status == "published"
