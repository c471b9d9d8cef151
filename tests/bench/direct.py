"""`python -m tests.bench.direct`: a workload on the engine itself, in one thread, with no server around it.

Reads the engine's settings from the environment, as a worker does, and a list of runs in JSON from its input;
writes one line of JSON a run. A process of its own, so that the site's memory and threads stay out of it.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections import deque

from inference.config import read_config
from inference.model.torch_environment import prepare_torch
from inference.wire.protocol import AdapterRef, Delta, Failed, Finished, Generate, Sampling

prepare_torch()

from inference.engine.engine import Engine  # noqa: E402 - loads torch


def main() -> None:
    engine = Engine(read_config())
    for run in json.load(sys.stdin):
        if run["is_first"]:
            run_on(engine, run["users"], [(digest, prompt, 4) for digest, prompt, _ in run["asks"]])
        print(json.dumps(run_on(engine, run["users"], run["asks"])), flush=True)
    engine.close()


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
        "next_ms": statistics.median((lasts[id] - firsts[id]) / (length - 1) for id in lasts) * 1000,
    }


if __name__ == "__main__":
    main()
