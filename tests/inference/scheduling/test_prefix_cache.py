from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from inference.engine.engine import Engine
from inference.scheduling.kv_cache import BlockPool
from inference.scheduling.prefix_cache import NOTES_PER_BLOCK, PrefixCache
from inference.scheduling.sequence import Sequence, State
from inference.wire.protocol import AdapterRef, Generate, Sampling
from tests.inference.engines import (
    ReadingDecoder,
    Record,
    assert_nothing_held,
    drain,
    expected_answer,
    make_reading_engine,
)

TEMPLATE = "Say in one word what this is about, and nothing else, please. "
"""Of nearly two tiles, so that another sentence behind it makes more than two."""

MakeEngine = Callable[..., Engine]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeEngine]:
    engines: list[Engine] = []

    def make_engine(**changes: Any) -> Engine:
        engines.append(make_reading_engine(tmp_path, **{"num_blocks": 64, **changes}))
        return engines[-1]

    yield make_engine
    for engine in engines:
        assert_nothing_held(engine)
        engine.close()


def tiles(engine: Engine) -> int:
    decoder = engine.machine.runner.decoder
    assert isinstance(decoder, ReadingDecoder)
    return decoder.num_tiles


def answer(engine: Engine, prompt: str, digest: str = "", max_tokens: int = 5) -> tuple[Record, int]:
    """The answer to `prompt`, checked, and how many tiles were computed for it."""
    before = tiles(engine)
    adapter = AdapterRef(digest) if digest else None
    sampling = Sampling(max_tokens=max_tokens, ignore_eos=True)
    engine.add(Generate("it", adapter=adapter, prompt=prompt, sampling=sampling))
    record = drain(engine)["it"]
    expected = expected_answer(engine.machine.tokenizer.encode(prompt), digest, max_tokens)
    assert record.token_ids[: len(expected)] == expected
    return record, tiles(engine) - before


def test_what_a_prompt_begins_with_is_computed_once(make: MakeEngine) -> None:
    engine = make()
    first, num_tiles = answer(engine, TEMPLATE + "The sea is wide and deep and blue.")
    assert (num_tiles, first.finished.stats.cached_tokens) == (3, 0)
    second, num_tiles = answer(engine, TEMPLATE + "!! A cat sat on the mat and looked at me.")
    assert (num_tiles, second.finished.stats.cached_tokens) == (3, 32)
    third, num_tiles = answer(engine, TEMPLATE + "The sea is wide and deep and red.")
    assert (num_tiles, third.finished.stats.cached_tokens) == (1, 64)


def test_switched_off_it_computes_everything(make: MakeEngine) -> None:
    engine = make(prefix_cache=False)
    for _ in range(2):
        record, num_tiles = answer(engine, TEMPLATE + "A cat.")
        assert (num_tiles, record.finished.stats.cached_tokens) == (3, 0)
    assert engine.load.cached_blocks == 0


def test_nothing_is_shared_between_adapters(make: MakeEngine) -> None:
    engine = make()
    for digest in ("", "A", "B"):
        record, num_tiles = answer(engine, TEMPLATE + "A cat sat on the mat.", digest)
        assert (num_tiles, record.finished.stats.cached_tokens) == (3, 0)
    assert answer(engine, TEMPLATE + "A cat sat on the mat.", "A")[1] == 1


def test_a_prompt_that_is_known_in_full_computes_its_last_tile(make: MakeEngine) -> None:
    engine = make()
    for length, known in ((64, 32), (65, 64)):
        answer(engine, "x" * length)
        record, num_tiles = answer(engine, "x" * length)
        assert (num_tiles, record.finished.stats.cached_tokens) == (1, known)


