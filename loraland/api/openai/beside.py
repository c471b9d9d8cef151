"""What stands in an object beside what is read of it: told where it changes nothing, else refused by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from loraland.api.openai.neutral import Rule, sift, way_out
from loraland.api.tools.asked import shown, wrong


def beside(given: Mapping[str, Any], read: Collection[str], rules: Mapping[str, Rule], path: str) -> list[str]:
    """The paths of what changes nothing in `given`, of which `read` is used. Raises `ApiError`."""
    kept, ignored, refused = sift(given, rules, read)
    for name in refused:
        raise wrong(f"{path}.{name}", f"{shown(given[name])} is not offered here; {way_out(rules[name])}")
    for name, value in kept.items():
        if name not in read and value is not None:
            known = ", ".join(sorted({*read, *rules}))
            raise wrong(f"{path}.{name}", f"nothing is known of it here; leave it out. What is read is {known}")
    return [f"{path}.{name}" for name in ignored]
