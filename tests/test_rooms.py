"""The drawing of the rooms is that of the imports, and each room has its sentence in the page beside it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).parents[1]
PAGE = REPO / "docs" / "structure.md"


def test_the_drawing_is_current() -> None:
    """Run `bin/draw_structure.py` after a room has come, gone, or begun to need another."""
    script = REPO / "bin" / "draw_structure.py"
    drawn = subprocess.run([sys.executable, script, "-"], capture_output=True, text=True, check=True).stdout
    assert drawn == (REPO / "docs" / "structure.svg").read_text(encoding="utf-8")


def test_each_room_has_its_sentence() -> None:
    told = set(re.findall(r"^\| `([\w./]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    packages = [path.parent for house in ("inference", "loraland") for path in (REPO / house).glob("*/__init__.py")]
    modules = (REPO / "inference").glob("[!_]*.py")
    assert {str(path.relative_to(REPO)) for path in [*packages, *modules]} <= told


def test_whatever_the_page_names_is_there() -> None:
    named = re.findall(r"`((?:inference|loraland|static|templates)/[\w./-]+)`", PAGE.read_text(encoding="utf-8"))
    assert [path for path in named if not (REPO / path).exists()] == []
