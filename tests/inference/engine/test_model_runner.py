from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from inference.decoders.batch import Batch, Segment
from inference.decoders.contract import Decoder
from inference.decoders.kv_tensors import KVCache
from inference.decoders.torch.lora import LoraBank
from inference.engine.engine import Engine
from inference.engine.model_runner import ModelRunner, OutOfMemory, _weighed
from inference.engine.sampler import RowSampling, SampledToken
from inference.scheduling.plan import Plan, Work
from inference.scheduling.sequence import Sequence
from inference.wire.protocol import Sampling
from tests.inference.engines import VOCAB, ReadingDecoder, make_reading_engine


class Listener(Decoder):
    """A decoder that keeps the batch it is given."""

    def forward(self, batch: Batch, cache: KVCache) -> torch.Tensor:
        self.batch = batch
        return torch.zeros(len(batch.sample_rows), VOCAB)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = make_reading_engine(tmp_path, num_blocks=8, block_size=16, context_length=128)
    yield engine
    engine.close()


@pytest.fixture
def runner(engine: Engine) -> ModelRunner:
    engine.machine.runner.decoder = Listener(LoraBank())
    return engine.machine.runner


def heard(runner: ModelRunner) -> Batch:
    assert isinstance(runner.decoder, Listener)
    return runner.decoder.batch


def test_rows_say_what_they_are_and_where_they_go(runner: ModelRunner) -> None:
    answering = Sequence("a", (10, 11), 9, output_ids=[12], block_table=(5,), slot=1)
    reading = Sequence("b", tuple(range(40)), 9, block_table=(3, 7, 0))
    runner.forward(Plan((Work(answering, 2, 1, True),), (Work(reading, 0, 32, False), Work(reading, 32, 8, True))))
    batch = heard(runner)
    assert batch.token_ids.tolist() == [12, *range(40)]
    assert batch.positions.tolist() == [2, *range(40)]
    assert batch.cache_slots.tolist() == [82, *range(48, 64), *range(112, 128), *range(8)]
    assert batch.adapter_slots.tolist() == [1] + [-1] * 40
    assert batch.decodes == (Segment(0, 1, (5,), 3),)
    assert batch.tiles == (Segment(1, 32, (3, 7, 0), 32), Segment(33, 8, (3, 7, 0), 40))
    assert batch.sample_rows.tolist() == [0, 40]


def test_replayed_tokens_are_segments_of_one_row(runner: ModelRunner) -> None:
    sequence = Sequence("a", (10, 11), 9, output_ids=[12, 13, 14], block_table=(5,))
    runner.forward(Plan((Work(sequence, 2, 3, True),)))
    assert heard(runner).decodes == tuple(Segment(row, 1, (5,), row + 3) for row in range(3))
    assert heard(runner).sample_rows.tolist() == [2]


def test_a_probe_brings_the_base_along_in_blocks_of_its_own(engine: Engine, runner: ModelRunner) -> None:
    probe = Sequence("p", runner.canary_ids, 1, "A", is_probe=True, block_table=(0,), slot=1)
    outcome = runner.run(Plan(tiles=(Work(probe, 0, probe.num_prompt, True),)), {})
    base = heard(runner).tiles[-1]
    assert min(base.block_table) >= engine.scheduler.pool.num_blocks
    assert heard(runner).adapter_slots.tolist() == [1] * probe.num_prompt + [-1] * probe.num_prompt
    assert outcome.logit_deltas == {"p": 0.0}
    assert not outcome.tokens


def test_where_rows_are_uniform_the_base_is_asked_once_and_a_program_for_less(runner: ModelRunner) -> None:
    assert runner.proof_ids(is_awaited=True) == runner.canary_ids
    runner.decoder.rows_are_uniform = True
    short, rows = runner.proof_ids(is_awaited=True), []
    assert (len(short), runner.proof_ids(is_awaited=False)) == (2, runner.canary_ids)
    for ids in (short, short, runner.canary_ids, short):
        probe = Sequence("p", ids, 1, "A", is_probe=True, block_table=(0,), slot=1)
        assert runner.run(Plan(tiles=(Work(probe, 0, len(ids), True),)), {}).logit_deltas == {"p": 0.0}
        rows.append(len(heard(runner).token_ids))
    assert rows == [4, 2, 2 * len(runner.canary_ids), 2]


def test_proofs_of_two_lengths_share_a_pass(runner: ModelRunner) -> None:
    runner.decoder.rows_are_uniform = True
    lengths = (2, len(runner.canary_ids))
    probes = [
        Sequence(f"{length}", runner.canary_ids[:length], 1, "A", is_probe=True, block_table=(length % 2,), slot=1)
        for length in lengths
    ]
    runner.run(Plan(tiles=tuple(Work(probe, 0, probe.num_prompt, True) for probe in probes)), {})
    asked = heard(runner)
    base = asked.tiles[-1].start
    assert asked.sample_rows.tolist()[-2:] == [base + 1, base + lengths[1] - 1]


def test_a_pass_that_does_not_fit_is_told_apart_from_a_defect(engine: Engine) -> None:
    runner, sequence = engine.machine.runner, Sequence("a", (10, 11), 9, block_table=(5,))
    plan = Plan(tiles=(Work(sequence, 0, 2, True),))
    samplings = {"a": [RowSampling(sampling=Sampling(), seed=0, prompt_ids=(10, 11), output_ids=())]}
    decoder = runner.decoder
    assert isinstance(decoder, ReadingDecoder)
    for failure in (MemoryError(), torch.OutOfMemoryError(), RuntimeError("can't allocate memory")):
        decoder.failure = failure
        with pytest.raises(OutOfMemory):
            runner.run(plan, samplings)
    decoder.failure = RuntimeError("a defect")
    with pytest.raises(RuntimeError, match="a defect"):
        runner.run(plan, samplings)
    assert set(runner.run(plan, samplings).tokens) == {"a"}


def test_only_what_is_a_number_is_told_of_a_gate() -> None:
    """A gate's bias may be so large that the sum over layers is infinite, which no store of JSON keeps."""
    coefficients = torch.tensor([[0.25, 0.75], [torch.inf, 0.5], [0.5, -torch.inf], [torch.nan, torch.nan]])
    told = _weighed([SampledToken(id) for id in range(4)], coefficients, range(4))
    assert [token.weights for token in told] == [(0.25, 0.75), (), (), ()]
