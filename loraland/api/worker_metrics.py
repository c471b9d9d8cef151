"""What the heartbeats of the workers say, for /metrics: how busy they are, which adapters they hold, how often these
change places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from inference.wire.protocol import Heartbeat
from loraland.generations.metrics import OTHER


def worker_metrics(workers: Sequence[Heartbeat], slugs: Mapping[str, str]) -> Iterator[Metric]:
    """`slugs` are the adapters to be told by name, by the digests of their versions."""
    yield from _sums(workers)
    yield from _changes(workers)
    yield _residency(workers, slugs)
    yield from _loads(workers, slugs)


def _sums(workers: Sequence[Heartbeat]) -> Iterator[Metric]:
    loads = [worker.load for worker in workers]
    values = {
        "loraland_workers_ready": ("Workers with the base model loaded.", sum(worker.ready for worker in workers)),
        "loraland_running": ("Answers being generated.", sum(load.running for load in loads)),
        "loraland_waiting": ("Claimed requests that wait for a start.", sum(load.waiting for load in loads)),
        "loraland_free_blocks": ("Free blocks of the KV caches.", sum(load.free_blocks for load in loads)),
        "loraland_named_blocks": ("Blocks with beginnings of prompts.", sum(load.cached_blocks for load in loads)),
        "loraland_total_blocks": ("Blocks of the KV caches.", sum(load.total_blocks for load in loads)),
    }
    for name, (documentation, value) in values.items():
        yield GaugeMetricFamily(name, documentation, value)


def _changes(workers: Sequence[Heartbeat]) -> Iterator[Metric]:
    """One series a worker, for what is counted since its start."""
    reloads = CounterMetricFamily(
        "loraland_adapter_reloads", "Loads of adapters that had been on the device before.", labels=("worker",)
    )
    preemptions = CounterMetricFamily(
        "loraland_preemptions", "Answers that are computed again: for blocks or for priority.", labels=("worker", "for")
    )
    guesses = CounterMetricFamily(
        "loraland_guessed_tokens", "Tokens that were guessed and checked.", labels=("worker", "outcome")
    )
    hits = CounterMetricFamily(
        "loraland_residency_hits", "Claims of requests for an adapter that the worker held.", labels=("worker",)
    )
    misses = CounterMetricFamily(
        "loraland_residency_misses", "Claims of requests for an adapter that it did not hold.", labels=("worker",)
    )
    steals = CounterMetricFamily(
        "loraland_stolen_claims", "Claims of requests that were meant for another worker.", labels=("worker",)
    )
    for worker in workers:
        name, load = worker.worker, worker.load
        hits.add_metric((name,), worker.claims.hits)
        misses.add_metric((name,), worker.claims.misses)
        steals.add_metric((name,), worker.claims.stolen)
        guesses.add_metric((name, "right"), load.accepted_tokens)
        guesses.add_metric((name, "wrong"), load.drafted_tokens - load.accepted_tokens)
        reloads.add_metric((name,), load.reloads)
        preemptions.add_metric((name, "blocks"), load.preempted)
        preemptions.add_metric((name, "priority"), load.displaced)
    yield from (reloads, preemptions, guesses, hits, misses, steals)


def _residency(workers: Sequence[Heartbeat], slugs: Mapping[str, str]) -> Metric:
    family = GaugeMetricFamily(
        "loraland_adapters_resident",
        "Versions of adapters in a worker's memory.",
        labels=("worker", "place", "adapter"),
    )
    for worker in workers:
        for place, digests in (("device", worker.load.on_device), ("host", worker.load.in_host)):
            for adapter, count in Counter(slugs.get(digest, OTHER) for digest in digests).items():
                family.add_metric((worker.worker, place, adapter), count)
    return family


def _loads(workers: Sequence[Heartbeat], slugs: Mapping[str, str]) -> Iterator[Metric]:
    """Loads onto the device, and evictions: every load but that of an adapter which is still there ended in one."""
    labels = ("worker", "adapter")
    loads = CounterMetricFamily("loraland_adapter_loads", "Adapters put on the device.", labels=labels)
    evictions = CounterMetricFamily("loraland_adapter_evictions", "Adapters taken off the device.", labels=labels)
    for worker in workers:
        load = worker.load
        loaded: Counter[str] = Counter({OTHER: load.loads - sum(dict(load.adapter_loads).values())})
        for digest, count in load.adapter_loads:
            loaded[slugs.get(digest, OTHER)] += count
        resident = Counter(slugs.get(digest, OTHER) for digest in load.on_device)
        for adapter, count in loaded.items():
            loads.add_metric((worker.worker, adapter), count)
            evictions.add_metric((worker.worker, adapter), max(0, count - resident[adapter]))
    yield from (loads, evictions)
