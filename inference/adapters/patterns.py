"""Regular expressions of strangers, as PEFT reads them, in bounded time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

import regex

SECONDS: Final = 1.0
"""How long one expression may look at one name: a sound one takes microseconds."""
MAX_CHARS: Final = 2000

_LITERAL: Final = re.compile(r"[A-Za-z0-9_.]{1,200}")
"""A key that is a name. Its dots may stand for any character in PEFT, but no two modules differ by that."""


class PatternRefused(ValueError):
    """An expression that cannot be read or runs away; the message is a sentence."""


def is_literal(key: str) -> bool:
    return bool(_LITERAL.fullmatch(key))


def fullmatch(pattern: str, name: str) -> bool:
    """Whether `pattern` matches the whole of `name`. Raises `PatternRefused`."""
    try:
        return bool(compiled(pattern).fullmatch(name, timeout=SECONDS))
    except TimeoutError as error:
        sentence = f"The pattern {_short(pattern)} takes too long on {name}; write it without nested repetitions."
        raise PatternRefused(sentence) from error


@lru_cache(maxsize=4096)
def compiled(pattern: str) -> Any:
    """Raises `PatternRefused` for what is no regular expression."""
    if len(pattern) > MAX_CHARS:
        raise PatternRefused(
            f"The pattern {_short(pattern)} has {len(pattern)} characters; at most {MAX_CHARS} are read."
        )
    try:
        return regex.compile(pattern)
    except (regex.error, RecursionError) as error:
        raise PatternRefused(f"The pattern {_short(pattern)} is no regular expression ({error}).") from error


def order_matters(pattern: Mapping[str, Any]) -> bool:
    """Whether another order of the keys might give a module another value."""
    keys = list(pattern)
    if not all(map(is_literal, keys)):
        return True
    values: dict[str, Any] = dict(pattern)
    return any(values[end] != value for key, value in values.items() for end in _ends(key) if end in values)


def _ends(key: str) -> Iterable[str]:
    """What follows each dot of `key`."""
    parts = key.split(".")
    return (".".join(parts[start:]) for start in range(1, len(parts)))


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}…")
