"""What the chat and compare pages show: their rows read once and put in the order of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from django.db.models import Prefetch, Q, QuerySet

from loraland.bases import Base
from loraland.catalogue import listing
from loraland.catalogue.composition import base_of
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.catalogue.versions import Reader
from loraland.generations.visitor import Visitor
from loraland.playground.answers import AnswerView, Style, style_of, view_of
from loraland.playground.comparisons import column_partner, expectation_of, lead_of, name_of, reading
from loraland.playground.composer import Example, example_of
from loraland.playground.judgement import Expectation
from loraland.playground.models import Column, Conversation, Turn
from loraland.playground.partner import Partner, base_in, version_in

QUERY_CHARS: Final = 120
"""So much of what is searched for is looked at."""
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

    @property
    def version(self) -> AdapterVersion | None:
        return version_in(self.partner)

    @property
    def is_unlisted(self) -> bool:
        """Whether no menu offers this version any more, or this base."""
        if (version := self.version) is None:
            return not self.base.is_served
        return "@" in self.name and version.status != AdapterVersion.Status.READY

    @property
    def base(self) -> Base:
        return base_in(self.partner) or base_of(self.version)


@dataclass(frozen=True)
class Option:
    """One entry of a column's menu."""

    name: str
    label: str


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


def found_adapters(query: str, category: str) -> QuerySet[Adapter]:
    """The adapters that answer here, by words in their name, slug, category or summary, and by category."""
    adapters = Adapter.objects.served().select_related("published__adapter")
    for word in query[:QUERY_CHARS].split()[:8]:
        adapters = adapters.filter(
            Q(name__icontains=word) | Q(slug__icontains=word) | Q(category__icontains=word) | Q(summary__icontains=word)
        )
    return adapters.filter(category=category) if category else adapters


def specialists() -> list[Adapter]:
    """Whom to offer a newcomer: the adapters that gained most, the unmeasured last, none that gained nothing."""
    cards = [
        card
        for card in listing.all_cards()
        if card.is_served and (card.score is None or (card.score.is_clear and card.score.gain > 0))
    ]
    return [card.adapter for card in listing.select(cards, listing.Query(order="gain"))][:OFFERED]


def examples() -> list[Example]:
    """What to ask the land: a first example of each adapter that gained most."""
    found = [example_of(adapter.published) for adapter in specialists() if adapter.published]
    return [example for example in found if example][:ASKED]


def categories() -> list[str]:
    return sorted(set(Adapter.objects.served().order_by().values_list("category", flat=True)) - {""})


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


def column_options(reader: Reader) -> list[tuple[str, list[Option]]]:
    """The menu of a column, by category: every adapter that answers here and its other ready versions."""
    ready = AdapterVersion.objects.seen_by(reader).filter(status=AdapterVersion.Status.READY).exclude(digest="")
    groups: dict[str, list[Option]] = {}
    adapters = Adapter.objects.served().order_by("category", "name").prefetch_related(Prefetch("versions", ready))
    for adapter in adapters:
        groups.setdefault(adapter.category or "Other", []).extend(_options(adapter))
    return list(groups.items())


def _options(adapter: Adapter) -> list[Option]:
    others = [
        Option(f"{adapter.slug}@{version.short_digest}", f"{adapter.name} @{version.short_digest}")
        for version in adapter.versions.all()
        if version.pk != adapter.published_id
    ]
    of_base = "" if adapter.served_base.is_default else f" · {adapter.served_base.name}"
    return [Option(adapter.slug, adapter.name + of_base), *others]
