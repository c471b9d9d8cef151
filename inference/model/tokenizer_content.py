"""Parts of the content of a tokenizer.json, for those who make one of another file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

BYTE_LETTERS: Final = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
"""Bytes as letters: cut into no words before, and read back behind."""


def added_token(number: int, text: str, is_special: bool) -> dict[str, Any]:
    """A token that is found in a text before it is cut."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": text, **flags, "special": is_special}


def opening(name: str, vocab: Mapping[str, int]) -> dict[str, Any]:
    """What puts the token `name` before a text."""
    start, text = {"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    known = {name: {"id": name, "ids": [vocab[name]], "tokens": [name]}}
    return {"type": "TemplateProcessing", "single": [start, text], "pair": [start, text, text], "special_tokens": known}


def split_at(pattern: str) -> dict[str, Any]:
    """Cuts a text into what the expression `pattern` finds, and what lies between."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
