"""A load generator for any OpenAI-compatible server: users who send, read the whole stream, and send again."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from dataclasses import dataclass

import httpx

WORDS = ("river", "lamp", "stone", "copper", "garden", "winter", "paper", "engine")
WORDS += ("yellow", "quiet", "market", "signal", "orange", "window", "ladder", "cloud")


@dataclass(frozen=True)
class Workload:
    """`users` at once, `requests` in all, over `models` in turn; every answer has exactly `tokens` tokens."""

    name: str
    users: int
    requests: int
    models: tuple[str, ...]
    tokens: int = 64
    prompt_words: int = 50


@dataclass(frozen=True)
class Sample:
    """One answer: its number of tokens, and in seconds the first token and each later one's wait."""

    tokens: int
    first: float
    gaps: tuple[float, ...]


@dataclass(frozen=True)
class Result:
    """A workload's figures: tokens a second over all users, and medians in milliseconds."""

    name: str
    tokens_per_second: float
    first_token_ms: float
    first_token_p95_ms: float
    inter_token_ms: float
    requests: int


async def run(workload: Workload, url: str, key: str, seed: int) -> Result:
    """Send the workload's requests and measure. Every prompt is new, so nothing can be answered from a cache."""
    rng = random.Random(seed)
    queue: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    for number in range(workload.requests):
        prompt = " ".join(rng.choice(WORDS) for _ in range(workload.prompt_words))
        queue.put_nowait((workload.models[number % len(workload.models)], f"{rng.random()} {prompt}"))
    samples: list[Sample] = []
    limits = httpx.Limits(max_connections=workload.users)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits, headers=_bearer(key)) as client:
        began = time.perf_counter()
        await asyncio.gather(*(_user(client, queue, workload, samples) for _ in range(workload.users)))
        seconds = time.perf_counter() - began
    return _result(workload, samples, seconds)


async def _user(
    client: httpx.AsyncClient, queue: asyncio.Queue[tuple[str, str]], workload: Workload, samples: list[Sample]
) -> None:
    while not queue.empty():
        model, prompt = queue.get_nowait()
        samples.append(await _ask(client, model, prompt, workload.tokens))


async def _ask(client: httpx.AsyncClient, model: str, prompt: str, tokens: int) -> Sample:
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": tokens,
        "min_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    sent, times, count = time.perf_counter(), [], 0
    async with client.stream("POST", "/v1/completions", json=body) as response:
        if response.status_code != 200:
            raise RuntimeError(f"{response.status_code}: {(await response.aread()).decode()[:300]}")
        async for line in response.aiter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                chunk = json.loads(line.removeprefix("data: "))
                if chunk.get("usage"):
                    count = chunk["usage"]["completion_tokens"]
                if chunk["choices"] and chunk["choices"][0]["text"]:
                    times.append(time.perf_counter())
    assert count == tokens, f"asked for {tokens} tokens and got {count}"
    # A chunk may hold several tokens, so the wait between tokens is the whole stream over their number.
    return Sample(count, times[0] - sent, ((times[-1] - times[0]) / max(count - 1, 1),))


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _result(workload: Workload, samples: list[Sample], seconds: float) -> Result:
    firsts = sorted(sample.first for sample in samples)
    return Result(
        workload.name,
        sum(sample.tokens for sample in samples) / seconds,
        statistics.median(firsts) * 1000,
        firsts[min(len(firsts) - 1, int(0.95 * len(firsts)))] * 1000,
        statistics.median(gap for sample in samples for gap in sample.gaps) * 1000,
        len(samples),
    )