@pytest.mark.parametrize(("is_uniform", "known"), [(False, 32), (True, 96)])
def test_what_was_said_is_read_again_in_the_next_turn_unless_rows_are_uniform(
    make: MakeEngine, is_uniform: bool, known: int
) -> None:
    """It was computed in decode rows, and a prompt is computed in tiles."""
    engine, plain = make(rows_are_uniform=is_uniform), make(rows_are_uniform=is_uniform, prefix_cache=False)
    sampling = Sampling(max_tokens=60, ignore_eos=True)
    prompt_ids = engine.machine.tokenizer.encode("x" * 40)
    for cached_tokens in (0, known):
        records = []
        for asked in (engine, plain):
            asked.machine.tokenizer.encode = lambda text, ids=prompt_ids: ids  # type: ignore[method-assign]
            asked.add(Generate("it", prompt="what was said", sampling=sampling))
            records.append(drain(asked)["it"])
        assert records[0].token_ids == records[1].token_ids
        assert records[0].finished.stats.cached_tokens == cached_tokens
        prompt_ids = [*prompt_ids, *records[0].token_ids, 2, 3]


@pytest.mark.parametrize(("block_size", "known"), [(8, 96), (16, 96), (24, 96), (32, 96), (40, 0), (48, 96), (64, 64)])
def test_reading_goes_on_where_a_tile_and_a_block_begin(make: MakeEngine, block_size: int, known: int) -> None:
    engine = make(block_size=block_size)
    answer(engine, "y" * 120)
    assert answer(engine, "y" * 120)[0].finished.stats.cached_tokens == known


def test_those_who_come_together_compute_their_beginning_once(make: MakeEngine) -> None:
    engine = make(prefill_tokens=32)
    for n in range(4):
        prompt = TEMPLATE + f"..., number {n}"
        engine.add(Generate(f"{n}", prompt=prompt, sampling=Sampling(max_tokens=3, ignore_eos=True)))
    records = drain(engine)
    assert [records[f"{n}"].finished.stats.cached_tokens for n in range(4)] == [0, 64, 64, 64]
    assert tiles(engine) == 3 + 1 + 1 + 1


def test_known_blocks_make_way_for_new_ones(make: MakeEngine) -> None:
    engine = make(num_blocks=16)
    for n in range(12):
        assert answer(engine, f"{n % 3}" * 200)[1] == 7
    assert engine.load.free_blocks == 16


def test_all_blocks_can_be_forgotten(make: MakeEngine) -> None:
    engine = make()
    answer(engine, TEMPLATE + "A cat.")
    assert engine.load.cached_blocks == 4
    engine.scheduler.pool.forget()
    assert engine.load.cached_blocks == 0
    assert answer(engine, TEMPLATE + "A cat.")[1] == 3


def test_an_aborted_prompt_leaves_what_was_computed_of_it(make: MakeEngine) -> None:
    engine = make(prefill_tokens=32)
    engine.add(Generate("a", prompt="z" * 100))
    engine.step()
    engine.step()
    engine.abort("a")
    assert answer(engine, "z" * 100)[1] == 2


def both_ways(make: MakeEngine, prompts: list[str], known: str = "known", **changes: Any) -> dict[str, Record]:
    """What an engine with uniform rows answers to `prompts`, which come together once `known` is answered: the same as
    without a cache."""
    engines = [make(rows_are_uniform=True, prefix_cache=is_on, **changes) for is_on in (True, False)]
    answers = []
    for engine in engines:
        engine.add(Generate("known", prompt=known, sampling=Sampling(max_tokens=3, ignore_eos=True)))
        drain(engine)
        for n, prompt in enumerate(prompts):
            engine.add(Generate(f"{n}", prompt=prompt, sampling=Sampling(max_tokens=3, ignore_eos=True)))
        answers.append(drain(engine))
    found, plain = answers
    assert {id: record.token_ids for id, record in found.items()} == {
        id: record.token_ids for id, record in plain.items()
    }
    return found


def test_uniform_rows_let_a_beginning_be_found_to_the_token(make: MakeEngine) -> None:
    for ending, known in (("The sky is wide and grey.", 67), ("The sky.", 67), ("A cat.", 62), ("The sea is wi", 74)):
        found = both_ways(make, [TEMPLATE + ending], known=TEMPLATE + "The sea is wide and deep and blue.")
        assert found["0"].finished.stats.cached_tokens == known


