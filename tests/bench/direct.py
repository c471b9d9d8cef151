"""`python -m tests.bench.direct`: a workload on the engine itself, in one thread, with no server around it.

Reads the engine's settings from the environment, as a worker does, and a run in JSON from each line of its input;
writes one line of JSON first, which says what computes, and one a run. A process of its own, so that the site's memory
and threads stay out of it.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections import deque
from typing import Any

from inference.config import ConfigError, EngineConfig, read_config
from inference.fetch import find_model
from inference.model.architecture import read_architecture
from inference.model.torch_environment import prepare_torch
from inference.wire.protocol import AdapterRef, Delta, Failed, Finished, Generate, Sampling
from tests.bench import peak
from tests.bench.operations import Operations
from tests.bench.processes import Meter
from tests.bench.workloads import PROMPT_TOKENS

prepare_torch()

from inference.engine.engine import Engine  # noqa: E402 - loads torch


def main() -> None:
    try:
        config = read_config()
        engine = Engine(config)
    except ConfigError as error:
        print(json.dumps({"refused": str(error)}))
        return
    limit = Limit(config, engine.machine.runner.decoder.unit)
    print(json.dumps({"unit": limit.unit}), flush=True)
    for run in map(json.loads, sys.stdin):
        if run["is_first"]:
            run_on(engine, run["users"], [(digest, prompt, 4) for digest, prompt, _ in run["asks"]])
        print(json.dumps(_measured(engine, run, limit)), flush=True)
    engine.close()


def _measured(engine: Engine, run: dict[str, Any], limit: Limit) -> dict[str, float]:
    """The figures of a run with what share of one core others took meanwhile, and how near it came to the peak."""
    meter, began = Meter.start(os.getpid()), time.perf_counter()
    figures = run_on(engine, run["users"], run["asks"])
    figures["strangers"] = meter.since()[1] / (time.perf_counter() - began)
    return figures | limit.share(figures["tokens_per_second"], run["asks"][0][2])


class Limit:
    """How near an engine whose decoder computes on `unit` comes to what this processor multiplies at most."""

    def __init__(self, config: EngineConfig, unit: str) -> None:
        self.unit, self._config = unit, config
        self._operations = Operations(read_architecture(find_model(config) / "config.json"))

    def share(self, tokens_per_second: float, length: int) -> dict[str, float]:
        """In percent of the peak, measured now; the operations are the base's. Empty where there is no peak."""
        try:
            instruction = peak.instruction_of(self.unit, self._config.dtype, self._config.quantization)
            limit = peak.measure(instruction)
        except peak.NoPeak:
            return {}
        done = self._operations.answer(PROMPT_TOKENS, length) / length * tokens_per_second
        return {"peak_gflops": limit / 1e9, "of_peak": 100 * done / limit}


def run_on(engine: Engine, users: int, asks: list[tuple[str, str, int]]) -> dict[str, float]:
    """`users` at once. An ask is a digest (empty: the base), a prompt and the length of its answer."""
    waiting, sent = deque(enumerate(asks)), dict[str, float]()
    firsts, lasts, tokens = dict[str, float](), dict[str, float](), 0
    began = time.perf_counter()
    while waiting or engine.has_work:
        while waiting and len(sent) - len(lasts) < users:
            number, ask = waiting.popleft()
            request = _request(f"{began}-{number}".replace(".", "-"), *ask)
            sent[request.id] = time.perf_counter()
            engine.add(request)
        for event in engine.step():
            if isinstance(event, Failed):
                raise RuntimeError(event.error)
            if isinstance(event, Delta):
                tokens += len(event.token_ids)
                firsts.setdefault(event.id, time.perf_counter() - sent[event.id])
            if isinstance(event, Finished):
                lasts[event.id] = time.perf_counter() - sent[event.id]
    return _figures(firsts, lasts, tokens, time.perf_counter() - began, asks[0][2])


def _request(id: str, digest: str, prompt: str, length: int) -> Generate:
    sampling = Sampling(max_tokens=length, min_tokens=length, ignore_eos=True)
    return Generate(id, AdapterRef(digest) if digest else None, prompt=prompt, sampling=sampling)


def _figures(
    firsts: dict[str, float], lasts: dict[str, float], tokens: int, seconds: float, length: int
) -> dict[str, float]:
    ordered = sorted(firsts.values())
    return {
        "tokens_per_second": tokens / seconds,
        "first_ms": statistics.median(ordered) * 1000,
        "first_p95_ms": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))] * 1000,
        "longest_ms": max(lasts.values()) * 1000,
        "next_ms": statistics.median((lasts[id] - firsts[id]) / (length - 1) for id in lasts) * 1000,
    }


if __name__ == "__main__":
    main()
