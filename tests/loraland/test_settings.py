"""What the settings make of their environment, in a process that reads them anew."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

REPO = Path(__file__).parents[2]


def options_of_the_database(tmp_path: Path, address: str) -> dict[str, Any]:
    code = "import json; from loraland import settings; print(json.dumps(settings.DATABASES['default']['OPTIONS']))"
    environ = {**os.environ, "VAR_DIR": str(tmp_path), "DATABASE_URL": address, "DATABASE_WAIT_SECONDS": "7"}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, env=environ, capture_output=True, text=True, check=True
    )
    read: dict[str, Any] = json.loads(run.stdout)
    return read


def test_what_an_address_of_postgresql_asks_for_is_kept_beside_the_pool_and_the_bound_of_locks(tmp_path: Path) -> None:
    options = options_of_the_database(tmp_path, "postgres://u:p@host/name?sslmode=require&options=-c%20jit%3Doff")
    assert options["sslmode"] == "require"
    assert options["options"] == "-c jit=off -c lock_timeout=7s"
    assert options["pool"]["timeout"] == 7


def test_an_address_that_asks_for_nothing_has_the_bound_of_locks(tmp_path: Path) -> None:
    assert options_of_the_database(tmp_path, "postgres://u:p@host/name")["options"] == "-c lock_timeout=7s"
