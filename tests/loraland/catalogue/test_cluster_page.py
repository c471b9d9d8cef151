"""What the page of the workers shows of a cluster, from a report in Redis: to insiders, and to nobody else."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from django.test import AsyncClient

from inference.wire import cluster
from inference.wire.cluster import ClusterReport, NodeReport, PoolChange, PoolReport, ReplicaReport
from inference.wire.protocol import EngineLoad, Heartbeat
from loraland import bases, inference_client
from loraland.catalogue.models import Adapter, AdapterVersion

pytestmark = [pytest.mark.django_db(transaction=True)]


class Workers:
    """Stands in for the wire at the seam: only heartbeats and lengths of queues are asked for."""

    def __init__(self, *heartbeats: Heartbeat) -> None:
        self._heartbeats = list(heartbeats)

    async def heartbeats(self, base: str) -> list[Heartbeat]:
        return self._heartbeats

    async def queue_length(self, base: str) -> int:
        return 0


def report(**changes: Any) -> ClusterReport:
    replicas = (
        ReplicaReport("tiny-1", "ready", "5ce86606", "n1"),
        ReplicaReport("tiny-2", "draining", "5ce86606", "n2"),
        ReplicaReport("tiny-3", "waiting", "5ce86606"),
    )
    lacks = "one replica waits for a place: each takes 1 CPU, and no node has as much left"
    fields: dict[str, Any] = {
        "time": time.time(),
        "nodes": (NodeReport("n1", "10.1.1.1", 8, 1), NodeReport("n2", "10.1.1.2", 4), NodeReport("n3", "10.1.1.3", 4)),
        "pools": (PoolReport(bases.default().key, 1, 4, 3, 1.0, 0.5, replicas, lacks),),
        "changes": (PoolChange(time.time(), bases.default().key, 2, 3, "the oldest had waited for 3.5 s"),),
        "trainings": 1,
    }
    return ClusterReport(**{**fields, **changes})


@pytest.fixture(autouse=True)
async def own_redis(redis_url: str, settings: Any) -> AsyncIterator[None]:
    settings.REDIS_URL = redis_url
    await inference_client.redis().flushall()
    yield
    await cluster.forget(inference_client.redis())
    await inference_client.close()


@pytest.fixture
async def told() -> None:
    await cluster.write(inference_client.redis(), report())


async def page(*heartbeats: Heartbeat) -> str:
    with inference_client.plugged(Workers(*heartbeats)):
        response = await AsyncClient().get("/workers/")
    return " ".join(response.content.decode().split())


async def test_without_a_cluster_there_is_nothing_of_one() -> None:
    assert "cluster" not in await page(Heartbeat("one", "base", ready=True))


@pytest.mark.usefixtures("told")
async def test_each_node_shows_its_replicas_and_what_these_hold() -> None:
    adapter = await Adapter.objects.acreate(slug="sums", name="Sums", base="x")
    version = await AdapterVersion.objects.acreate(adapter=adapter, digest="a" * 64)
    await Adapter.objects.aupdate(published=version)
    load = EngineLoad(running=3, on_device=("a" * 64, "f" * 64))
    html = await page(Heartbeat("tiny-1", "base", ready=True, load=load))
    first, second, third, placeless = html.partition('class="nodes"')[2].split('<li class="node')[1:]
    assert "10.1.1.1" in first
    assert "tiny-1" in first
    assert 'href="/adapters/sums/"' in first
    assert '<span class="figures">3</span> answering' in first
    assert "tiny-2</strong> draining" in second
    assert "No replica is here" in third
    assert "tiny-3</strong> waiting" in placeless


@pytest.mark.usefixtures("told")
async def test_the_bounds_and_the_reasons_are_told() -> None:
    html = await page()
    assert "<strong>3 replicas</strong> wanted of 1 to 4, each with 1 CPU and 0.5 GPU" in html
    assert "One replica waits for a place: each takes 1 CPU" in html
    assert "2 → 3" in html
    assert "The oldest had waited for 3.5 s." in html
    assert "1 training at work" in html
    assert "Nobody keeps it" not in html


@pytest.mark.usefixtures("told")
async def test_a_controller_that_has_gone_is_seen_as_such() -> None:
    await inference_client.redis().delete(cluster.ALIVE)
    assert "Nobody keeps it" in await page()


@pytest.mark.usefixtures("told")
async def test_strangers_are_told_nothing_of_it(settings: Any) -> None:
    settings.INTERNAL_ADDRESSES = ()
    assert "10.1.1.1" not in await page()


@pytest.mark.usefixtures("told")
async def test_metrics_tell_how_many_replicas_are_wanted_and_are() -> None:
    with inference_client.plugged(Workers()):
        text = (await AsyncClient().get("/metrics")).content.decode()
    name = bases.default().name
    assert f'loraland_base_replicas_wanted{{base="{name}"}} 3.0' in text
    assert f'loraland_base_replicas{{base="{name}",state="ready"}} 1.0' in text
    await inference_client.redis().delete(cluster.ALIVE)
    with inference_client.plugged(Workers()):
        assert "loraland_base_replicas" not in (await AsyncClient().get("/metrics")).content.decode()
