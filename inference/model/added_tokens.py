"""Tokens that an adapter's own tokenizer has beyond the base's, as its config carries them. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

KEY: Final = "added_tokens"
"""In adapter_config.json, and so in the digest; the site writes it there from the tokenizer beside an upload."""
MOST: Final = 1000
MAX_CHARS: Final = 200


@dataclass(frozen=True)
class AddedToken:
    """A text that is one token. What `is_special`, of two characters or more, is read in a template alone, never in
    what a user wrote, and is not shown; what `ends` ends an answer."""

    id: int
    content: str
    is_special: bool = True
    ends: bool = False

    def entry(self) -> dict[str, Any]:
        """The same as it stands in a config."""
        return {"id": self.id, "content": self.content, "special": self.is_special, "ends": self.ends}


def read_added(config: Mapping[str, Any]) -> tuple[tuple[AddedToken, ...], list[str]]:
    """The tokens that a config carries, and what is wrong with them, in sentences."""
    entries = config.get(KEY) or []
    if not isinstance(entries, list) or len(entries) > MOST:
        return (), [f"{KEY} must be a list of up to {MOST} tokens, each with its id and content."]
    if not all(map(_is_one, entries)):
        wanted = f"an id from 0, a content of 1 to {MAX_CHARS} characters (2 if special), and special and ends as flags"
        return (), [f"{KEY} has an entry that is no token; each has {wanted}."]
    tokens = tuple(AddedToken(one["id"], one["content"], one["special"], one["ends"]) for one in entries)
    for what, values in (("id", [token.id for token in tokens]), ("content", [token.content for token in tokens])):
        if len({*values}) < len(values):
            return (), [f"{KEY} has two tokens of one {what}."]
    return tokens, []


def _is_one(entry: Any) -> bool:
    if not isinstance(entry, dict) or entry.keys() != {"id", "content", "special", "ends"}:
        return False
    has_text = isinstance(entry["content"], str) and 0 < len(entry["content"].strip()) <= MAX_CHARS
    has_id = type(entry["id"]) is int and 0 <= entry["id"] < 2**31
    has_flags = isinstance(entry["special"], bool) and isinstance(entry["ends"], bool)
    # Of a single character nobody could tell the token from what a user wrote.
    return has_text and has_id and has_flags and (len(entry["content"]) > 1 or not entry["special"])
