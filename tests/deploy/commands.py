"""Whether the command of a container is one that there is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Final

from django.core.management import get_commands

from loraland.liveness import SERVICES

IN_IMAGES: Final = {"redis-server", "redis-cli", "pg_isready", "curl", "sleep", "ray"}
"""What the images of others bring, and ours from its own packages."""


def missing(command: Sequence[str]) -> list[str]:
    """The parts of `command` that call nothing that there is."""
    if [*command[:2]] == ["python", "-c"]:
        return [] if compile(command[2], "-c", "exec") else [*command]
    line = " ".join(command).removeprefix("sh -c ")
    return [part for part in re.split(r" && | -- ", line) if not _exists(part.split())]


def _exists(words: list[str]) -> bool:
    match words:
        case ["python", "-m", "loraland", *kinds]:
            return {*kinds} <= {*SERVICES}
        case ["python", "manage.py", "health", kind, *_]:
            return kind in SERVICES
        case ["python", "-m", module, *_]:
            return find_spec(module) is not None
        case ["python", "manage.py", command, *_]:
            return command in get_commands()
        case [program, *_]:
            return program in IN_IMAGES
    return False
