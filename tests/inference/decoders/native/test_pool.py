"""The threads of the native decoder: every task of every job is done once, however many threads want a core."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from inference.decoders.native.build import SOURCES
from tests.patience import PATIENCE

COMPILER = shutil.which("g++") or shutil.which("clang++")
CORES = os.cpu_count() or 1

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler is installed")


def compiled(directory: Path, *flags: str) -> Path:
    """The program of pool.cpp."""
    assert COMPILER
    program = directory / "pool"
    source = Path(__file__).with_name("pool.cpp")
    command = [COMPILER, "-std=c++20", "-O2", "-pthread", f"-I{SOURCES}", *flags, str(source), "-o", str(program)]
    subprocess.run(command, check=True)
    return program


def run(program: Path, pools: int, threads: int, passes: int) -> None:
    done = subprocess.run(
        [program, *map(str, (pools, threads, passes))], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("pool"))


@pytest.mark.parametrize("threads", [1, 2, CORES, 4 * CORES + 1])
def test_a_pool_of_any_size_does_every_task_once(program: Path, threads: int) -> None:
    run(program, 1, threads, 200)


def test_pools_that_share_too_few_cores_do_every_task_once(program: Path) -> None:
    run(program, 3, 2 * CORES, 60)


@pytest.mark.slow
def test_no_two_threads_touch_a_thing_unordered(tmp_path: Path) -> None:
    """By the compiler's own detector of races, where it has one."""
    try:
        program = compiled(tmp_path, "-fsanitize=thread", "-g")
    except subprocess.CalledProcessError:
        pytest.skip("the compiler has no detector of races")
    run(program, 2, CORES + 1, 20)
