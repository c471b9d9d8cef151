"""/healthz, /readyz and /metrics."""

from __future__ import annotations

import pytest
from django.conf import settings as site_settings

from inference.protocol import Message
from loraland.generations.models import Generation
from loraland.generations.recorder import Recorder
from loraland.generations.start import start
from loraland.generations.visitor import Visitor
from tests.loraland.scripted_worker import FINGERPRINT, ScriptedWorker

pytestmark = pytest.mark.django_db(transaction=True)


async def test_a_process_that_serves_is_alive(async_client):
    answer = await async_client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_the_site_is_ready_once_a_worker_has_the_base_loaded(async_client, site_wire):
    worker = ScriptedWorker(site_wire, site_settings.BASE_KEY)
    await worker.beat(ready=False)
    answer = await async_client.get("/readyz")
    assert (answer.status_code, answer.json()["missing"], answer.json()["workers"]) == (503, ["worker"], 1)
    await worker.beat()
    answer = await async_client.get("/readyz")
    assert (answer.status_code, answer.json()["missing"]) == (200, [])
    assert (answer.json()["base"], answer.json()["self_check"]) == (site_settings.BASE_NAME, "ok")
    assert answer.json()["fingerprint"] == FINGERPRINT


async def test_a_site_without_redis_says_so(async_client, settings, tmp_path):
    settings.REDIS_URL = f"unix://{tmp_path}/nothing.sock"
    answer = await async_client.get("/readyz")
    assert (answer.status_code, answer.json()["missing"]) == (503, ["redis", "worker"])
    assert (await async_client.get("/healthz")).status_code == 200
    assert (await async_client.get("/metrics")).status_code == 503


async def test_the_metrics_count_what_was_recorded_and_what_waits(async_client, site_wire):
    visitor = Visitor(None, "", "key:1")
    worker = ScriptedWorker(site_wire, site_settings.BASE_KEY)
    await start(visitor, Generation.Source.API, None, messages=[Message("user", "a b c")])
    await worker.beat()
    await worker.step()
    await Recorder("r").step(50)
    await start(visitor, Generation.Source.API, None, messages=[Message("user", "a b c")])
    lines = (await async_client.get("/metrics")).content.decode().splitlines()
    assert 'loraland_answers_total{adapter="base",outcome="done",source="api"} 1.0' in lines
    assert 'loraland_completion_tokens_total{adapter="base"} 3.0' in lines
    assert 'loraland_first_token_seconds_bucket{adapter="base",le="0.05"} 1.0' in lines
    assert 'loraland_first_token_seconds_count{adapter="base"} 1.0' in lines
    assert "loraland_queue_length 1.0" in lines
    assert "loraland_workers_ready 1.0" in lines
