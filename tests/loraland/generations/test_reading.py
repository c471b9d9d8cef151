"""Following an answer: live, from any point, and after its stream has gone; never another visitor's."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from django.conf import settings as site_settings

from inference.wire.protocol import Delta, Event, Failed, Finished, Message, TokenWeights
from loraland import inference_client
from loraland.generations import reading
from loraland.generations.models import Generation
from loraland.generations.recorder import Recorder
from loraland.generations.start import start
from loraland.generations.stop import stop
from loraland.generations.visitor import Visitor
from tests.inference.wire.memory_wire import MemoryWire
from tests.loraland.scripted_worker import ScriptedWorker, echo

pytestmark = pytest.mark.django_db(transaction=True)

ANNA = Visitor(None, "anna", "session:anna")
BEN = Visitor(7, "ben", "user:7")


async def ask(text: str = "one two three") -> Generation:
    return await start(ANNA, Generation.Source.CHAT, None, messages=[Message("user", text)])


async def read(generation: Generation, after: str = reading.START) -> list[tuple[str, Event]]:
    """Every event that a reader gets who comes now, in a request of its own."""
    generation = await Generation.objects.aget(pk=generation.pk)
    async with aclosing(reading.events(generation, after)) as events:
        return [event async for event in events]


def text_of(events: list[tuple[str, Event]]) -> str:
    return "".join(event.text for _, event in events if isinstance(event, Delta))


async def test_a_reader_sees_the_answer_grow_and_end(site_wire, answering):
    generation = await ask()
    reader = asyncio.create_task(read(generation))
    answering()
    events = await reader
    assert text_of(events) == "one two three"
    assert isinstance(events[-1][1], Finished)


async def test_a_reader_who_comes_back_gets_the_rest_once(site_wire):
    generation = await ask()
    await ScriptedWorker(site_wire, site_settings.BASE_KEY, echo).step()
    whole = await read(generation)
    cursor = next(cursor for cursor, event in whole if isinstance(event, Delta))
    assert text_of(await read(generation, cursor)) == " two three"
    await Recorder("r").step(50)
    assert text_of(await read(generation, cursor)) == " two three"
    assert await read(generation, whole[-1][0]) == whole[-1:]


async def test_once_its_stream_has_gone_the_row_tells_the_answer(site_wire):
    generation = await ask()
    await ScriptedWorker(site_wire, site_settings.BASE_KEY, echo).step()
    before = await read(generation)
    await Recorder("r").step(50)
    await inference_client.redis().flushall()
    after = await read(generation)
    assert [cursor for cursor, _ in after] == [reading.START, reading.START]
    assert text_of(after) == "one two three"
    assert after[-1][1] == before[-1][1]


async def test_who_began_to_read_before_its_end_has_all_of_the_outcome_from_the_row(site_wire, monkeypatch):
    """A page that opened a blend's answer under way draws what weighed its tokens, as one that comes later does."""
    monkeypatch.setattr(reading, "SILENCE_SECONDS", 0)
    opened = await ask()
    weighed = [Delta(opened.wire_id, "one", weights=(TokenWeights("one", (0.25, 0.75)),))]
    await ScriptedWorker(
        site_wire, site_settings.BASE_KEY, lambda _: [*weighed, Finished(opened.wire_id, "done")]
    ).step()
    await Recorder("r").step(50)
    await inference_client.redis().flushall()
    async with aclosing(reading.events(opened)) as events:
        assert text_of([event async for event in events]) == "one"
    assert opened.weights == [["one", [0.25, 0.75]]]


async def test_a_kept_answer_is_read_without_redis(site_wire, settings, tmp_path):
    generation = await ask()
    await ScriptedWorker(site_wire, site_settings.BASE_KEY, echo).step()
    await Recorder("r").step(50)
    await inference_client.close()
    settings.REDIS_URL = f"unix://{tmp_path}/nothing.sock"
    assert text_of(await read(generation)) == "one two three"
    await inference_client.close()


async def test_a_reader_learns_of_an_end_that_never_was_on_the_wire(site_wire, monkeypatch):
    monkeypatch.setattr(reading, "SILENCE_SECONDS", 0.05)
    generation = await ask()
    reader = asyncio.create_task(read(generation))
    await asyncio.sleep(0.1)
    stored = await Generation.objects.aget(pk=generation.pk)
    await stored.afail(Failed(generation.wire_id, "lost", "Send it again."))
    assert await reader == [(reading.START, Failed(generation.wire_id, "lost", "Send it again."))]


async def test_a_stop_ends_the_answer_where_it_is(site_wire, answering):
    generation = await ask()
    worker = answering(lambda request: [Delta(request.id, "one")])
    async with aclosing(reading.events(generation)) as following:
        events = [await anext(following)]
        await stop(generation)
        events += [event async for event in following]
    assert text_of(events) == "one"
    assert events[-1][1].reason == "stopped"
    assert worker.stopped == [generation.wire_id]


async def test_the_place_in_the_queue_counts_those_before(site_wire):
    generations = [await ask() for _ in range(3)]
    assert [await reading.place(generation) for generation in generations] == [0, 1, 2]
    await ScriptedWorker(site_wire, site_settings.BASE_KEY, echo).step()
    assert await reading.place(generations[0]) is None


async def test_nobody_else_finds_the_answer(site_wire):
    generation = await ask()
    assert (await reading.generation_of(ANNA, generation.wire_id)).pk == generation.pk
    for stranger in (BEN, Visitor(None, "ben", "session:ben"), Visitor(None, "", "")):
        with pytest.raises(Generation.DoesNotExist):
            await reading.generation_of(stranger, generation.id)


@pytest.mark.parametrize("id", ["", "nonsense", "../../etc", "0" * 32])
async def test_an_id_of_nothing_is_nowhere(site_wire, id):
    with pytest.raises(Generation.DoesNotExist):
        await reading.generation_of(ANNA, id)


async def test_a_memory_wire_can_stand_in_for_redis():
    key = Visitor(None, "", "key:1")
    with inference_client.plugged(MemoryWire()) as wire:
        generation = await start(key, Generation.Source.API, None, prompt="a b")
        await ScriptedWorker(wire, site_settings.BASE_KEY, echo).step()
        assert text_of(await read(generation)) == "a b"
