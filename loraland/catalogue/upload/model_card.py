"""Reading an adapter's prompt from its README on the hub, where that shows a sample of its input.

The published adapters were trained on prompts with parts such as ``### Question: …``, ending in an empty part that
the answer follows. A sample is turned into a template by putting a field in place of what each part holds.
"""

from __future__ import annotations

import re
from typing import Final

_SAMPLE: Final = re.compile(
    r"^[^\w\n]*+Sample input[^\w\n:]*+:[*_ ]*+\n?"
    r"(?P<sample>.*?)(?=^[^\w\n]*+Sample output\b|^[^\S\n]*+(?:\\?-){3,}+[^\S\n]*+$|\Z)",
    re.MULTILINE | re.DOTALL | re.IGNORECASE,
)
"""No part but the sample itself goes beyond its line: a README may have any number of empty ones."""
_PART: Final = re.compile(r"(?P<mark>###\s*+(?P<name>[^\n:#]{0,60}?)\s*:)(?P<value>[^#]*+(?:#(?!##)[^#]*+)*+)")


def template_of(readme: str) -> str:
    """The template behind the sample input that `readme` shows; empty where it shows none that can be told apart.

    A sample whose parts have equal names shows a worked example as well: which part is the question, only its owner
    can tell.
    """
    found = _SAMPLE.search(readme)
    if found is None:
        return ""
    sample = found["sample"].replace("\\n", "\n").strip().strip("`").strip()
    parts = list(_PART.finditer(sample))
    names = [_field(part["name"]) for part in parts]
    filled = [name for part, name in zip(parts, names, strict=True) if part["value"].strip()]
    if not filled or "" in names or len(set(names)) < len(names):
        return ""
    return _PART.sub(_with_field, sample).rstrip()


def _with_field(part: re.Match[str]) -> str:
    value = part["value"]
    if not value.strip():
        return part["mark"] + value
    before = value[: len(value) - len(value.lstrip())]
    after = value[len(value.rstrip()) :]
    return f"{part['mark']}{before}{{{_field(part['name'])}}}{after}"


def _field(name: str) -> str:
    """`name` as the name of a field; empty when nothing of it can be one."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return f"_{plain}" if plain[:1].isdigit() else plain
