"""`bin/bakeoff` takes its steps in order, and starts the site only when none is up."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from django.conf import settings

from tests.patience import PATIENCE

STEPS = ["import_adapter", "evaluate", "export_results", "describe_data", "write_readme"]
PYTHON = """#!/bin/sh
echo "$@" >> "$LOG"
case "$*" in
    "manage.py health worker") [ -e "$UP" ] ;;
    "-m loraland") touch "$UP"; trap 'rm "$UP"; exit 0' TERM; while :; do sleep 0.05; done ;;
    "-m inference.tasks.fetch"*) [ ! -e "$UP.offline" ] && printf 'boolq\\nsnli\\n' ;;
    "-c "*) echo legal viggo ;;
esac
"""


def bakeoff(tmp_path: Path, *arguments: str) -> tuple[int, list[str]]:
    """The exit code of the script and the calls of a Python that does nothing."""
    python, log = tmp_path / "python", tmp_path / "log"
    python.write_text(PYTHON)
    python.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(python), "LOG": str(log), "UP": str(tmp_path / "up")}
    script = settings.REPO_DIR / "bin" / "bakeoff"
    done = subprocess.run([script, *arguments], env=environment, cwd=settings.REPO_DIR, timeout=PATIENCE, check=False)
    return done.returncode, log.read_text().splitlines() if log.exists() else []


def steps(calls: list[str]) -> list[str]:
    return [call.split()[1] for call in calls if call.startswith("manage.py") and "health" not in call]


@pytest.mark.parametrize("is_up", [True, False])
def test_it_trains_measures_and_writes_and_leaves_the_site_as_it_was(tmp_path: Path, is_up: bool) -> None:
    if is_up:
        (tmp_path / "up").touch()
    code, calls = bakeoff(tmp_path, str(tmp_path))
    assert code == 0
    assert f"-m inference.training --task legal viggo --data {tmp_path} --out adapters/{{task}} --score none" in calls
    assert steps(calls) == STEPS
    assert ("-m loraland" in calls) is not is_up
    assert (tmp_path / "up").exists() is is_up


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert bakeoff(tmp_path, str(tmp_path / "nothing")) == (2, [])


def test_without_a_folder_data_sets_come_from_the_hub_and_the_repository_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "up").touch()
    code, calls = bakeoff(tmp_path)
    assert code == 0
    place = "var/bakeoff/adapters/{task}"
    assert calls[:2] == [
        "-m inference.tasks.fetch --to var/datasets",
        f"-m inference.training --task boolq snli --data var/datasets --out {place} --score none",
    ]
    assert steps(calls) == ["import_adapter", "evaluate", "export_results"]
    assert "manage.py evaluate --data var/datasets --tasks boolq snli" in calls
    assert calls[-1] == "manage.py export_results var/bakeoff/results"


def test_it_ends_when_nothing_can_be_fetched(tmp_path: Path) -> None:
    (tmp_path / "up.offline").touch()
    assert bakeoff(tmp_path) == (1, ["-m inference.tasks.fetch --to var/datasets"])
