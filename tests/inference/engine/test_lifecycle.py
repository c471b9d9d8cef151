"""Whatever happens to requests in whatever order, everything they held comes back."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.engine.engine import Engine
from inference.wire.contract import Resume
from inference.wire.protocol import CLASSES, AdapterRef, Failed, Generate, Probe, QueueClass, Sampling
from tests.inference.engines import Records, assert_nothing_held, drain, expected_answer, make_reading_engine

ADAPTERS = ("", "", "A", "B", "C", "D", "missing")

adds = st.tuples(
    st.just("add"),
    st.sampled_from(ADAPTERS),
    st.integers(1, 120),
    st.integers(1, 40),
    st.integers(0, 12),
    st.sampled_from("xyz"),
    st.sampled_from(CLASSES),
)
others = st.one_of(
    st.tuples(st.sampled_from(["stop", "abort"]), st.integers(0, 30)),
    st.tuples(st.just("step"), st.integers(1, 12)),
    st.tuples(st.just("probe"), st.sampled_from(ADAPTERS[2:])),
)


class Life:
    """An engine, what was asked of it, and what it said."""

    def __init__(self, directory: Path) -> None:
        self.engine: Engine = make_reading_engine(directory, num_blocks=14, num_slots=2, max_rows=4, context_length=200)
        self.asked: dict[str, tuple[Generate | Probe, Resume]] = {}
        self.records = Records()
        self.aborted: set[str] = set()

    def do(self, name: str, *values: object) -> None:
        getattr(self, name)(*values)

    def add(
        self, digest: str, length: int, max_tokens: int, resumed: int, tenant: str, queue_class: QueueClass
    ) -> None:
        id = f"{len(self.asked)}"
        adapter = AdapterRef(digest) if digest else None
        sampling = Sampling(max_tokens=max_tokens, stop=("ab",))
        request = Generate(id, adapter=adapter, prompt=(id + "-") * length, sampling=sampling, tenant=tenant)
        resume = Resume(tuple(self.expected(request)[:resumed]))
        self.asked[id] = request, resume
        self.engine.add(request, resume if resume.token_ids else None, queue_class)

    def probe(self, digest: str) -> None:
        id = f"{len(self.asked)}"
        self.asked[id] = Probe(id, AdapterRef(digest)), Resume()
        self.engine.add(self.asked[id][0])

    def step(self, count: int) -> None:
        for _ in range(count):
            self.records.take(self.engine.step())
            for sequence in self.engine.scheduler.running + self.engine.scheduler.waiting:
                sequence.check()

    def stop(self, number: int) -> None:
        self.engine.stop(f"{number}")

    def abort(self, number: int) -> None:
        if f"{number}" in self.asked and not self.has_ended(f"{number}"):
            self.aborted.add(f"{number}")
        self.engine.abort(f"{number}")

    def has_ended(self, id: str) -> bool:
        return id in self.records and bool(self.records[id].ends)

    def expected(self, request: Generate) -> list[int]:
        assert request.prompt is not None
        prompt = self.engine.machine.tokenizer.encode(request.prompt)
        digest = request.adapter.digest if request.adapter else ""
        limit = min(request.sampling.max_tokens, max(0, self.engine.machine.context_length - len(prompt)))
        return expected_answer(prompt, digest, limit)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.one_of(adds, adds, others), min_size=4, max_size=40))
def test_any_life_leaves_blocks_slots_and_counts_as_they_were(operations: list[tuple[object, ...]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        life = Life(Path(directory))
        for name, *values in operations:
            life.do(str(name), *values)
        drain(life.engine, life.records)
        assert_nothing_held(life.engine)
        life.engine.close()
    for id, (request, resume) in life.asked.items():
        record = life.records.get(id)
        assert (record is not None and len(record.ends) == 1) == (id not in life.aborted)
        if record is None or not record.ends:
            continue
        if isinstance(request, Generate):
            whole = life.expected(request)
            assert [*resume.token_ids, *record.token_ids] == whole[: len(resume.token_ids) + len(record.token_ids)]
        digest = request.adapter.digest if request.adapter else ""
        assert not record.token_ids or digest != "missing"
        if isinstance(record.end, Failed):
            assert record.end.code in ("adapter_not_found", "prompt_too_long")
