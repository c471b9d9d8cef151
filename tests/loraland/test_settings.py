"""What the settings make of their environment, in a process that reads them anew."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from inference.config import read_config
from loraland import environment

REPO = Path(__file__).parents[2]


def read(expression: str, tmp_path: Path, **variables: str) -> Any:
    code = f"import json; from loraland import settings; print(json.dumps({expression}))"
    environ = {**os.environ, "VAR_DIR": str(tmp_path), **variables}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, env=environ, capture_output=True, text=True, check=True
    )
    return json.loads(run.stdout)


def options_of_the_database(tmp_path: Path, address: str) -> dict[str, Any]:
    options: dict[str, Any] = read(
        "settings.DATABASES['default']['OPTIONS']", tmp_path, DATABASE_URL=address, DATABASE_WAIT_SECONDS="7"
    )
    return options


def test_a_base_in_a_gguf_file_has_the_name_of_its_folder_and_the_key_of_its_workers(tmp_path: Path) -> None:
    file = "/models/Mistral-7B.gguf"
    found = read("[settings.BASE_NAME, settings.BASE_KEY]", tmp_path, BASE_MODEL=file)
    assert found == ["Mistral-7B", read_config({"BASE_MODEL": file}).base_key]


def test_workers_are_counted_for_each_base(tmp_path: Path) -> None:
    told = "[settings.BASE_NAME, settings.BASE_MODELS, settings.WORKERS]"
    found = read(told, tmp_path, BASE_MODELS="owner/One,Two", BASE_MODEL="Two", WORKERS="2,one=0")
    assert found == ["Two", ["Two", "owner/One"], {"two": 2, "one": 0}]
    assert read(told, tmp_path, BASE_MODEL="One") == ["One", ["One"], {"one": 1}]


def test_the_highest_rank_may_differ_between_bases_on_the_site_as_on_its_workers(tmp_path: Path) -> None:
    variables = {"BASE_MODELS": "One,owner/Two", "MAX_RANK": "8,two = 32"}
    assert read("settings.MAX_RANK", tmp_path, **variables) == {"one": 8, "two": 32}
    assert [read_config(variables, base).max_rank for base in ("One", "owner/Two")] == [8, 32]


@pytest.mark.parametrize("value", ["65", "one=two", "three=1", "one=1,one=2", "one="])
def test_workers_that_cannot_be_meant_are_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("WORKERS", value)
    with pytest.raises(ImproperlyConfigured, match="WORKERS="):
        environment.number_of_each("WORKERS", 1, 0, 64, ("one", "two"))


def test_what_an_address_of_postgresql_asks_for_is_kept_beside_the_pool_and_the_bound_of_locks(tmp_path: Path) -> None:
    options = options_of_the_database(tmp_path, "postgres://u:p@host/name?sslmode=require&options=-c%20jit%3Doff")
    assert options["sslmode"] == "require"
    assert options["options"] == "-c jit=off -c lock_timeout=7s"
    assert options["pool"]["timeout"] == 7


def test_an_address_that_asks_for_nothing_has_the_bound_of_locks(tmp_path: Path) -> None:
    assert options_of_the_database(tmp_path, "postgres://u:p@host/name")["options"] == "-c lock_timeout=7s"


@pytest.mark.parametrize(
    ("given", "ours", "of_frameworks"),
    [
        ("", "INFO", "WARNING"),
        ("debug", "DEBUG", "INFO"),
        ("Warning", "WARNING", "WARNING"),
        ("error", "ERROR", "ERROR"),
    ],
)
def test_one_level_holds_for_all_logs_and_frameworks_are_a_step_quieter(
    tmp_path: Path, given: str, ours: str, of_frameworks: str
) -> None:
    """Celery's lines of every job, uvicorn's of every visitor; and with `debug` no words of a prompt."""
    levels = (
        "[settings.LOGGING['root']['level'], *(settings.LOGGING['loggers'][name]['level'] for name in "
        "('django', 'celery')), settings.FRAMEWORKS_LOG_LEVEL.upper()]"
    )
    told = read(levels, tmp_path, LOG_LEVEL=given)
    assert told == [ours, of_frameworks, of_frameworks, of_frameworks]


def test_a_level_that_there_is_not_is_refused_with_those_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "critical")
    with pytest.raises(ImproperlyConfigured, match="LOG_LEVEL='critical' is not known; choose debug or info"):
        environment.choice("LOG_LEVEL", "info", ("debug", "info"))
