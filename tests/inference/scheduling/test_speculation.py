from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.engine.engine import Engine
from inference.scheduling.kv_cache import BlockPool
from inference.scheduling.plan import Plan, Work
from inference.scheduling.sequence import Sequence, State
from inference.scheduling.speculation import LONGEST_DRAFT, ROWS, PromptLookup, Speculation
from inference.wire.contract import Resume
from inference.wire.protocol import Generate, Sampling
from tests.inference.engines import (
    EOS,
    ReadingDecoder,
    Record,
    assert_nothing_held,
    drain,
    expected_answer,
    make_reading_engine,
)

HABIT = 2
MakeEngine = Callable[..., Engine]


def test_what_followed_the_newest_tokens_before_is_drafted() -> None:
    assert PromptLookup().draft([1, 2, 3, 4, 5, 6, 7, 1, 2, 3], [], most=9) == (4, 5, 6, 7)
    assert PromptLookup().draft([1, 2, 3, 4, 5, 6], [1, 2, 3], most=1) == (4,)


def test_the_last_time_counts_and_more_tokens_count_more() -> None:
    assert PromptLookup().draft([1, 2, 7, 8, 1, 2, 9, 9, 1, 2], [], most=2) == (9, 9)
    assert PromptLookup().draft([3, 1, 2, 7, 7, 4, 1, 2, 9, 9, 3, 1, 2], [], most=2) == (7, 7)


def test_new_tokens_are_followed_by_no_draft() -> None:
    assert PromptLookup().draft([1, 2, 3, 4], [5], most=9) == ()
    assert PromptLookup().draft([1], [], most=9) == ()


def test_a_loop_is_drafted_on_and_on() -> None:
    lookup = PromptLookup()
    for _ in range(4):
        lookup.settle(LONGEST_DRAFT, LONGEST_DRAFT)
    assert lookup.draft([9, 9, 1, 2, 3, 1, 2, 3], [], most=7) == (1, 2, 3, 1, 2, 3, 1)


def test_an_answer_that_grows_is_read_on() -> None:
    lookup = PromptLookup()
    assert lookup.draft([1, 2, 3], [4], most=2) == ()
    assert lookup.draft([1, 2, 3], [4, 8, 3, 4], most=2) == (8, 3)


def drafts(lookup: PromptLookup, is_right: bool, times: int) -> list[int]:
    lengths = []
    for _ in range(times):
        draft = lookup.draft([1, 2, 3] * 10, [], most=100)
        lengths.append(len(draft))
        if draft:
            lookup.settle(len(draft), len(draft) if is_right else 0)
    return lengths


def test_success_makes_drafts_longer_and_failure_makes_them_rare() -> None:
    lookup = PromptLookup()
    assert drafts(lookup, True, 5) == [4, 8, 15, 15, 15]
    assert drafts(lookup, False, 4) == [15, 7, 3, 1]
    assert drafts(lookup, False, 12) == [0, 1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0]
    assert sum(drafts(lookup, False, 900)) == 100
    lookup.stop()
    assert sum(drafts(lookup, False, 100)) == 0


def test_half_a_success_drafts_as_much_as_was_right_and_one_more() -> None:
    lookup = PromptLookup()
    lookup.settle(8, 3)
    assert len(lookup.draft([1, 2, 3] * 10, [], most=100)) == 4


def rows(count: int, pool: BlockPool, replayed: int = 1) -> Plan:
    works = []
    for n in range(count):
        ids = (1, 2, 3, 4) * 5
        sequence = Sequence(f"{n}", ids, 50, output_ids=[1] * replayed, state=State.RUNNING, num_computed=20)
        sequence.block_table = pool.allocate(pool.blocks_for(20 + replayed))
        works.append(Work(sequence, 20, replayed, is_sampled=True))
    return Plan(tuple(works))


def test_a_full_batch_does_not_guess_and_others_share_the_rows_that_are_left() -> None:
    for count in (1, 8, 12, 16, 20, 23, 24, 40):
        pool = BlockPool(100, 32)
        plan = Speculation(pool).extend(rows(count, pool))
        lengths = [len(work.draft) for work in plan.decodes]
        assert sum(lengths) + count <= max(ROWS, count)
        assert max(lengths) - min(lengths) <= 1
        assert (max(lengths) > 0) == (count < ROWS)


def test_a_draft_takes_blocks_that_nobody_misses_and_no_others() -> None:
    pool = BlockPool(4, 7)
    (work,) = Speculation(pool).extend(rows(1, pool)).decodes
    assert (len(work.draft), len(work.sequence.block_table), pool.num_free) == (0, 3, 1)
    pool = BlockPool(5, 7)
    (work,) = Speculation(pool).extend(rows(1, pool)).decodes
    assert (len(work.draft), len(work.sequence.block_table), pool.num_free) == (4, 4, 1)


def test_a_draft_ends_before_the_answer_s_last_token() -> None:
    pool = BlockPool(10, 32)
    plan = rows(1, pool)
    plan.decodes[0].sequence.max_tokens = 2
    assert Speculation(pool).extend(plan).decodes[0].draft == ()
    plan.decodes[0].sequence.max_tokens = 3
    assert len(Speculation(pool).extend(plan).decodes[0].draft) == 1


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeEngine]:
    engines: list[Engine] = []

    def make_engine(**changes: Any) -> Engine:
        engines.append(make_reading_engine(tmp_path, **{"num_blocks": 64, "habit": HABIT, **changes}))
        return engines[-1]

    yield make_engine
    for engine in engines:
        assert_nothing_held(engine)
        engine.close()


