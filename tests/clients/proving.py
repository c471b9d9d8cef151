"""Running a client's script in its own environment against a site, and what it found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.clients.clients import Client
from tests.clients.environments import REPO, environment_of, python_of

PROBES = Path(__file__).parent / "probes"
TOKENIZER = REPO / "var" / "models" / "SmolLM2-135M-Instruct"
SECONDS = 900
KEPT = ("PATH", "HOME", "LANG", "TMPDIR")


@dataclass(frozen=True)
class Proof:
    """What came of one column: whether the client works, and what it says beside."""

    column: str
    works: bool
    note: str = ""


def prove(client: Client, url: str, key: str, columns: Sequence[str] = (), **variables: str) -> list[Proof]:
    """The proofs of `columns`, or of all that the script has, in its order.

    Raises RuntimeError for a script that ended before its first column.
    """
    folder = environment_of(client)
    runner = "node" if client.language == "node" else python_of(folder)
    command = [runner, str(PROBES / client.script[0]), *client.script[1:], *columns]
    told = {"LORALAND_URL": url, "LORALAND_KEY": key, "LORALAND_MODULES": str(folder)}
    told |= {"LORALAND_TOKENIZER": str(TOKENIZER)} | variables
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    done = subprocess.run(command, env=kept | told, capture_output=True, text=True, timeout=SECONDS)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"column"')]
    sys.stderr.write(done.stderr[-6000:])
    if not lines:
        raise RuntimeError(f"{client.title} proved nothing: {(done.stderr or done.stdout).strip()[-400:]}")
    return [Proof(**json.loads(line)) for line in lines]
