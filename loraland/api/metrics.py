"""/metrics for Prometheus: what the recorder has counted, and what queue and workers say now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from redis.exceptions import RedisError

from inference.protocol import Heartbeat
from inference.streams import WireError
from loraland.generations.metrics import FIRST_TOKEN_BOUNDS, Count, counts
from loraland.inference_client import live_workers, wire

BUCKETS: Final = (*(str(bound) for bound in FIRST_TOKEN_BOUNDS), "+Inf")


class Snapshot:
    """A registry's collector over metrics that are known already."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> list[Metric]:
        return self._metrics


async def metrics(request: HttpRequest) -> HttpResponse:
    try:
        counted, queued, workers = await counts(), await wire().queue_length(settings.BASE_KEY), await live_workers()
    except (RedisError, WireError):
        return HttpResponse("# Redis cannot be reached\n", status=503, content_type="text/plain")
    registry = CollectorRegistry()
    registry.register(Snapshot([*_counters(counted), _first_token(counted), *_gauges(queued, workers)]))
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def _counters(counted: list[Count]) -> Iterator[Metric]:
    answers = CounterMetricFamily("loraland_answers", "Recorded answers.", labels=("adapter", "source", "outcome"))
    prompt = CounterMetricFamily("loraland_prompt_tokens", "Tokens of prompts.", labels=("adapter",))
    completion = CounterMetricFamily("loraland_completion_tokens", "Tokens generated.", labels=("adapter",))
    for each in counted:
        if each.name == "answers":
            answers.add_metric((each.adapter, *each.label.split(":")), each.value)
        elif each.name == "prompt_tokens":
            prompt.add_metric((each.adapter,), each.value)
        elif each.name == "completion_tokens":
            completion.add_metric((each.adapter,), each.value)
    yield from (answers, prompt, completion)


def _first_token(counted: list[Count]) -> Metric:
    family = HistogramMetricFamily(
        "loraland_first_token_seconds", "From acceptance to the first token.", labels=("adapter",)
    )
    sums = {each.adapter: each.value for each in counted if each.name == "first_token_sum"}
    filled = {(each.adapter, each.label): each.value for each in counted if each.name == "first_token"}
    for adapter, total in sums.items():
        family.add_metric((adapter,), list(_cumulative(adapter, filled)), total)
    return family


def _cumulative(adapter: str, filled: dict[tuple[str, str], float]) -> Iterator[tuple[str, float]]:
    running = 0.0
    for bucket in BUCKETS:
        running += filled.get((adapter, bucket), 0.0)
        yield bucket, running


def _gauges(queued: int, workers: list[Heartbeat]) -> Iterator[Metric]:
    values = {
        "loraland_queue_length": ("Requests that no worker has claimed yet.", queued),
        "loraland_workers_ready": ("Workers with the base model loaded.", sum(each.ready for each in workers)),
        "loraland_running": ("Answers being generated.", sum(each.running for each in workers)),
        "loraland_free_blocks": ("Free blocks of the KV caches.", sum(each.free_blocks for each in workers)),
        "loraland_named_blocks": ("Blocks with beginnings of prompts.", sum(each.named_blocks for each in workers)),
        "loraland_total_blocks": ("Blocks of the KV caches.", sum(each.total_blocks for each in workers)),
    }
    for name, (documentation, value) in values.items():
        yield GaugeMetricFamily(name, documentation, value)
