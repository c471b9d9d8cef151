"""What a client's script stands on: a function a column, run one after the other, one line of JSON for each.

It runs in the client's own environment, where nothing of the project is installed: the standard library has to do.
The address, the key and the adapter are in the environment: LORALAND_URL, LORALAND_KEY, LORALAND_ADAPTER.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable

URL = os.environ.get("LORALAND_URL", "")
V1 = f"{URL}/v1"
KEY = os.environ.get("LORALAND_KEY", "")
ADAPTER = os.environ.get("LORALAND_ADAPTER", "tweet_emotion")
"""An adapter with a template of one field."""
SAMPLE = "i feel so happy that the sun is out today"
HELLO = [{"role": "user", "content": "Name a colour."}]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Oslo", "Lima"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "The weather of a city", "parameters": WEATHER},
}

_columns: dict[str, Callable[[], str | None]] = {}


def column(name: str) -> Callable[[Callable[[], str | None]], Callable[[], str | None]]:
    """Mark a function as the proof of a column: it raises where the client breaks, and may say what it found."""

    def keep(prove: Callable[[], str | None]) -> Callable[[], str | None]:
        _columns[name] = prove
        return prove

    return keep


def check(is_true: object, what: object) -> None:
    """Assert in words, also where Python drops assertions."""
    if not is_true:
        raise AssertionError(f"unexpected: {str(what)[:300]}")


def is_person(text: str) -> None:
    """The text is JSON of `PERSON`."""
    found = json.loads(text)
    check(set(found) == {"name", "age"} and isinstance(found["age"], int), text)


def is_weather(text: str) -> None:
    """The text is JSON of `WEATHER`."""
    check(json.loads(text)["city"] in ("Oslo", "Lima"), text)


def main() -> None:
    """Prove the columns named on the command line, or all."""
    for name in sys.argv[1:] or list(_columns):
        try:
            told = {"column": name, "works": True, "note": _columns[name]() or ""}
        except BaseException as error:  # a client may end in anything
            traceback.print_exc()
            told = {"column": name, "works": False, "note": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(told), flush=True)