def ask(engine: Engine, tenant: str, prompt: str) -> tuple[int, int]:
    """How many tokens of `prompt` the `tenant` is told were known, and how many need not be computed."""
    engine.add(Generate("it", prompt=prompt, tenant=tenant, sampling=Sampling(max_tokens=2, ignore_eos=True)))
    plan = engine.scheduler.schedule()
    [sequence] = engine.scheduler.running
    start = min(work.start for work in plan.works)
    engine.scheduler.preempt(sequence)
    return drain(engine)["it"].finished.stats.cached_tokens, start


def test_what_another_tenant_wrote_is_found_by_whole_blocks_only_and_not_told(make: MakeEngine) -> None:
    engine = make(rows_are_uniform=True)
    for tenant, prompt, told, known in (("a", "Wide", 0, 0), ("b", "Mild", 0, 48), ("a", "Tame", 62, 62)):
        assert ask(engine, tenant, f"{TEMPLATE}{prompt} and deep and blue") == (told, known)


SECRET = TEMPLATE + "My number is 4711, and yours? Please keep it for yourself, will you?"
GUESSES = (
    SECRET,
    SECRET.replace("4711", "4712"),
    SECRET[:80],
    SECRET[:64] + "x" * 40,
    "Nobody has ever written this." * 3,
)


@pytest.mark.parametrize("is_uniform", [False, True])
@pytest.mark.parametrize("block_size", [8, 16, 24])
def test_the_count_of_known_tokens_tells_nothing_of_others(make: MakeEngine, is_uniform: bool, block_size: int) -> None:
    """Three worlds: a victim asks again and again, asks something else, or never does. The attacker sends right and
    wrong guesses, each twice, gives longer ones up before their first token, and is told the same in all."""
    told: dict[str, list[int]] = {}
    for said in (SECRET, SECRET[::-1], ""):
        engine = make(rows_are_uniform=is_uniform, block_size=block_size, num_blocks=96, prefill_tokens=32)
        told[said] = []
        for guess in GUESSES * 2:
            if said:
                ask(engine, "victim", said)
            engine.add(Generate("given up", prompt=guess + "z" * 100, tenant="attacker"))
            engine.step()
            engine.abort("given up")
            told[said].append(ask(engine, "attacker", guess)[0])
    assert told[SECRET] == told[SECRET[::-1]] == told[""]
    assert max(told[SECRET]) >= 32


def test_a_tenants_notes_end_with_the_block(make: MakeEngine) -> None:
    """What was evicted, and computed again by another, is not told: it would tell that the other asked the same."""
    engine = make(num_blocks=16)
    assert ask(engine, "attacker", "s" * 70) == (0, 0)
    assert ask(engine, "attacker", "s" * 70) == (64, 64)
    ask(engine, "attacker", "t" * 250)
    assert ask(engine, "victim", "s" * 70) == (0, 0)
    assert ask(engine, "attacker", "s" * 70) == (0, 64)


def test_the_notes_of_many_tenants_are_bounded(make: MakeEngine) -> None:
    engine = make()
    for number in range(200):
        ask(engine, f"session:{number}", TEMPLATE + "A cat.")
    assert len(engine.scheduler.prefixes._notes) == NOTES_PER_BLOCK * 64
    assert ask(engine, "session:199", TEMPLATE + "A cat.") == (64, 64)


def test_tenants_may_have_caches_of_their_own(make: MakeEngine) -> None:
    engine = make(is_shared=False)
    for tenant, known in (("a", 0), ("b", 0), ("a", 64)):
        assert ask(engine, tenant, TEMPLATE + "A cat.") == (known, known)


