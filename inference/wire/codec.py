"""How frozen dataclasses become text and come back: one JSON object each, whose ``kind`` names its class."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cache
from typing import Any, Generic, TypeVar, get_args, get_type_hints

Message = TypeVar("Message")


class ProtocolError(ValueError):
    """A message that this version cannot read."""


class Codec(Generic[Message]):
    """Writes and reads the messages of `kinds`, which may hold other dataclasses and tuples of them.

    Without `allow_nan` a number that is not finite is a ValueError.
    """

    def __init__(self, *kinds: type, allow_nan: bool = True) -> None:
        self._kinds = {kind.__name__.lower(): kind for kind in kinds}
        # What is no JSON value is a message inside a message: its fields.
        self._encoder = json.JSONEncoder(separators=(",", ":"), default=vars, allow_nan=allow_nan)

    def encode(self, message: Message) -> str:
        """Write `message` as one JSON object on one line."""
        return self._encoder.encode({"kind": type(message).__name__.lower(), **vars(message)})

    def decode(self, text: str | bytes) -> Any:
        """Read a message back, in the class that its ``kind`` names.

        Raises `ProtocolError` for text that is not JSON, for an unknown kind and for missing or unknown fields.
        """
        try:
            data = json.loads(text)
            return _build(self._kinds[data.pop("kind")], data)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ProtocolError(f"unreadable message {str(text)[:80]!r}: {error}") from error


def _build(cls: Any, data: dict[str, Any]) -> Any:
    """Make a `cls` of plain JSON values; unknown keys raise TypeError in its constructor."""
    nested = _nested(cls)
    return cls(**{name: _value(nested.get(name), value) for name, value in data.items()})


def _value(cls: Any, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_value(cls, item) for item in value)
    return _build(cls, value) if cls and isinstance(value, dict) else value


@cache
def _nested(cls: Any) -> Mapping[str, Any]:
    """The fields of `cls` that hold messages, or tuples of them, and of which class."""
    found = {name: _class_in(hint) for name, hint in get_type_hints(cls).items()}
    return {name: inner for name, inner in found.items() if inner}


def _class_in(hint: Any) -> Any:
    return hint if is_dataclass(hint) else next(filter(None, map(_class_in, get_args(hint))), None)
