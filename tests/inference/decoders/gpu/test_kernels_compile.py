"""What the interpreter cannot see: whether the compiler takes the kernels, and whether a GPU has room for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the kernels need the package triton")

REPO = Path(__file__).parents[4]
KERNELS = {
    "_add_rms_norm",
    "_attend",
    "expand_row",
    "expand_tile",
    "look_up",
    "_merge",
    "_rope_and_store",
    "shrink_row",
    "shrink_tile",
    "_swiglu",
}
NARROW = {"look_up"}
"""A thread of it reads one number. The others read adapters too, whose alignment the compiler has to be told."""
SHARED_MEMORY = 99 * 1024
"""Bytes that a block may have on compute capability 8.6 and 8.9, the least of the GPUs since the A100."""


@pytest.mark.slow
def test_every_kernel_compiles_for_a_gpu_at_the_shape_of_mistral_7b(tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.inference.decoders.gpu.compile_kernels", "80"]
    run = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    compiled = [line.split() for line in run.stdout.splitlines()]
    assert {name for name, _, _ in compiled} == KERNELS
    assert max(int(shared) for _, shared, _ in compiled) <= SHARED_MEMORY
    assert {name for name, _, narrow in compiled if int(narrow)} <= NARROW
