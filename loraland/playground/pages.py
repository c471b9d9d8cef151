"""What the chat and compare pages show: their rows read once and put in the order of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from django.db.models import QuerySet

from loraland.bases import Base
from loraland.catalogue import listing
from loraland.catalogue.composition import base_of
from loraland.catalogue.models import AdapterVersion
from loraland.generations.visitor import Visitor
from loraland.playground.answers import AnswerView, Style, style_of, view_of
from loraland.playground.comparisons import column_partner, expectation_of, lead_of, name_of, reading
from loraland.playground.composer import Example, example_of
from loraland.playground.judgement import Expectation
from loraland.playground.models import Column, Conversation, Turn
from loraland.playground.partner import Partner, base_in, version_in

LISTED: Final = 40
OFFERED: Final = 12
ASKED: Final = 5
DRAWN: Final = 8
"""Strips in a chat; each may be 200 kB of the page."""


@dataclass(frozen=True)
class TurnView:
    """What was asked, as (label, text) pairs, and every answer given; the last one is shown first."""

    id: int
    said: tuple[tuple[str, str], ...]
    answers: tuple[AnswerView, ...]


@dataclass(frozen=True)
class ColumnView:
    """One column of the compare page; `name` is what the address calls it, `note` how it reads the prompt."""

    position: int
    name: str
    partner: Partner
    note: str
    style: Style
    answer: AnswerView | None = None
    fewer: str = ""
    """The address of the page without this column."""
    choice: str = ""
    """The address where another one is chosen for it."""

    @property
    def version(self) -> AdapterVersion | None:
        return version_in(self.partner)

    @property
    def base(self) -> Base:
        return base_in(self.partner) or base_of(self.version)

    @property
    def title(self) -> str:
        """Who answers in it, in short."""
        if (version := self.version) is None:
            return f"{self.base.name} (base)" if self.base.is_served else f"{self.base.name}, no longer served"
        return f"{version.adapter.name} @{version.short_digest}" if "@" in self.name else version.adapter.name


def conversations_of(visitor: Visitor) -> QuerySet[Conversation]:
    """The visitor's latest conversations."""
    return Conversation.objects.of(visitor).select_related("adapter__published__adapter")[:LISTED]


def turns_of(conversation: Conversation) -> list[TurnView]:
    turns = conversation.turns.prefetch_related("answers__generation__adapter_version__adapter")
    version = conversation.adapter.published if conversation.adapter else None
    return _drawn([_turn(turn, version.labels if version else {}) for turn in turns])


def _drawn(turns: list[TurnView]) -> list[TurnView]:
    """The turns with strips under the newest `DRAWN` of a blend's answers."""
    answers = [answer for turn in turns for answer in turn.answers]
    weighed = [answer.id for answer in answers if answer.generation and answer.generation.weights]
    older = {*weighed[:-DRAWN]}

    def drawn(answer: AnswerView) -> AnswerView:
        return replace(answer, is_drawn=False) if answer.id in older else answer

    return [replace(turn, answers=tuple(map(drawn, turn.answers))) for turn in turns] if older else turns


def _turn(turn: Turn, labels: dict[str, str]) -> TurnView:
    generations = [answer.generation for answer in turn.answers.all()]
    answers = tuple(view_of(generation, expectation_of(generation)) for generation in generations)
    if turn.inputs is None:
        return TurnView(turn.pk, (("", turn.text),), answers)
    is_lone = len(turn.inputs) == 1
    said = tuple(("" if is_lone else labels.get(name, name), value) for name, value in turn.inputs.items())
    return TurnView(turn.pk, said, answers)


def examples() -> list[Example]:
    """What to ask the land: a first example of each adapter that gained most."""
    found = [example_of(adapter.published) for adapter in listing.specialists(OFFERED) if adapter.published]
    return [example for example in found if example][:ASKED]


def empty_columns(competitors: Sequence[Partner]) -> list[ColumnView]:
    """The columns before anything was asked."""
    lead = lead_of(competitors)
    return [_column(position, partner, lead) for position, partner in enumerate(competitors)]


def asked_columns(columns: Sequence[Column], expectation: Expectation | None) -> list[ColumnView]:
    """The columns of a comparison with what became of each."""
    partners = [column_partner(column) for column in columns]
    lead = lead_of(partners)
    return [
        _column(column.position, partner, lead, _became(column, expectation))
        for column, partner in zip(columns, partners, strict=True)
    ]


def _column(
    position: int, partner: Partner, lead: AdapterVersion | None, answer: AnswerView | None = None
) -> ColumnView:
    version = version_in(partner)
    note, style = reading(version, lead, None).note, style_of(version)
    return ColumnView(position, name_of(partner), partner, note, style, answer)


def _became(column: Column, expectation: Expectation | None) -> AnswerView | None:
    if column.generation:
        return view_of(column.generation, expectation)
    return AnswerView(None, "failed", error=column.refusal) if column.refusal else None
