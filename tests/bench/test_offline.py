"""Engines that are measured without a server: as the environment has them, or left out with a sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.bars import BARS
from tests.bench.bench import Bench
from tests.bench.offline import HEEDED, Process, engine_variables
from tests.bench.peers import READY, find_peer
from tests.bench.record import Record
from tests.bench.site import REPO
from tests.inference.checkpoints import make_model
from tests.inference.engines import VOCAB, make_tokenizer

PROMPT = "lamp" * 16
"""64 tokens of a tokenizer whose tokens are bytes."""


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    for name in HEEDED:
        monkeypatch.delenv(name, raising=False)
    models = tmp_path / "store" / "models"
    make_tokenizer(make_model(models / "SmolLM2-135M-Instruct", vocab_size=VOCAB))
    record = Record(tmp_path / "bench.json", is_resumed=False)
    return Bench(record, tmp_path, models, ("w1",), ("engine",), 1, tmp_path / "peers", None)


def start(bench: Bench, **settings: str) -> subprocess.Popen[str]:
    command, streams = (
        [sys.executable, "-m", "tests.bench.direct"],
        {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE},
    )
    return subprocess.Popen(command, cwd=REPO, env=engine_variables(bench, settings), text=True, **streams)


@pytest.mark.slow
def test_an_engine_measures_one_run_after_another(bench: Bench) -> None:
    run = {"users": 2, "asks": [("", PROMPT, 4)] * 3}
    with start(bench, DECODER="torch", DTYPE="float32") as process:
        engine = Process("engine", process)
        assert (engine.refusal, engine.unit) == ("", "")
        for figures in (engine.measure(run), engine.measure(run)):
            assert figures["tokens_per_second"] > 0
            assert "of_peak" not in figures, "torch does not say by what it multiplies"
        process.stdin.close()


@pytest.mark.slow
def test_one_that_cannot_be_had_says_why(bench: Bench) -> None:
    with start(bench, DTYPE="nonsense") as process:
        assert Process("engine", process).refusal.startswith("DTYPE=nonsense is not known; choose bfloat16")
        process.stdin.close()


@pytest.mark.slow
def test_one_that_breaks_ends_the_benchmark(bench: Bench) -> None:
    with (
        start(bench, BASE_MODEL="nowhere") as process,
        pytest.raises(RuntimeError, match="engine ended with exit code 1"),
    ):
        Process("engine", process)


def test_engines_heed_the_environment_and_their_own_settings_before_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DECODER", "torch")
    monkeypatch.setenv("DTYPE", "float32")
    monkeypatch.setenv("MAX_ROWS", "1")
    heeded = engine_variables(bench, {"DTYPE": "bfloat16"})
    assert (heeded["DECODER"], heeded["DTYPE"]) == ("torch", "bfloat16")
    assert "MAX_ROWS" not in heeded


def test_a_peer_that_was_not_made_to_its_end_is_none(tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    assert find_peer(tmp_path, "vllm") is None
    (tmp_path / "vllm" / READY).touch()
    assert find_peer(tmp_path, "vllm") == tmp_path / "vllm"


def test_torch_is_compared_by_the_better_of_its_types() -> None:
    rates = {"engine avx2": 60, "torch avx2 bf16": 5, "torch avx2 float32": 10}
    medians = {name: {"w1": {"tokens_per_second": rate}} for name, rate in rates.items()}
    told = {bar.name: bar.value({"medians": medians}) for bar in BARS}
    assert told["W1 on AVX2 over torch restricted to it"] == 6
    assert told["W2 on AVX2 over torch restricted to it"] is None
