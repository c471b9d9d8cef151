"""First tokens that are due: who cannot make it is refused before anything of it is read, and nobody else is."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from inference.config import ConfigError, read_config
from inference.engine import engine as engine_module
from inference.engine.answer import Answer
from inference.engine.deadlines import ENOUGH, Pace
from inference.engine.engine import Engine
from inference.scheduling.plan import Plan
from inference.wire.contract import Resume
from inference.wire.protocol import AdapterRef, Failed, Generate, Probe, Sampling
from tests.inference.engines import Records, assert_nothing_held, expected_answer, make_reading_engine

SECONDS_A_TOKEN = 0.01


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """One row, whose passes take the time of their tokens on a clock of the test's."""
    monkeypatch.setattr(engine_module, "Answer", partial(Answer, clock=clock))
    engine = make_reading_engine(tmp_path, max_rows=1, num_blocks=64, prefix_cache=False, speculation=False)
    run = engine.machine.runner.run

    def run_slowly(plan: Plan, samplings: object) -> object:
        clock.now += SECONDS_A_TOKEN * sum(work.length for work in plan.works)
        return run(plan, samplings)  # type: ignore[arg-type]

    monkeypatch.setattr(engine.machine.runner, "run", run_slowly)
    yield engine
    engine.close()


def ask(clock: Clock, id: str, length: int = 30, within: float = 0.0, tenant: str = "") -> Generate:
    sampling = Sampling(max_tokens=2, ignore_eos=True, first_token_within=within)
    return Generate(id, prompt="x" * length, sampling=sampling, created=clock.now, tenant=tenant)


def learn(engine: Engine, clock: Clock) -> None:
    """Let it see prompts of several lengths, each alone."""
    for number, length in enumerate(range(20, 20 + 40 * ENOUGH, 40)):
        engine.add(ask(clock, f"learn {number}", length))
        run(engine)


def run(engine: Engine) -> Records:
    records = Records()
    while engine.has_work:
        records.take(engine.step())
    return records


def test_who_can_make_it_is_answered_as_if_nothing_were_due(engine: Engine, clock: Clock) -> None:
    learn(engine, clock)
    request = ask(clock, "a", within=10)
    engine.add(request)
    ids = engine.machine.tokenizer.encode(request.prompt or "")
    assert run(engine)["a"].token_ids == expected_answer(ids, "", 2)


def test_who_cannot_make_it_is_refused_and_nothing_of_it_is_read(engine: Engine, clock: Clock) -> None:
    learn(engine, clock)
    engine.add(ask(clock, "long", length=200))
    engine.add(ask(clock, "late", within=1.0))
    before = clock.now
    records = run(engine)
    failed = records["late"].failed
    assert (failed.code, records["late"].states, failed.retry_after >= 1) == ("too_late", [], True)
    assert "within 1 s" in failed.error
    assert clock.now - before < SECONDS_A_TOKEN * (200 + 30)
    assert_nothing_held(engine)


def test_who_was_begun_is_finished_however_late(engine: Engine, clock: Clock) -> None:
    learn(engine, clock)
    engine.add(ask(clock, "begun", length=100, within=1.5))
    records = Records()
    records.take(engine.step())
    clock.now += 60
    records.take(event for _ in range(10) for event in engine.step())
    assert records["begun"].finished.reason == "length"


def test_who_was_taken_over_with_tokens_is_finished_however_late(engine: Engine, clock: Clock) -> None:
    learn(engine, clock)
    request = ask(clock, "taken over", within=0.5)
    ids = engine.machine.tokenizer.encode(request.prompt or "")
    clock.now += 60
    engine.add(request, Resume(tuple(expected_answer(ids, "", 1))))
    assert run(engine)["taken over"].finished.reason == "length"


def test_a_tenant_has_a_default_that_a_request_overrides(engine: Engine, clock: Clock) -> None:
    learn(engine, clock)
    engine.machine.deadlines._defaults = {"key": 0.01, "key:7": 100.0}
    engine.add(ask(clock, "of a kind", tenant="key:1"))
    engine.add(ask(clock, "by name", tenant="key:7"))
    engine.add(ask(clock, "by itself", tenant="key:1", within=100))
    engine.add(ask(clock, "of nobody"))
    refused = {id for id, record in run(engine).items() if isinstance(record.end, Failed)}
    assert refused == {"of a kind"}


