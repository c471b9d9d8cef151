"""A PostgreSQL that is stopped under a running site: see `tests.loraland.stopped_postgres`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE

REPO = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not any(Path("/usr/lib/postgresql").glob("*/bin")), reason="PostgreSQL's server is not installed")
def test_a_site_whose_postgres_is_stopped_says_so_and_comes_back(tmp_path: Path) -> None:
    environment = {**os.environ, "VAR_DIR": str(tmp_path), "DATABASE_WAIT_SECONDS": "2"}
    words = ["bin/with-postgres", sys.executable, "-m", "tests.loraland.stopped_postgres"]
    ended = subprocess.run(words, cwd=REPO, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert (ended.returncode, ended.stdout.splitlines()[-1:]) == (0, ["came back"]), ended.stderr[-2000:]
