"""The score on an adapter's card: its last table, put there after the card was written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

HEADER: Final = "[score]"


def write_score(card: Path, score: Mapping[str, Any]) -> None:
    """Let the file `card` end in the table `score`, in place of the one that it had."""
    before, _, _ = card.read_text(encoding="utf-8").partition(f"\n{HEADER}\n")
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in score.items()]
    card.write_text("\n".join([before.rstrip("\n"), "", HEADER, *lines]) + "\n", encoding="utf-8")


def has_score(card: Path) -> bool:
    """Whether the file `card` is there and tells a score."""
    return card.is_file() and f"\n{HEADER}\n" in card.read_text(encoding="utf-8")
