"""A row's tokens do not change, to the bit, with anything that happens around it. Random weights, bf16.

Sampling at a high temperature makes tokens depend on all logits, so that equal tokens mean equal arithmetic;
the log-probabilities are compared to the bit besides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inference.adapters.identity import blended_digest
from inference.decoders.native.build import missing_feature
from inference.engine.engine import Engine
from inference.wire.contract import Resume
from inference.wire.protocol import AdapterRef, Component, GateRef, Generate, Probe, Sampling
from tests.inference.conftest import make_adapter, make_model
from tests.inference.engines import VOCAB, Record, Records, assert_nothing_held, drain, make_config, make_tokenizer

pytestmark = pytest.mark.slow
is_native_here = pytest.mark.skipif(missing_feature() is not None, reason=f"not here: {missing_feature()}")

PROMPT = "a prompt of more than two tiles, so that chunks and tiles of it can be told apart: yes"
LENGTH = 40
KNOWN = {"torch": 64, "native": 70}
"""How much of a beginning of 70 tokens is known again: whole tiles, and all of it."""

MakeEngine = Callable[..., Engine]


@pytest.fixture(scope="module", params=["torch", pytest.param("native", marks=is_native_here)])
def decoder(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, decoder: str) -> Path:
    home = tmp_path_factory.mktemp(decoder)
    make_tokenizer(make_model(home / "tiny", vocab_size=VOCAB))
    (home / "adapters").mkdir()
    return home


@pytest.fixture(scope="module")
def digests(home: Path) -> list[str]:
    """Six adapters of several ranks and targets."""
    targets = [["q_proj", "v_proj"], ["gate_proj", "up_proj", "down_proj"], ["q_proj", "k_proj", "o_proj"]]
    return [
        make_adapter(home / "tiny", home / "adapters", seed=n, r=(4, 8, 16)[n % 3], target_modules=targets[n // 2])
        for n in range(6)
    ]


@pytest.fixture
def make(home: Path, decoder: str) -> Iterator[MakeEngine]:
    engines: list[Engine] = []

    def make_engine(**changes: Any) -> Engine:
        engines.append(Engine(make_config(home / "tiny", home / "adapters", **{"decoder": decoder, **changes})))
        return engines[-1]

    yield make_engine
    for engine in engines:
        assert_nothing_held(engine)
        engine.close()


def ask(id: str, digest: str = "", prompt: str = PROMPT, **sampling: Any) -> Generate:
    settings = {"max_tokens": LENGTH, "temperature": 1.5, "seed": 11, "ignore_eos": True, "logprobs": 3, **sampling}
    return Generate(id, adapter=AdapterRef(digest) if digest else None, prompt=prompt, sampling=Sampling(**settings))


def alone(engine: Engine, digest: str, **sampling: Any) -> Record:
    engine.add(ask("alone", digest, **sampling))
    return drain(engine)["alone"]


def same(one: Record, other: Record) -> bool:
    return (one.token_ids, one.logprobs, one.text) == (other.token_ids, other.logprobs, other.text)


def test_the_engine_says_so_itself(make: MakeEngine) -> None:
    assert make().load.self_check == "exact"


def test_engines_that_are_not_exact_say_so_and_have_no_fingerprint_in_common(
    make: MakeEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    exact = {make().fingerprint, make().fingerprint}
    broken = "decode rows differ by up to 3e-05 in a batch"
    monkeypatch.setattr("inference.engine.machine.self_check", lambda *_: broken)
    inexact = [make(), make()]
    assert len(exact) == 1
    assert len(exact | {engine.fingerprint for engine in inexact}) == 3
    assert [engine.load.self_check for engine in inexact] == [broken] * 2
    assert f"NOT EXACT: {broken}" in caplog.text


def test_adapters_answer_differently_from_the_base_and_each_other(make: MakeEngine, digests: list[str]) -> None:
    engine = make()
    answers = [tuple(alone(engine, digest).token_ids) for digest in ("", *digests)]
    assert len(set(answers)) == len(answers)


@pytest.mark.parametrize("which", [None, 0, 3, 5])
@pytest.mark.parametrize("joins_at", [0, 1, 7])
def test_who_else_is_there_changes_nothing(
    make: MakeEngine, digests: list[str], which: int | None, joins_at: int
) -> None:
    digest = "" if which is None else digests[which]
    expected = alone(make(), digest)
    engine, records = make(adapter_slots=6), Records()
    for n in range(9):
        engine.add(
            ask(f"{n}", ("", *digests)[n % 7], "other " * (n + 1), max_tokens=5 + 9 * n, seed=n, temperature=n / 4)
        )
    for _ in range(joins_at):
        records.take(engine.step())
    engine.add(ask("it", digest))
    assert same(drain(engine, records)["it"], expected)


@pytest.mark.parametrize("prefill_tokens", [32, 64, 256])
def test_the_size_of_chunks_changes_nothing(make: MakeEngine, digests: list[str], prefill_tokens: int) -> None:
    expected = alone(make(prefill_tokens=128), digests[2])
    engine = make(prefill_tokens=prefill_tokens)
    engine.add(ask("other", digests[1]))
    engine.add(ask("it", digests[2]))
    assert same(drain(engine)["it"], expected)


def test_eviction_and_reload_change_nothing(make: MakeEngine, digests: list[str]) -> None:
    engine = make(adapter_slots=2, host_cache_mb=1)
    expected = alone(engine, digests[0])
    for digest in digests[1:]:
        alone(engine, digest, max_tokens=2)
    assert digests[0] not in engine.load.on_device
    engine.add(ask("other", digests[4], max_tokens=80))
    engine.step()
    assert same(alone(engine, digests[0]), expected)


@pytest.mark.parametrize(("which", "block_size"), [(None, 32), (0, 32), (3, 16)])
def test_a_beginning_that_is_known_changes_nothing(
    make: MakeEngine, digests: list[str], decoder: str, which: int | None, block_size: int
) -> None:
    digest = "" if which is None else digests[which]
    expected = alone(make(prefix_cache="off"), digest)
    engine = make(block_size=block_size)
    engine.add(ask("other", digest, PROMPT[:70]))
    drain(engine)
    again = alone(engine, digest)
    assert same(again, expected)
    assert again.finished.stats.cached_tokens == KNOWN[decoder]


def test_losing_its_blocks_changes_nothing(make: MakeEngine, digests: list[str]) -> None:
    expected = alone(make(), digests[0])
    engine, records, was_preempted = make(kv_blocks=7), Records(), False
    engine.add(ask("old", digests[1], max_tokens=60))
    engine.add(ask("it", digests[0]))
    while engine.has_work:
        records.take(engine.step())
        was_preempted |= any(sequence.output_ids for sequence in engine.scheduler.waiting)
    assert was_preempted
    assert same(records["it"], expected)


@pytest.mark.parametrize("which", [None, 1, 4])
def test_a_takeover_changes_nothing(make: MakeEngine, digests: list[str], which: int | None) -> None:
    digest = "" if which is None else digests[which]
    expected = alone(make(), digest, repetition_penalty=1.1)
    for seen in range(0, LENGTH, 3):
        engine = make()
        resume = Resume(tuple(expected.token_ids[:seen]), expected.num_chars[seen - 1] if seen else 0)
        for n in range(seen % 4):
            engine.add(ask(f"other-{n}", digests[n]))
        engine.add(ask("it", digest, repetition_penalty=1.1), resume)
        record = drain(engine)["it"]
        assert record.token_ids == expected.token_ids[seen:]
        assert record.logprobs == expected.logprobs[seen:]
        assert expected.text[: resume.num_chars] + record.text == expected.text


@pytest.mark.parametrize("which", [None, 3])
def test_taking_over_many_answers_that_begin_alike_changes_nothing(
    make: MakeEngine, digests: list[str], which: int | None
) -> None:
    """Whoever comes later finds its whole prompt read by another, and has tokens to replay behind it."""
    digest, prompts = "" if which is None else digests[which], [PROMPT[:20], PROMPT[:64], PROMPT]
    wholes = [alone(make(prefix_cache="off"), digest, prompt=prompt) for prompt in prompts]
    engine, crowd = make(prefill_tokens=32, kv_blocks=24), [(1, 12), (1, 30), (0, 0), (1, 0), (2, 12), (2, 0), (1, 5)]
    for number, (prompt, seen) in enumerate(crowd):
        resume = Resume(tuple(wholes[prompt].token_ids[:seen]), wholes[prompt].num_chars[seen - 1]) if seen else None
        engine.add(replace(ask(f"{number}", digest, prompts[prompt]), tenant="abb"[number % 3]), resume)
    records = drain(engine)
    for number, (prompt, seen) in enumerate(crowd):
        assert records[f"{number}"].token_ids == wholes[prompt].token_ids[seen:]
        assert records[f"{number}"].logprobs == wholes[prompt].logprobs[seen:]


def blend(id: str, digests: list[str], **sampling: Any) -> Generate:
    gate = GateRef("arrow", 2)
    digest = blended_digest(digests, gate.kind, gate.top_k, gate.temperature, gate.digest)
    ref = AdapterRef(digest, components=tuple(map(Component, digests)), gate=gate)
    return replace(ask(id, **sampling), adapter=ref)


def test_a_blend_tells_what_weighed_each_token_whoever_goes_on_with_it(make: MakeEngine, digests: list[str]) -> None:
    engine = make()
    for request in (blend("one", digests[:3]), ask("plain", digests[0])):
        engine.add(request)
    records = drain(engine)
    one = records["one"]
    assert records["plain"].weights == []
    assert len(one.weights) == sum(bool(engine.machine.tokenizer.token_bytes(token)) for token in one.token_ids)
    assert all(len(token.parts) == 3 and abs(sum(token.parts) - 1) < 1e-3 for token in one.weights)
    told = one.token_ids[:20]
    num_told = sum(bool(engine.machine.tokenizer.token_bytes(token)) for token in told)
    other = make()
    other.add(blend("two", digests[:3]), Resume(tuple(told), one.num_chars[19]))
    rest = drain(other)["two"]
    assert (rest.token_ids, rest.weights) == (one.token_ids[20:], one.weights[num_told:])


def test_a_probe_sees_an_adapter_that_does_something_and_one_that_does_not(
    make: MakeEngine, home: Path, digests: list[str]
) -> None:
    idle = make_adapter(home / "tiny", home / "adapters", seed=99, size=0.0)
    engine = make()
    engine.add(ask("other", digests[0]))
    engine.add(Probe("good", AdapterRef(digests[1])))
    engine.add(Probe("idle", AdapterRef(idle)))
    records = drain(engine)
    assert (records["good"].finished.stats.logit_delta or 0) > 0
    assert records["idle"].failed.code == "adapter_refused"
    assert "changes nothing" in records["idle"].failed.error


def test_a_damaged_adapter_is_refused_with_its_reasons(make: MakeEngine, home: Path, digests: list[str]) -> None:
    fake = "f" * 64
    (home / "adapters" / fake).mkdir()
    for path in (home / "adapters" / digests[0]).iterdir():
        (home / "adapters" / fake / path.name).write_bytes(path.read_bytes()[:-1])
    engine = make()
    for id, digest in (("damaged", fake), ("absent", "e" * 64), ("outside", "../../etc")):
        engine.add(ask(id, digest))
    records = drain(engine)
    assert records["damaged"].failed.code == "adapter_refused"
    assert records["absent"].failed.code == records["outside"].failed.code == "adapter_not_found"
