"""Database and wire agree again: lost rows end, missed ends are recorded, lost probes are sent again."""

from __future__ import annotations

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as site_settings

from inference.wire.capacity import Capacity
from inference.wire.protocol import Message, Probe
from loraland import inference_client
from loraland.generations import reconciler
from loraland.generations.models import Generation
from loraland.generations.recorder import Recorder
from loraland.generations.start import start
from loraland.generations.visitor import Visitor
from tests.loraland.scripted_worker import ScriptedWorker

pytestmark = pytest.mark.django_db(transaction=True)

ANNA = Visitor(None, "anna", "session:anna")


async def ask() -> Generation:
    return await start(ANNA, Generation.Source.CHAT, None, messages=[Message("user", "hello")])


async def test_a_row_that_the_wire_has_lost_ends_with_a_sentence(site_wire):
    generation = await ask()
    await inference_client.redis().flushall()
    await reconciler.reconcile(patience_seconds=0)
    await generation.arefresh_from_db()
    assert (generation.status, generation.error_code, generation.error) == ("error", "lost", reconciler.LOST)


async def test_a_young_row_is_given_time_to_reach_the_wire(site_wire):
    generation = await ask()
    await inference_client.redis().flushall()
    await reconciler.reconcile(patience_seconds=60)
    await generation.arefresh_from_db()
    assert generation.status == "queued"


async def test_a_row_that_waits_or_is_being_answered_is_left_alone(site_wire):
    generation = await ask()
    await reconciler.reconcile(patience_seconds=0)
    await site_wire.claim(site_settings.BASE_KEY, "w", "f", Capacity(1), 10)
    await reconciler.reconcile(patience_seconds=0)
    await generation.arefresh_from_db()
    assert generation.status == "queued"
    assert await site_wire.history(generation.wire_id) == []


async def test_an_end_that_never_reached_the_database_is_recorded(site_wire):
    generation = await ask()
    await ScriptedWorker(site_wire, site_settings.BASE_KEY).step()
    await inference_client.redis().delete("generation:finished")
    assert await Recorder("r").step(50)
    await reconciler.reconcile(patience_seconds=0)
    await generation.arefresh_from_db()
    assert (generation.status, generation.text) == ("done", "hello")
    assert await inference_client.redis().ttl(f"generation:{generation.wire_id}") > 0


async def test_a_probe_that_vanished_is_sent_again_and_one_that_waits_is_not(site_wire, publish):
    version = await sync_to_async(publish)(status="validating", probe_id="b" * 32)
    await reconciler.reconcile()
    await reconciler.reconcile()
    (claim,) = await site_wire.claim(site_settings.BASE_KEY, "w", "f", Capacity(10), 10)
    assert isinstance(claim.request, Probe)
    await version.arefresh_from_db()
    assert (claim.request.id, claim.request.adapter.digest) == (version.probe_id, version.digest)
