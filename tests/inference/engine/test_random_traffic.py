"""Whatever comes, goes and is forgotten meanwhile: cache and guesses change no answer."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.wire.contract import Resume
from inference.wire.protocol import AdapterRef, Generate, Sampling
from tests.inference.engines import Record, Records, assert_nothing_held, drain, make_reading_engine

TIGHT = {"num_blocks": 14, "block_size": 16, "num_slots": 2, "max_rows": 5, "prefill_tokens": 64, "context_length": 160}
PROMPTS = ("ab" * 20, "ab" * 20 + "c" * 30, "ab" * 20 + "c" * 10, "abc", "x" * 64, "x" * 90)
SAMPLINGS: tuple[dict[str, Any], ...] = (
    {},
    {"ignore_eos": True, "logprobs": 2},
    {"temperature": 0.8, "seed": 5, "ignore_eos": True},
    {"temperature": 1.1, "seed": 6, "top_p": 0.9, "presence_penalty": 0.3, "min_tokens": 20},
    {"stop": ("aa",), "repetition_penalty": 1.01},
)

asks = st.tuples(
    st.just("ask"),
    st.integers(0, len(PROMPTS) - 1),
    st.sampled_from(["", "A", "B", "C"]),
    st.integers(0, len(SAMPLINGS) - 1),
    st.one_of(st.integers(0, 8), st.integers(0, 59)),
    st.sampled_from(["ann", "ben"]),
)
steps = st.tuples(st.just("step"), st.integers(1, 9))
aborts = st.tuples(st.just("abort"), st.integers(0, 20))
forgets = st.tuples(st.just("forget"))


def request(id: str, prompt: int, digest: str, sampling: int, tenant: str = "") -> Generate:
    adapter, settings = AdapterRef(digest) if digest else None, Sampling(max_tokens=60, **SAMPLINGS[sampling])
    return Generate(id, adapter, prompt=PROMPTS[prompt], sampling=settings, tenant=tenant)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traffic")


@cache
def undisturbed(home: Path, is_uniform: bool, prompt: int, digest: str, sampling: int) -> Record:
    """The answer that the request gets alone, without cache and guesses."""
    engine = make_reading_engine(home, habit=2, prefix_cache=False, speculation=False, rows_are_uniform=is_uniform)
    engine.add(request("it", prompt, digest, sampling))
    record = drain(engine)["it"]
    engine.close()
    return record


class Traffic:
    """Does what it is told to an engine, and keeps what readers see."""

    def __init__(self, home: Path, is_uniform: bool) -> None:
        self.home, self.is_uniform, self.records = home, is_uniform, Records()
        self.engine = make_reading_engine(home, habit=2, rows_are_uniform=is_uniform, **TIGHT)
        self.asked: dict[str, tuple[Record, int]] = {}

    def ask(self, prompt: int, digest: str, sampling: int, num_seen: int, tenant: str) -> None:
        """Ask for an answer, of which another worker may have streamed `num_seen` tokens already."""
        id, whole = f"{len(self.asked)}", undisturbed(self.home, self.is_uniform, prompt, digest, sampling)
        seen = min(num_seen, len(whole.token_ids) - 1)
        resume = Resume(tuple(whole.token_ids[:seen]), whole.num_chars[seen - 1]) if seen > 0 else None
        self.asked[id] = (whole, max(0, seen))
        self.engine.add(request(id, prompt, digest, sampling, tenant), resume)

    def step(self, count: int) -> None:
        for _ in range(count):
            self.records.take(self.engine.step())
            for sequence in (*self.engine.scheduler.running, *self.engine.scheduler.waiting):
                sequence.check()

    def abort(self, number: int) -> None:
        id = f"{number}"
        if id in self.asked and not (id in self.records and self.records[id].ends):
            self.engine.abort(id)
            del self.asked[id]
            self.asked[f"gone {id}"] = (Record(), 0)

    def forget(self) -> None:
        self.engine.scheduler.pool.forget()

    def check(self) -> None:
        drain(self.engine, self.records)
        for id, (whole, seen) in self.asked.items():
            if not id.startswith("gone"):
                record = self.records[id]
                assert record.token_ids == whole.token_ids[seen:]
                assert record.logprobs == whole.logprobs[seen:]
                assert record.finished.reason == whole.finished.reason
        assert_nothing_held(self.engine)
        self.forget()
        assert self.engine.scheduler.pool.num_cached == 0
        assert_nothing_held(self.engine)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.one_of(asks, asks, asks, steps, steps, aborts, forgets), min_size=12, max_size=48),
    st.booleans(),
)
def test_no_token_depends_on_traffic_cache_or_guesses(
    home: Path, events: list[tuple[Any, ...]], is_uniform: bool
) -> None:
    traffic = Traffic(home, is_uniform)
    for name, *arguments in events:
        getattr(traffic, name)(*arguments)
    traffic.check()
    traffic.engine.close()
