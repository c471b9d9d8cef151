"""`make bench-gpu` where there is no GPU: it says so, and shows at toy size that it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need the package triton")

REPO = Path(__file__).parents[4]
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure")


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.bench.gpu", *arguments]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_without_a_gpu_it_refuses_with_a_sentence() -> None:
    run = bench()
    assert run.returncode == 1
    assert "bench-gpu needs a CUDA device" in run.stderr


@pytest.mark.slow
def test_at_toy_size_every_figure_is_taken(tmp_path: Path) -> None:
    run = bench("--tiny", "--json", str(tmp_path / "figures.json"))
    assert run.returncode == 0, run.stderr[-2000:]
    figures = json.loads((tmp_path / "figures.json").read_text())["bf16"]
    assert set(figures) == {
        "users",
        "self_check",
        "registered",
        "cold_start_ms",
        "deterministic",
        "bandwidth_share",
    }
    assert figures["users"]["1"]["mixed"]["tokens_per_second"] > 0
    assert figures["users"]["1"]["small_tax"] < 1
    assert "with it the self-check says: exact" in run.stdout
