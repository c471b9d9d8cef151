"""What the interpreter cannot see: whether the compiler takes the kernels, and whether a GPU has room for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("triton", reason="the kernels need the package triton")

from tests.inference.decoders.gpu.published import PUBLISHED

REPO = Path(__file__).parents[4]
KERNELS = {
    "_activate",
    "_add_and_norm",
    "_attend",
    "expand_row",
    "expand_tile",
    "_finish",
    "look_up",
    "_merge",
    "_multiply_row",
    "_multiply_rows",
    "_rope_and_store",
    "shrink_row",
    "shrink_tile",
    "_weigh",
    "_weigh_stream",
}
NARROW = {"look_up", "_multiply_rows"}
"""A thread of these reads one number of an adapter, or one scale. The others read adapters too, whose alignment the
compiler has to be told."""
SHARED_MEMORY = 99 * 1024
"""Bytes that a block may have on compute capability 8.6 and 8.9, the least of the GPUs since the A100."""


class Compiled(NamedTuple):
    """What was compiled, in `compile_kernels`' words."""

    model: str
    kernel: str
    shared: str
    narrow: str
    spilled: str


@pytest.mark.slow
def test_every_kernel_compiles_for_a_gpu_at_published_shapes(tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.inference.decoders.gpu.compile_kernels", "80"]
    run = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    compiled = [Compiled(*line.split()) for line in run.stdout.splitlines()]
    assert {each.kernel for each in compiled} == KERNELS
    assert {each.model for each in compiled} == {"Mistral-7B", *PUBLISHED}
    assert max(int(each.shared) for each in compiled) <= SHARED_MEMORY
    assert {each.kernel for each in compiled if int(each.narrow) and each.model == "Mistral-7B"} <= NARROW
    assert [each for each in compiled if int(each.spilled)] == []
