"""The interrupt of a pass: when it is heeded, and that nothing shows of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import Tensor

from inference.decoders.batch import Batch
from inference.decoders.contract import Decoder
from inference.decoders.interrupt import WHOLE_PASSES, Interrupt, Interrupted
from inference.decoders.kv_tensors import KVCache
from inference.engine.engine import Engine
from inference.wire.protocol import Generate, Sampling
from tests.inference.engines import Records, assert_nothing_held, drain, expected_answer, make_reading_engine


def ask(id: str, tenant: str = "busy", max_tokens: int = 20) -> Generate:
    return Generate(id, prompt=f"tell me of {id}", sampling=Sampling(max_tokens=max_tokens), tenant=tenant)


def expect(engine: Engine, request: Generate) -> list[int]:
    assert request.prompt is not None
    return expected_answer(engine.machine.tokenizer.encode(request.prompt), "", request.sampling.max_tokens)


class Interruptible(Decoder):
    """The engine's decoder, but that it heeds its interrupt as the native one does, and requests come in the middle."""

    def __init__(self, engine: Engine) -> None:
        self.decoder = engine.machine.runner.decoder
        super().__init__(self.decoder.bank)
        self.interrupt = self.decoder.interrupt
        self.num_interrupted = 0
        self.requests = 0

    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        logits = self.decoder.forward(batch, cache)
        for _ in range(self.requests):
            self.interrupt.request()
        if self.interrupt.is_due:
            self.num_interrupted += 1
            raise Interrupted
        return logits


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = make_reading_engine(tmp_path)
    engine.machine.runner.decoder = Interruptible(engine)
    yield engine
    engine.close()


def test_an_interrupt_is_due_where_it_is_allowed_and_was_requested_since_it_was_acknowledged():
    interrupt = Interrupt()
    interrupt.request()
    interrupt.acknowledge()
    interrupt.begin(is_allowed=True)
    assert not interrupt.is_due
    interrupt.request()
    assert interrupt.is_due
    interrupt.begin(is_allowed=False)
    assert not interrupt.is_due


def test_after_a_pass_was_interrupted_some_are_whole():
    interrupt, whole = Interrupt(), 0
    interrupt.begin(is_allowed=True)
    interrupt.abandon()
    interrupt.request()
    while interrupt.begin(is_allowed=True) or not interrupt.is_due:
        whole += 1
    assert whole == WHOLE_PASSES


def test_answers_are_the_same_however_often_passes_are_interrupted(engine: Engine):
    engine.machine.runner.decoder.requests = 1
    requests = [ask(str(number)) for number in range(6)]
    for request in requests:
        engine.add(request)
    records = drain(engine)
    assert [records[request.id].token_ids for request in requests] == [expect(engine, request) for request in requests]
    assert engine.machine.runner.decoder.num_interrupted > 1
    assert_nothing_held(engine)


def test_a_newcomer_s_prompt_has_the_pass_after_the_one_that_was_interrupted(engine: Engine):
    decoder, records = engine.machine.runner.decoder, Records()
    for number in range(8):
        engine.add(ask(str(number), max_tokens=50))
    for _ in range(4):
        records.take(engine.step())
    decoder.requests = 1
    assert engine.step() == []
    decoder.requests = 0
    engine.add(ask("new", tenant="newcomer"))
    assert {event.id for event in engine.step()} == {"new"}


def test_the_pass_of_newcomers_is_not_interrupted(engine: Engine):
    decoder = engine.machine.runner.decoder
    engine.add(ask("busy", max_tokens=50))
    engine.step()
    engine.add(ask("new", tenant="newcomer"))
    decoder.requests = 1
    assert {event.id for event in engine.step()} == {"new"}
