"""/metrics for Prometheus: what the recorder has counted, and what queue and workers say now.

However many adapters there are, those beyond the `SHOWN` busiest are told together as one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final

from django.http import HttpRequest, HttpResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from redis.exceptions import RedisError

from inference.wire.cluster import ClusterReport
from inference.wire.contract import WireError
from inference.wire.protocol import Heartbeat
from loraland import bases
from loraland.api.worker_metrics import worker_metrics
from loraland.bases import Base
from loraland.catalogue.cluster import reported
from loraland.catalogue.models import AdapterVersion
from loraland.edge.insiders import REFUSAL, ais_insider
from loraland.generations.metrics import BOUNDS, Count, busiest, counts, folded
from loraland.inference_client import live_workers, wire

BUCKETS: Final = (*(str(bound) for bound in BOUNDS), "+Inf")
SHOWN: Final = 50
COUNTERS: Final = {
    "prompt_tokens": "Tokens of prompts.",
    "cached_tokens": "Tokens of prompts that were computed before.",
    "completion_tokens": "Tokens generated.",
}
TIMES: Final = {
    "first_token": "From acceptance to the first token.",
    "queue": "From acceptance to the start.",
    "load": "Reading an adapter that was not in memory.",
}


class Snapshot:
    """A registry's collector over metrics that are known already."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> list[Metric]:
        return self._metrics


async def metrics(request: HttpRequest) -> HttpResponse:
    if not await ais_insider(request):
        return HttpResponse(f"# {REFUSAL}\n", status=403, content_type="text/plain")
    try:
        counted, workers = await counts(), await live_workers()
        queued = {base: await wire().queue_length(base.key) for base in bases.served()}
    except (RedisError, WireError):
        return HttpResponse("# Redis cannot be reached\n", status=503, content_type="text/plain")
    shown = busiest(counted, SHOWN)
    numbers = folded(counted, shown)
    versions = AdapterVersion.objects.filter(adapter__slug__in=shown).values_list("digest", "adapter__slug")
    slugs = {digest: slug async for digest, slug in versions}
    registry = CollectorRegistry()
    of_workers = [*_queues(queued, workers), *worker_metrics(workers, slugs), *_pools(await reported())]
    registry.register(Snapshot([*_counters(numbers), *_times(numbers), *of_workers]))
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def _queues(queued: Mapping[Base, int], workers: Sequence[Heartbeat]) -> Iterator[Metric]:
    """How many wait, in all and for each base, and how many workers each has that are ready."""
    yield GaugeMetricFamily("loraland_queue_length", "Requests that no worker has claimed yet.", sum(queued.values()))
    waiting = GaugeMetricFamily("loraland_base_queue_length", "Those of one base.", labels=("base",))
    ready = GaugeMetricFamily("loraland_base_workers_ready", "Workers with this base loaded.", labels=("base",))
    for base, number in queued.items():
        waiting.add_metric((base.name,), number)
        ready.add_metric((base.name,), sum(worker.ready and worker.base == base.key for worker in workers))
    yield from (waiting, ready)


def _pools(told: tuple[ClusterReport, bool] | None) -> Iterator[Metric]:
    """What the pools of a cluster are to be and are, where somebody keeps one."""
    if told is None or not told[1]:
        return
    names = {base.key: base.name for base in bases.served()}
    wanted = GaugeMetricFamily("loraland_base_replicas_wanted", "Replicas there are to be.", labels=("base",))
    replicas = GaugeMetricFamily("loraland_base_replicas", "Replicas in each state.", labels=("base", "state"))
    for pool in told[0].pools:
        base = names.get(pool.base, pool.base)
        wanted.add_metric((base,), pool.wanted)
        for state, count in Counter(replica.state for replica in pool.replicas).items():
            replicas.add_metric((base, state), count)
    yield from (wanted, replicas)


def _counters(counted: list[Count]) -> Iterator[Metric]:
    answers = CounterMetricFamily("loraland_answers", "Recorded answers.", labels=("adapter", "source", "outcome"))
    families = {
        name: CounterMetricFamily(f"loraland_{name}", documentation, labels=("adapter",))
        for name, documentation in COUNTERS.items()
    }
    for number in counted:
        if number.name == "answers":
            answers.add_metric((number.adapter, *number.label.split(":")), number.value)
        elif number.name in families:
            families[number.name].add_metric((number.adapter,), number.value)
    yield from (answers, *families.values())


def _times(counted: list[Count]) -> Iterator[Metric]:
    for name, documentation in TIMES.items():
        family = HistogramMetricFamily(f"loraland_{name}_seconds", documentation, labels=("adapter",))
        filled = {(number.adapter, number.label): number.value for number in counted if number.name == name}
        for number in counted:
            if number.name == f"{name}_sum":
                running = accumulate(filled.get((number.adapter, bucket), 0.0) for bucket in BUCKETS)
                family.add_metric((number.adapter,), list(zip(BUCKETS, running, strict=True)), number.value)
        yield family
