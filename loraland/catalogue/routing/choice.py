"""Which adapter is for a text: the nearest of those that the text can fill, or the base where none is near."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from django.conf import settings

from inference.tasks.embedding import bare
from inference.tasks.template import unfill
from inference.tasks.vectors import embed, general, seen
from loraland.catalogue.fields import of_lines, of_object
from loraland.catalogue.routing.index import Candidate, Index, Places, Scored

RUNNERS_UP: Final = 3

Reason = Literal["", "nothing_fits", "general", "far", "tools", "earlier_turns"]
"""Why the base answers: no adapter takes such a text, it is one that people ask of a base, the nearest adapter is below
the threshold, an adapter has no place for the tools or for the earlier turns. Empty where an adapter answers."""


@dataclass(frozen=True)
class Choice:
    """The adapter that is `chosen` and what its fields are filled with; without one the base answers for a `reason`.

    `fillings` are what the runners-up would be filled with."""

    chosen: Scored | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    runners_up: tuple[Scored, ...] = ()
    reason: Reason = ""
    fillings: tuple[dict[str, str], ...] = ()

    @property
    def told(self) -> dict[str, Any]:
        """What an answer says of it."""
        about = told(self.chosen) if self.chosen else {"adapter": None, "digest": "", "score": None}
        return about | {"runners_up": list(map(told, self.runners_up)), "reason": self.reason}


@dataclass(frozen=True)
class Way:
    """A way to read what is asked, for the candidates at some `places`: what fills several fields of theirs, or the
    text that fills the one that each has. `text` is what stands in the fields, without their template."""

    text: str
    places: Places
    inputs: dict[str, str] | None = None

    def filling(self, candidate: Candidate) -> dict[str, str]:
        return {candidate.fields[0]: self.text} if self.inputs is None else self.inputs


def choose(
    index: Index,
    keys: Sequence[str],
    text: str,
    inputs: dict[str, str] | None = None,
    runners_up: int = RUNNERS_UP,
) -> Choice:
    """The adapter for `text`, or for the `inputs` of a template, among those of the bases with `keys`.

    A text that names the fields of adapters, or is a template of theirs already filled, is for one of these; any other
    fills adapters of one field. Which is nearest hangs on what stands in the fields alone.
    """
    ways = _of_inputs(index, inputs) if inputs is not None else _of_text(index, text)
    found = [(scored, way) for way in ways for scored in _nearest(index, keys, way, runners_up + 1)]
    found.sort(key=lambda each: (-each[0].score, each[0].candidate.slug))
    if not found:
        return Choice(reason="nothing_fits")
    (first, way), *others = found[: runners_up + 1]
    if inputs is None and (reason := _against(first, way)):
        return Choice(runners_up=tuple(scored for scored, _ in found[:RUNNERS_UP]), reason=reason)
    fillings = tuple(way.filling(scored.candidate) for scored, way in others)
    return Choice(first, way.filling(first.candidate), tuple(scored for scored, _ in others), fillings=fillings)


def _against(first: Scored, way: Way) -> Reason:
    """Why the base answers and not the `first` of the candidates; empty where nothing speaks for that. Who writes as an
    adapter's template does, or names its fields, asks nothing general."""
    if first.score < settings.AUTO_THRESHOLD / 100:
        return "far"
    if way.inputs is not None:
        return ""
    vector = embed(way.text).astype(np.float64)
    return "general" if max(float(kind @ vector) for kind in general()) >= first.score else ""


def _nearest(index: Index, keys: Sequence[str], way: Way, most: int) -> list[Scored]:
    return index.nearest(seen(way.text), index.of_bases(way.places, keys), most)


def _of_inputs(index: Index, inputs: dict[str, str]) -> Iterator[Way]:
    for fields, places in index.by_fields.items():
        if set(fields) == set(inputs):
            yield Way(bare(inputs, fields), places, inputs)


def _of_text(index: Index, text: str) -> list[Way]:
    ways = list(_of_whole_prompt(index, text)) or list(_of_named_fields(index, text))
    return ways or [Way(text, index.lone)]


def _of_whole_prompt(index: Index, text: str) -> Iterator[Way]:
    begun = text.lstrip()
    for opening, template, places in index.templates:
        if begun.startswith(opening) and (inputs := unfill(template, text)):
            yield Way(bare(inputs, index.candidates[places[0]].fields), places, inputs)


def _of_named_fields(index: Index, text: str) -> Iterator[Way]:
    for fields, places in index.by_fields.items():
        if len(fields) > 1 and (inputs := of_object(text, fields) or of_lines(text, fields)):
            yield Way(bare(inputs, fields), places, inputs)


def told(scored: Scored) -> dict[str, Any]:
    """What an answer says of one candidate."""
    candidate = scored.candidate
    return {"adapter": candidate.slug, "digest": candidate.digest, "score": round(scored.score, 4)}