def test_nobody_is_refused_by_a_guess_before_anything_was_seen(engine: Engine, clock: Clock) -> None:
    engine.add(ask(clock, "first", length=200, within=0.1))
    assert run(engine)["first"].finished.reason == "length"


@pytest.mark.parametrize("seed", range(3))
def test_under_overload_whoever_is_answered_is_in_time_and_whoever_is_refused_could_not_have_been(
    engine: Engine, clock: Clock, seed: int
) -> None:
    """Where prompts take what was foretold: the drops are those of a simulation that knows the true times."""
    learn(engine, clock)
    chance, within = random.Random(seed), 3.0
    arrivals, when = [], clock.now
    for number in range(60):
        when += chance.expovariate(1 / 0.6)
        arrivals.append((when, f"{number}", chance.randrange(20, 140)))
    asked, records, waiting = {}, Records(), list(arrivals)
    while waiting or engine.has_work:
        if not engine.has_work:
            clock.now = max(clock.now, waiting[0][0])
        while waiting and waiting[0][0] <= clock.now:
            created, id, length = waiting.pop(0)
            asked[id] = ask(clock, id, length, within=within)
            asked[id] = Generate(**{**vars(asked[id]), "created": created})
            engine.add(asked[id])
        records.take(engine.step())
    served = {id: record.finished.stats for id, record in records.items() if not isinstance(record.end, Failed)}
    expected = simulate(engine, arrivals, within)
    assert set(served) == expected
    assert 0 < len(served) < len(arrivals)
    assert all(stats.first_token_ms <= within * 1000 + 1 for stats in served.values())


def simulate(engine: Engine, arrivals: list[tuple[float, str, int]], within: float) -> set[str]:
    """Who is served by one server that takes requests in turn and knows what each takes."""
    now, served = 0.0, set()
    for created, id, length in arrivals:
        start = max(now, created)
        prompt = SECONDS_A_TOKEN * len(engine.machine.tokenizer.encode("x" * length))
        if start + prompt - created <= within:
            served.add(id)
            now = start + prompt + SECONDS_A_TOKEN  # and its second token
    return served


def test_a_pace_is_the_line_through_what_was_seen() -> None:
    pace = Pace()
    for num_tokens in (10, 200, 50, 120):
        assert pace.seconds(num_tokens) == 0.0
        pace.note(num_tokens, 0.5 + 0.01 * num_tokens)
    assert pace.seconds(300) == pytest.approx(3.5)


def test_a_pace_of_prompts_of_one_length_is_their_mean_and_never_less_than_nothing() -> None:
    pace = Pace()
    for _ in range(ENOUGH):
        pace.note(50, 2.0)
    assert pace.seconds(1000) == pytest.approx(2.0)
    faster = Pace()
    for num_tokens, seconds in ((100, 1.0), (200, 0.5), (300, 0.2), (400, 0.1)):
        faster.note(num_tokens, seconds)
    assert faster.seconds(0) >= 0.0
    assert faster.seconds(4000) >= 0.0


def test_a_pace_follows_what_changes() -> None:
    pace = Pace()
    for seconds in (1.0, 9.0):
        for _ in range(100):
            pace.note(100, seconds)
    assert pace.seconds(100) == pytest.approx(9.0, rel=0.01)


def test_a_proof_is_never_late(engine: Engine, clock: Clock) -> None:
    learn(engine, clock)
    engine.machine.deadlines._defaults = {"": 0.001}
    engine.add(Probe("proof", AdapterRef("A"), created=clock.now - 60))
    assert run(engine)["proof"].finished.stats.logit_delta


def test_a_worker_reads_when_first_tokens_of_its_tenants_are_due() -> None:
    config = read_config({"FIRST_TOKEN_WITHIN": "key=5,user:7=0.5"})
    assert config.first_token_within == {"key": 5.0, "user:7": 0.5}
    with pytest.raises(ConfigError, match="a number of seconds"):
        read_config({"FIRST_TOKEN_WITHIN": "key=soon"})
