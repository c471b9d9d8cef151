"""The bell that breaks a pass off: when it is heeded, and that nothing shows of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import Tensor

from inference.decoders.batch import Batch
from inference.decoders.bell import WHOLE_PASSES, Bell, BrokenOff
from inference.decoders.contract import Decoder
from inference.decoders.kv_tensors import KVCache
from inference.engine.engine import Engine
from inference.wire.protocol import Generate, Sampling
from tests.inference.engines import Records, assert_nothing_held, drain, expected_answer, make_reading_engine


def ask(id: str, tenant: str = "busy", max_tokens: int = 20) -> Generate:
    return Generate(id, prompt=f"tell me of {id}", sampling=Sampling(max_tokens=max_tokens), tenant=tenant)


def expect(engine: Engine, request: Generate) -> list[int]:
    assert request.prompt is not None
    return expected_answer(engine.machine.tokenizer.encode(request.prompt), "", request.sampling.max_tokens)


class Listening(Decoder):
    """The engine's decoder, but that it heeds the bell as the native one does, and can be rung in the middle."""

    def __init__(self, engine: Engine) -> None:
        self.decoder = engine.machine.runner.decoder
        self.bell = engine.bell
        self.num_broken_off = 0
        self.rings = 0

    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        logits = self.decoder.forward(batch, cache)
        for _ in range(self.rings):
            self.bell.ring()
        if self.bell.is_rung:
            self.num_broken_off += 1
            raise BrokenOff
        return logits


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = make_reading_engine(tmp_path)
    engine.machine.runner.decoder = Listening(engine)
    yield engine
    engine.close()


def test_an_open_bell_that_was_rung_since_it_was_heard_breaks_off():
    bell = Bell()
    bell.ring()
    bell.hear()
    bell.begin(may_break_off=True)
    assert not bell.is_rung
    bell.ring()
    assert bell.is_rung
    bell.begin(may_break_off=False)
    assert not bell.is_rung


def test_after_a_pass_was_broken_off_some_are_whole():
    bell, whole = Bell(), 0
    bell.begin(may_break_off=True)
    bell.break_off()
    bell.ring()
    while bell.begin(may_break_off=True) or not bell.is_rung:
        whole += 1
    assert whole == WHOLE_PASSES


def test_answers_are_the_same_however_often_passes_are_broken_off(engine: Engine):
    engine.machine.runner.decoder.rings = 1
    requests = [ask(str(number)) for number in range(6)]
    for request in requests:
        engine.add(request)
    records = drain(engine)
    assert [records[each.id].token_ids for each in requests] == [expect(engine, each) for each in requests]
    assert engine.machine.runner.decoder.num_broken_off > 1
    assert_nothing_held(engine)


def test_a_newcomer_s_prompt_has_the_pass_after_the_one_that_was_broken_off(engine: Engine):
    decoder, records = engine.machine.runner.decoder, Records()
    for number in range(8):
        engine.add(ask(str(number), max_tokens=50))
    for _ in range(4):
        records.take(engine.step())
    decoder.rings = 1
    assert engine.step() == []
    decoder.rings = 0
    engine.add(ask("new", tenant="newcomer"))
    assert {event.id for event in engine.step()} == {"new"}


def test_the_pass_of_newcomers_is_not_broken_off(engine: Engine):
    decoder = engine.machine.runner.decoder
    engine.add(ask("busy", max_tokens=50))
    engine.step()
    engine.add(ask("new", tenant="newcomer"))
    decoder.rings = 1
    assert {event.id for event in engine.step()} == {"new"}
