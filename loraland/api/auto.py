"""Whom a call means, and what it asks of them: who is named, or where ``auto`` is named the adapter that fits.

A named adapter reads a finished prompt as it stands. One that was chosen has its own template filled, at every address:
who asks for `auto` cannot know it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from asgiref.sync import sync_to_async

from inference.wire.protocol import Message
from loraland import bases
from loraland.api.entries import added_up, meant
from loraland.bases import Base
from loraland.catalogue.composition import MAX_PARTS, Composition
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.routing.reachable import reachable
from loraland.generations.visitor import Visitor
from loraland.refusal import Refused

if TYPE_CHECKING:
    from loraland.catalogue.routing.choice import Choice

Source = dict[str, Any]
"""What is asked, as `generations.start` takes it."""


LOOKED_AT: Final = 3 * MAX_PARTS
"""How many of the nearest are looked at for a sum: of those that cannot be added up there are few."""


class Asked(Protocol):
    @property
    def model(self) -> str: ...

    def sources(self) -> list[Source]: ...


@dataclass(frozen=True)
class Addressed:
    """Who answers a call, and by which `name`; with `source` it is asked that and nothing else.

    `told` is what the answer says of the choice, where there was one.
    """

    version: AdapterVersion | Composition | None
    name: str
    source: Source | None = None
    told: dict[str, Any] = field(default_factory=dict)


async def addressed(asked: Asked, visitor: Visitor, is_embedding: bool = False) -> Addressed:
    """Whom `asked` means. Raises `Refused`."""
    if not bases.is_auto(asked.model):
        return Addressed(await meant(asked.model, visitor), asked.model)
    count = added_up(asked.model)
    source = _one_text(asked.sources(), is_embedding)
    candidates = await reachable(asked.model)
    choice = await sync_to_async(_chosen)(source, candidates, bool(getattr(asked, "keep_turns", False)), count)
    if count > 1 and choice.chosen is not None:
        return await _added_up(source, choice, count, visitor)
    told = {"route": choice.told}
    if choice.chosen is None:
        if source.get("inputs") is not None:
            raise _no_such_fields(source["inputs"])
        return Addressed(None, candidates[0].called, source, told)
    name = choice.chosen.candidate.slug
    return Addressed(await meant(name, visitor), name, _filling(source, choice.inputs), told)


async def _added_up(source: Source, choice: Choice, count: int, visitor: Visitor) -> Addressed:
    """The sum of the `count` best, by its name: a call by that name would be the same one."""
    from loraland.catalogue.routing.mixture import mixed  # numpy, without which the site starts

    mixture = await sync_to_async(mixed)(choice, count)
    inputs, told = mixture.parts[0].inputs, {"route": mixture.told}
    return Addressed(await meant(mixture.name, visitor), mixture.name, _filling(source, inputs), told)


def _one_text(sources: Sequence[Source], is_embedding: bool) -> Source:
    """The one text by which is chosen. Raises `Refused`."""
    if is_embedding:
        sentence = "auto chooses who answers; vectors of different adapters cannot be compared, so name a model."
        raise Refused("invalid_model", sentence, param="model")
    if len(sources) > 1:
        sentence = f"auto chooses by one prompt, and these are {len(sources)}; send a call for each."
        raise Refused("invalid_request", sentence, param="prompt")
    if sources[0].get("token_ids") is not None:
        sentence = "auto chooses by a text, and these are token ids, or are made such by truncate; send the text."
        raise Refused("invalid_request", sentence, param="prompt")
    return sources[0]


def _chosen(source: Source, candidates: Sequence[Base], keeps_turns: bool, count: int) -> Choice:
    # numpy, without which the site starts
    from loraland.catalogue.routing.choice import RUNNERS_UP, Choice, choose
    from loraland.catalogue.routing.known import known

    messages: Sequence[Message] = source.get("messages") or ()
    if source.get("tool_choice") in ("auto", "one"):
        return Choice(reason="tools")
    if keeps_turns and sum(bool(message.content.strip()) for message in messages) > 1:
        return Choice(reason="earlier_turns")
    last = _last_of_user(messages)
    text = source.get("prompt") or ("" if last is None else messages[last].content)
    most = RUNNERS_UP if count == 1 else LOOKED_AT
    return choose(known.index(), [base.key for base in candidates], text, source.get("inputs"), most)


def _filling(source: Source, inputs: dict[str, str]) -> Source:
    """`source` as the chosen adapter takes it: the `inputs` for its fields, in place of a prompt or of the message that
    chose it."""
    messages: Sequence[Message] = source.get("messages") or ()
    last = _last_of_user(messages)
    if source.get("inputs") is not None:
        return source
    if last is None:
        return {name: value for name, value in source.items() if name != "prompt"} | {"inputs": inputs}
    lone = list(inputs.values())
    content = lone[0] if len(lone) == 1 else json.dumps(inputs, ensure_ascii=False)
    return source | {"messages": [*messages[:last], replace(messages[last], content=content), *messages[last + 1 :]]}


def _last_of_user(messages: Sequence[Message]) -> int | None:
    return next((place for place in reversed(range(len(messages))) if messages[place].role == "user"), None)


def _no_such_fields(inputs: dict[str, str]) -> Refused:
    sentence = f"No adapter here has exactly the fields {', '.join(inputs)[:200]}; name an adapter, or send a text."
    return Refused("invalid_request", sentence, param="inputs")
