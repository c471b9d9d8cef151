"""/healthz, /readyz and /metrics."""

from __future__ import annotations

import pytest
from django.conf import settings as site_settings

from inference.wire.protocol import ClaimCounts, EngineLoad, Heartbeat, Message
from loraland import bases
from loraland.api.metrics import SHOWN
from loraland.api.worker_metrics import worker_metrics
from loraland.generations.metrics import KEY
from loraland.generations.models import Generation
from loraland.generations.recorder import Recorder
from loraland.generations.start import start
from loraland.generations.visitor import Visitor
from loraland.inference_client import redis
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


async def test_one_base_that_is_up_makes_the_site_ready_and_each_is_told(async_client, site_wire, other_base):
    await ScriptedWorker(site_wire, other_base.lower()).beat()
    answer = await async_client.get("/readyz")
    assert (answer.status_code, answer.json()["worker"]) == (200, True)
    told = {each["base"]: (each["worker"], each["workers"]) for each in answer.json()["bases"]}
    assert told == {site_settings.BASE_NAME: (False, 0), other_base: (True, 1)}
    lines = (await async_client.get("/metrics")).content.decode().splitlines()
    assert f'loraland_base_workers_ready{{base="{other_base}"}} 1.0' in lines
    assert f'loraland_base_workers_ready{{base="{site_settings.BASE_NAME}"}} 0.0' in lines


async def test_the_metrics_count_each_base_by_itself(async_client, site_wire, other_base):
    worker = ScriptedWorker(site_wire, other_base.lower())
    visitor, base = Visitor(None, "", "key:1"), bases.of_name(other_base)
    await start(visitor, Generation.Source.API, None, base=base, messages=[Message("user", "a b c")])
    await worker.beat()
    await worker.step()
    await Recorder("r").step(50)
    await start(visitor, Generation.Source.API, None, base=base, messages=[Message("user", "a b c")])
    lines = (await async_client.get("/metrics")).content.decode().splitlines()
    assert f'loraland_completion_tokens_total{{adapter="base:{other_base}"}} 3.0' in lines
    assert f'loraland_base_queue_length{{base="{other_base}"}} 1.0' in lines
    assert f'loraland_base_queue_length{{base="{site_settings.BASE_NAME}"}} 0.0' in lines
    assert "loraland_queue_length 1.0" in lines


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
    assert 'loraland_queue_seconds_count{adapter="base"} 1.0' in lines
    assert "loraland_queue_length 1.0" in lines
    assert "loraland_workers_ready 1.0" in lines


async def test_the_metrics_tell_the_busiest_adapters_by_name_and_the_others_together(async_client, site_wire):
    for number in range(60):
        key = f"adapter-{number:02}"
        await redis().hset(KEY, mapping={f"answers|{key}|api:done": 100 - number, f"prompt_tokens|{key}|": 7})
        await redis().hset(KEY, mapping={f"queue|{key}|0.1": 1, f"queue_sum|{key}|": 0.5})
    lines = (await async_client.get("/metrics")).content.decode().splitlines()
    named = {line for line in lines if line.startswith("loraland_prompt_tokens_total")}
    assert len(named) == SHOWN + 1
    assert 'loraland_prompt_tokens_total{adapter="adapter-49"} 7.0' in named
    assert 'loraland_prompt_tokens_total{adapter="other"} 70.0' in named
    assert 'loraland_queue_seconds_bucket{adapter="other",le="0.1"} 10.0' in lines
    assert 'loraland_queue_seconds_sum{adapter="other"} 5.0' in lines


def test_loads_and_evictions_are_told_for_each_adapter_and_thrash_for_each_worker():
    load = EngineLoad(
        on_device=("d1", "d2"),
        in_host=("d1", "d2", "d3"),
        loads=20,
        reloads=15,
        adapter_loads=(("d1", 9), ("d3", 6)),
        preempted=2,
        displaced=3,
        drafted_tokens=50,
        accepted_tokens=40,
    )
    told = {
        (sample.name, *sample.labels.values()): sample.value
        for family in worker_metrics(
            [Heartbeat("w", "tiny", True, load=load, claims=ClaimCounts(7, 2, 1))], {"d1": "boolq", "d3": "viggo"}
        )
        for sample in family.samples
    }
    assert told["loraland_adapter_loads_total", "w", "boolq"] == 9
    assert told["loraland_adapter_evictions_total", "w", "boolq"] == 8
    assert told["loraland_adapter_evictions_total", "w", "viggo"] == 6
    assert (told["loraland_adapter_loads_total", "w", "other"], told["loraland_adapter_reloads_total", "w"]) == (5, 15)
    assert told["loraland_adapters_resident", "w", "device", "boolq"] == 1
    assert told["loraland_adapters_resident", "w", "device", "other"] == 1
    assert told["loraland_adapters_resident", "w", "host", "viggo"] == 1
    assert told["loraland_preemptions_total", "w", "blocks"] == 2
    assert told["loraland_preemptions_total", "w", "priority"] == 3
    assert (told["loraland_residency_hits_total", "w"], told["loraland_residency_misses_total", "w"]) == (7, 2)
    assert told["loraland_stolen_claims_total", "w"] == 1
    assert told["loraland_guessed_tokens_total", "w", "right"] == 40
    assert told["loraland_guessed_tokens_total", "w", "wrong"] == 10
