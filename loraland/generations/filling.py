"""Messages before an adapter with a prompt of its own: which of them fill it, and which are not used.

Its template has places for fields and none for a chat. One field is filled with the last message of the user. Several
are filled by ``inputs``, by a last message of the user that is a JSON object of the fields, or by one that writes each
field at the beginning of a line, as ``field: text``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inference.wire.protocol import Message
from loraland.catalogue.composition import Composition
from loraland.catalogue.fields import of_lines, of_object
from loraland.catalogue.models import AdapterVersion
from loraland.refusal import Refused

Source = dict[str, Any]
"""What is asked, as `generations.start` takes it."""


@dataclass(frozen=True)
class Filled:
    """What is asked of an adapter, and the places of the messages of which nothing is used."""

    source: Source
    unused: tuple[int, ...] = ()


def filled(version: AdapterVersion | Composition | None, source: Source) -> Filled:
    """`source` as `version` takes it. Raises `Refused` where messages do not fill the fields."""
    fields = version.field_names if version and version.template else ()
    messages: Sequence[Message] = source.get("messages") or ()
    rest = {name: value for name, value in source.items() if name != "messages"}
    if source.get("inputs") is not None:
        return Filled(rest, _written(messages))
    last = next((place for place in reversed(range(len(messages))) if messages[place].role == "user"), None)
    if not fields or last is None:
        return Filled(source)
    unused = tuple(place for place in _written(messages) if place != last)
    if len(fields) == 1:
        return Filled(source, unused)
    inputs = of_object(messages[last].content, fields) or of_lines(messages[last].content, fields)
    if inputs is None:
        raise Refused("inputs_required", f"This adapter's prompt has several fields; {forms(fields)}.", param="inputs")
    return Filled(rest | {"inputs": inputs}, unused)


def forms(fields: Sequence[str]) -> str:
    """How the fields can be given, as the rest of a sentence."""
    example = json.dumps(dict.fromkeys(fields, "…"), ensure_ascii=False)
    lines = " and ".join(f"'{name}: …'" for name in fields)
    return f"give them as inputs, as a last message that is the object {example}, or as one with the lines {lines}"


def form_of(fields: Sequence[str]) -> str:
    """A last message that fills these fields, line by line; empty where any text does."""
    return "\n".join(f"{name}: …" for name in fields) if len(fields) > 1 else ""


def _written(messages: Sequence[Message]) -> tuple[int, ...]:
    return tuple(place for place, message in enumerate(messages) if message.content.strip())
