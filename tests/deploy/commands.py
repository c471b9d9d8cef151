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

SHELL: Final = {"until", "do", "done", "exec"}
"""Words of a shell before what it calls."""


def missing(command: Sequence[str]) -> list[str]:
    """The parts of `command` that call nothing that there is."""
    if [*command[:2]] == ["python", "-c"]:
        return [] if compile(command[2], "-c", "exec") else [*command]
    line = " ".join(command).removeprefix("sh -c ")
    parts = [part.split() for part in re.split(r" && | -- | & |; ", line)]
    called = [words[1:] if words[0] in SHELL else words for words in parts]
    return [" ".join(words) for words in called if words and not _exists(words)]


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
