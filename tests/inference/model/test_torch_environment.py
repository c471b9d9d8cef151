"""What torch finds in the environment when it is loaded by whatever computes with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from inference.model.torch_environment import SETTINGS, prepare_torch
from tests.patience import PATIENCE

REPO = Path(__file__).parents[3]

WATCHED = """
import json, os, runpy, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("found", json.dumps(dict(os.environ)), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Watch())
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
"""Runs a module as a program up to the moment at which it wants torch."""


def without_settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in SETTINGS}


def environment_of_torch(*command: str, **variables: str) -> dict[str, str]:
    environ = without_settings() | variables
    run = subprocess.run(
        [sys.executable, "-c", WATCHED, *command],
        cwd=REPO,
        env=environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert "found " in run.stdout, run.stderr
    found: dict[str, str] = json.loads(run.stdout.partition("found ")[2])
    return found


def test_what_is_unset_is_set_and_what_is_set_stays() -> None:
    environ = {"MKL_CBWR": "COMPATIBLE"}
    prepare_torch(environ)
    assert environ == {**SETTINGS, "MKL_CBWR": "COMPATIBLE"}


@pytest.mark.parametrize("command", [["inference"], ["inference.training", "--help"], ["tests.bench.direct"]])
def test_a_program_that_computes_has_set_all_before_it_loads_torch(command: list[str], redis_url: str) -> None:
    found = environment_of_torch(*command, REDIS_URL=redis_url)
    assert {name: found.get(name) for name in SETTINGS} == SETTINGS


@pytest.mark.slow
def test_waiting_threads_of_openmp_read_what_was_set() -> None:
    """Another OpenMP than GNU's, as torch has on a Mac, knows none of it."""
    environ = without_settings() | {"OMP_DISPLAY_ENV": "verbose"}
    prepare_torch(environ)
    code = [sys.executable, "-c", "import torch"]
    run = subprocess.run(code, env=environ, capture_output=True, text=True, timeout=PATIENCE)
    if "GOMP" not in run.stderr:
        pytest.skip("torch was built with another OpenMP")
    assert f"GOMP_SPINCOUNT = '{SETTINGS['GOMP_SPINCOUNT']}'" in run.stderr