def decoder(engine: Engine) -> ReadingDecoder:
    assert isinstance(engine.machine.runner.decoder, ReadingDecoder)
    return engine.machine.runner.decoder


def ask(id: str, prompt: str = "abc", **sampling: Any) -> Generate:
    return Generate(id, prompt=prompt, sampling=Sampling(**{"max_tokens": 100, "ignore_eos": True, **sampling}))


def answer(engine: Engine, request: Generate, resume: Resume | None = None) -> Record:
    engine.add(request, resume)
    return drain(engine)[request.id]


def test_an_answer_that_repeats_itself_takes_fewer_passes(make: MakeEngine) -> None:
    engine, plain = make(), make(speculation=False)
    record = answer(engine, ask("a", ignore_eos=False, min_tokens=0))
    assert record.token_ids == expected_answer(engine.machine.tokenizer.encode("abc"), "", 100, HABIT)
    records = [answer(asked, ask("b")) for asked in (engine, plain)]
    assert records[0].token_ids == records[1].token_ids
    assert len(records[0].token_ids) == 100
    load = engine.load
    assert 0 < load.accepted_tokens < load.drafted_tokens
    assert len(decoder(engine).num_rows) < 0.9 * len(decoder(plain).num_rows)
    assert plain.load.drafted_tokens == 0


def test_every_drafted_token_is_computed_once_and_no_other_again(make: MakeEngine) -> None:
    engine = make(prefix_cache=False)
    answer(engine, ask("a", "ab" * 20))
    load = engine.load
    num_passes = 99 - load.accepted_tokens
    assert len(decoder(engine).num_rows) == 1 + num_passes
    assert sum(decoder(engine).num_rows) == 40 + num_passes + load.drafted_tokens


def test_a_row_behind_a_draft_is_chosen_as_if_the_draft_had_been_said(make: MakeEngine) -> None:
    engine = make()
    engine.add(ask("a", min_tokens=5, seed=3))
    while len(engine._answers["a"].sequence.output_ids) < 3:
        engine.step()
    samplings = engine._answers["a"].samplings((7, 8, 9))
    assert [row.index for row in samplings] == [3, 4, 5, 6]
    assert [row.draft for row in samplings] == [(), (7,), (7, 8), (7, 8, 9)]
    assert [row.barred for row in samplings] == [(EOS,), (EOS,), (), ()]
    drain(engine)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 0.7, "seed": 4},
        {"temperature": 1.5, "seed": 4, "top_k": 5},
        {"temperature": 0.9, "seed": 4, "top_p": 0.7, "min_p": 0.01},
        {"temperature": 0.9, "seed": 4, "typical_p": 0.7},
        {"repetition_penalty": 1.3},
        {"presence_penalty": 0.5, "frequency_penalty": 0.1},
        {"temperature": 0.5, "seed": 1, "frequency_penalty": 0.02, "repetition_penalty": 1.01},
        {"logprobs": 3},
        {"ignore_eos": False, "min_tokens": 30},
        {"ignore_eos": False, "min_tokens": 31, "temperature": 0.6, "seed": 7},
        {"stop": ("aa", "ba", "cab"), "min_tokens": 9},
        {"max_tokens": 1},
        {"max_tokens": 2},
    ],
)
def test_guesses_change_no_token_whatever_is_asked(make: MakeEngine, sampling: dict[str, Any]) -> None:
    engine, plain = make(), make(speculation=False)
    for n in range(6):
        guessed, expected = (answer(asked, ask("it", "abc" * n + "d", **sampling)) for asked in (engine, plain))
        assert guessed.token_ids == expected.token_ids
        assert guessed.text == expected.text
        assert guessed.logprobs == expected.logprobs
        assert guessed.finished.reason == expected.finished.reason
        assert guessed.finished.stats.completion_tokens == len(guessed.token_ids)
    if sampling.get("max_tokens", 9) > 2:
        assert engine.load.drafted_tokens > 0


@pytest.mark.parametrize("seen", range(0, 100, 7))
def test_a_takeover_goes_on_guessing(make: MakeEngine, seen: int) -> None:
    whole = answer(make(speculation=False), ask("it"))
    rest = answer(make(), ask("it"), Resume(tuple(whole.token_ids[:seen]), whole.num_chars[seen - 1] if seen else 0))
    assert whole.token_ids[:seen] + rest.token_ids == whole.token_ids


def test_a_guess_that_cannot_be_computed_harms_nobody(make: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a drafted token leaves behind when it overflows must not reach the tokens that take its place."""
    engine, plain = make(), make(speculation=False)
    expected = answer(plain, ask("it"))
    forward, spoiled = decoder(engine).forward, []

    def overflow(batch: Any, *others: Any) -> torch.Tensor:
        logits = forward(batch, *others)
        told = expected.token_ids
        for index, row in enumerate(batch.sample_rows.tolist()):
            place = int(batch.positions[row]) - 3
            if place >= 0 and int(batch.token_ids[row]) != told[place]:
                logits[index] = float("nan")
                spoiled.append(row)
        return logits

    monkeypatch.setattr(decoder(engine), "forward", overflow)
    restarts = []
    preempt = engine.scheduler.preempt
    monkeypatch.setattr(engine.scheduler, "preempt", lambda it: (restarts.append(it.id), preempt(it)))
    assert answer(engine, ask("it")).token_ids == expected.token_ids
    assert spoiled
    assert restarts == ["it"]
