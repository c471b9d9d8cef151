"""An engine whose base is shared by processes: the same answers to the bit, and what is told of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.adapters.identity import blended_digest, composed_digest
from inference.config import ConfigError
from inference.decoders.batch import Batch, Segment
from inference.decoders.interrupt import Interrupted
from inference.decoders.native.build import missing_feature
from inference.decoders.pipeline.chain import StageLost
from inference.engine.engine import Engine
from inference.model.tokenizer import Tokenizer
from inference.wire.contract import Resume
from inference.wire.protocol import AdapterRef, Component, GateRef, Generate, Probe, Sampling
from tests.inference.checkpoints import make_adapter, make_model
from tests.inference.engines import VOCAB, Records, assert_nothing_held, drain, make_config, make_tokenizer

pytestmark = pytest.mark.slow
is_native_here = pytest.mark.skipif(missing_feature() is not None, reason=f"not here: {missing_feature()}")

PROMPT = "a prompt of more than two tiles, so that chunks and tiles of it can be told apart: yes"
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
INVOCATION = " that chunks"
NUM_LAYERS = 5
REPO = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("stages")
    make_tokenizer(make_model(home / "tiny", vocab_size=VOCAB, num_hidden_layers=NUM_LAYERS))
    (home / "adapters").mkdir()
    return home


@pytest.fixture(scope="module")
def digests(home: Path) -> list[str]:
    """A plain adapter, a DoRA, one of the tables too, an aLoRA, and another plain one."""
    invocation = list(Tokenizer(home / "tiny").encode(INVOCATION))
    options: list[dict[str, Any]] = [
        {"target_modules": ALL},
        {"target_modules": ALL[:3], "use_dora": True},
        {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
        {"target_modules": ALL[:3], "alora_invocation_tokens": invocation, "task_type": "CAUSAL_LM"},
        {"r": 4, "target_modules": ALL[2:]},
    ]
    return [make_adapter(home / "tiny", home / "adapters", seed=n, **told) for n, told in enumerate(options)]


def make(home: Path, **changes: Any) -> Engine:
    return Engine(make_config(home / "tiny", home / "adapters", **{"threads": 1, "max_rows": 8, **changes}))


def sampling(**changes: Any) -> Sampling:
    settings = {"max_tokens": 24, "temperature": 1.5, "seed": 11, "ignore_eos": True, "logprobs": 3}
    return Sampling(**{**settings, **changes})


def everything(digests: list[str]) -> list[Generate | Probe]:
    """Requests of all kinds: more than fit at once, some with one beginning, guesses, a sum, a blend, prompts that are
    scored and pooled."""
    plain, dora, tables, activated, other = map(AdapterRef, digests)
    pair = (plain.digest, other.digest)
    weighed = tuple(Component(digest, 0.5) for digest in pair)
    total = AdapterRef(composed_digest((digest, 0.5) for digest in pair), components=weighed)
    blended = blended_digest(list(pair), "arrow", 1, 1.0, "")
    blend = AdapterRef(blended, components=tuple(map(Component, pair)), gate=GateRef("arrow", top_k=1))
    greedy = sampling(temperature=0.0, max_tokens=40)
    asked: list[Generate | Probe] = [
        Generate(f"{number}", adapter=adapter, prompt=PROMPT, sampling=sampling(seed=number))
        for number, adapter in enumerate([None, plain, dora, tables, activated, total, blend, plain, None, dora])
    ]
    asked.append(Generate("guessed", adapter=plain, prompt="ab" * 30, sampling=greedy))
    asked.append(Generate("scored", prompt=PROMPT, sampling=sampling(prompt_logprobs=2)))
    asked.append(Generate("pooled", adapter=plain, prompt=PROMPT, is_embedding=True))
    asked.append(Probe("probe", plain))
    return asked


def answered(engine: Engine, digests: list[str]) -> Records:
    records = Records()
    for number, request in enumerate(everything(digests)):
        engine.add(request)
        if number == 7:
            records.take(engine.step())
    return drain(engine, records)


def told_of(records: Records) -> dict[str, Any]:
    """All of each answer but its times."""
    return {
        id: (one.token_ids, one.logprobs, one.prompted, one.vectors, one.weights, one.finished.stats.logit_delta)
        for id, one in records.items()
    }


@pytest.mark.parametrize(
    ("decoder", "dtype", "stages"),
    [
        ("torch", "float32", 2),
        pytest.param("native", "bfloat16", 2, marks=is_native_here),
        pytest.param("native", "float32", 4, marks=is_native_here),
    ],
)
def test_all_answers_are_those_of_one_process(
    home: Path, digests: list[str], decoder: str, dtype: str, stages: int
) -> None:
    alone, shared = make(home, decoder=decoder, dtype=dtype), make(home, decoder=decoder, dtype=dtype, stages=stages)
    try:
        assert shared.fingerprint == alone.fingerprint
        assert shared.load.self_check == "exact"
        expected, got = answered(alone, digests), answered(shared, digests)
        assert told_of(got) == told_of(expected)
        assert got["4"].finished.stats.invoked_at == expected["4"].finished.stats.invoked_at
        begun = expected["3"]
        shared.add(everything(digests)[3], Resume(tuple(begun.token_ids[:9]), begun.num_chars[8]))
        assert drain(shared)["3"].token_ids == begun.token_ids[9:]
        assert_nothing_held(shared)
    finally:
        alone.close()
        shared.close()


@pytest.fixture(scope="module")
def two(home: Path) -> Iterator[Engine]:
    engine = make(home, stages=2, micro_batches=3)
    yield engine
    engine.close()


def test_an_engine_tells_who_has_which_layers(two: Engine) -> None:
    first, last = two.load.stages
    assert (first.first, first.end, last.first, last.end) == (0, first.end, first.end, NUM_LAYERS)
    assert first.process == os.getpid() != last.process
    assert min(first.memory, last.memory) > 2**20


def test_nothing_is_left_of_the_place_where_stages_met(two: Engine) -> None:
    home = two.machine.runner.decoder._processes._home  # type: ignore[attr-defined]
    assert not home.exists()


@is_native_here
def test_a_pass_that_is_interrupted_between_two_micro_batches_leaves_nothing_on_its_way(
    two: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, table = two.machine.runner, (0, 1, 2)
    decoder, rows = runner.decoder, torch.arange(70)
    tiles = (Segment(0, 32, table, 32), Segment(32, 32, table, 64), Segment(64, 6, table, 70))
    batch = Batch(rows, rows, rows, torch.full((70,), -1), (), tiles, rows)
    expected = decoder.forward(batch, runner.cache).clone()
    own = decoder._own  # type: ignore[attr-defined]
    compute, begun = own.pass_on, list[Batch]()

    def pass_on(part: Batch, *others: Any) -> Any:
        begun.append(part)
        stream = compute(part, *others)
        decoder.interrupt.request()
        return stream

    with monkeypatch.context() as patched:
        patched.setattr(own, "pass_on", pass_on)
        decoder.interrupt.begin(is_allowed=True)
        with pytest.raises(Interrupted):
            decoder.forward(batch, runner.cache)
    assert len(begun) == 2
    decoder.interrupt.acknowledge()
    assert torch.equal(decoder.forward(batch, runner.cache), expected)


def test_a_stage_that_is_killed_is_found_out_without_a_request(home: Path) -> None:
    engine = make(home, stages=2)
    os.kill(engine.load.stages[1].process, signal.SIGKILL)
    engine.machine.runner.decoder._asked = float("-inf")  # type: ignore[attr-defined]
    with pytest.raises(StageLost, match="stage 1 of 2 lost the one beside it"):
        _ = engine.load
    engine.close()


def test_a_stage_that_is_killed_in_mid_answer_ends_the_engine(home: Path) -> None:
    engine = make(home, stages=2)
    engine.add(Generate("a", prompt=PROMPT, sampling=sampling(max_tokens=100)))
    for _ in range(6):
        engine.step()
    os.kill(engine.load.stages[1].process, signal.SIGKILL)
    with pytest.raises(StageLost):
        drain(engine)
    engine.close()


def test_a_stage_may_come_from_elsewhere(home: Path, two: Engine) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
    told = {"STAGES": "2", "STAGE_ADDRESS": address, "BASE_MODEL": str(home / "tiny"), "DTYPE": "float32"}
    command = [sys.executable, "-m", "inference.decoders.pipeline", "1"]
    stage = subprocess.Popen(command, cwd=REPO, env={**os.environ, **told})
    engine = make(home, stages=2, stage_address=address)
    assert [load.process for load in engine.load.stages] == [os.getpid(), stage.pid]
    for each in (two, engine):
        each.add(Generate("a", prompt=PROMPT, sampling=sampling()))
    assert told_of(drain(engine)) == told_of(drain(two))
    stage.kill()
    stage.wait()


@pytest.mark.parametrize(
    ("number", "told", "sentence"),
    [
        ("1", {}, "STAGE_ADDRESS is not set; a stage by itself meets its worker there"),
        ("2", {"STAGE_ADDRESS": "127.0.0.1:1"}, "the stage '2' is none of STAGES=2; name one from 1 to 1"),
    ],
)
def test_a_stage_that_has_no_place_is_told_so(number: str, told: dict[str, str], sentence: str) -> None:
    command = [sys.executable, "-m", "inference.decoders.pipeline", number]
    env = {**os.environ, "STAGES": "2", **told}
    ended = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert sentence in ended.stderr


def test_more_stages_than_layers_are_refused(home: Path) -> None:
    with pytest.raises(ConfigError, match="STAGES=6 needs a layer for each stage, and tiny has 5; choose 5 at most"):
        make(home, stages=6)


def test_a_stage_that_computes_otherwise_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.decoders.pipeline.start.arithmetic", lambda decoder: "another one")
    with pytest.raises(ConfigError, match=r"stage 1 computes otherwise than the first one, .* and here another one"):
        make(home, stages=2)


def test_a_base_that_another_stage_cannot_load_is_refused_with_its_sentence(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.decoders.pipeline.setup.BaseWeights.identity", "another")
    with pytest.raises(ConfigError, match=r"stage 1 cannot be loaded: the base in .*tiny is another one"):
        make(home, stages=2)