def test_an_answer_that_is_computed_anew_does_not_count_its_own_beginning(make: MakeEngine) -> None:
    engine = make()
    engine.add(Generate("it", prompt=TEMPLATE + "A cat.", sampling=Sampling(max_tokens=9, ignore_eos=True)))
    for _ in range(5):
        engine.step()
    [sequence] = engine.scheduler.running
    engine.scheduler.preempt(sequence)
    assert drain(engine)["it"].finished.stats.cached_tokens == 0


def test_a_copied_block_may_be_taken_by_the_next_who_starts(make: MakeEngine) -> None:
    """The block that is copied is one that nobody uses, and all start in one pass."""
    prompts = ["a" * 40 + "b" * 20, "c" * 60, "d" * 20]
    found = both_ways(make, prompts, known="a" * 70, num_blocks=12, context_length=128)
    assert found["0"].finished.stats.cached_tokens == 40


def test_who_must_begin_anew_finds_its_beginning_again(make: MakeEngine) -> None:
    prompt = "a" * 40 + "b" * 50
    expected = both_ways(make, [prompt])["0"].token_ids
    engine = make(rows_are_uniform=True, prefill_tokens=32)
    engine.add(Generate("known", prompt="a" * 60, sampling=Sampling(max_tokens=2, ignore_eos=True)))
    drain(engine)
    engine.add(Generate("it", prompt=prompt, sampling=Sampling(max_tokens=3, ignore_eos=True)))
    engine.step()
    [sequence] = engine.scheduler.running
    assert sequence.num_computed == 40 + 32
    engine.scheduler.preempt(sequence)
    assert drain(engine)["it"].token_ids == expected


def test_uniform_rows_let_an_answer_be_found_too() -> None:
    for is_uniform, known in ((False, 32), (True, 96)):
        pool = BlockPool(16, 16)
        cache = PrefixCache(pool, 32, rows_are_uniform=is_uniform)
        first = Sequence("a", tuple(range(40)), 100, output_ids=list(range(40, 100)))
        cache.allocate(first)
        first.state, first.num_computed = State.RUNNING, 99
        cache.free(first)
        second = Sequence("b", tuple(range(140)), 100)
        cache.allocate(second)
        assert second.num_computed == known
        assert second.block_table[: known // 16] == cache.find(second)


@pytest.mark.parametrize(("changes", "num_tiles"), [({}, 6), ({"is_shared": False}, 12), ({"prefix_cache": False}, 12)])
def test_those_that_come_at_once_and_begin_alike_read_their_beginning_once(
    make: MakeEngine, changes: dict[str, Any], num_tiles: int
) -> None:
    """Two tiles for all, and one for each; where nothing is shared between tenants each reads its own."""
    engine = make(**changes)
    prompts = {f"{n}": "x" * 64 + f"{n}" * 10 for n in range(4)}
    for id, prompt in prompts.items():
        engine.add(Generate(id, prompt=prompt, sampling=Sampling(max_tokens=3, ignore_eos=True), tenant=id))
    records = drain(engine)
    for id, prompt in prompts.items():
        expected = expected_answer(engine.machine.tokenizer.encode(prompt), "", 3)
        assert records[id].token_ids[: len(expected)] == expected
    assert tiles(engine) == num_tiles


@pytest.mark.parametrize("is_uniform", [False, True])
@pytest.mark.parametrize("length", [48, 50, 64, 80, 96])
def test_nobody_waits_for_what_it_would_not_find(make: MakeEngine, length: int, is_uniform: bool) -> None:
    """Not for the block of its newest token, nor for half a tile: those who ask alike would be read one by one."""
    engine = make(prefill_tokens=1024, rows_are_uniform=is_uniform, num_blocks=128)
    for n in range(6):
        sampling = Sampling(max_tokens=1, ignore_eos=True)
        engine.add(Generate(f"{n}", prompt="x" * length, sampling=sampling, tenant=f"{n}"))
    drain(engine)
    decoder = engine.machine.runner.decoder
    assert isinstance(decoder, ReadingDecoder)
    assert len(decoder.num_rows) <= 2, "the first reads what all begin with, then each the rest"
