"""A chat whose partner was chosen for it: by its first message, or by the visitor among those that were near."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loraland.bases import Base
from loraland.catalogue.fields import of_lines, of_object
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.generations.filling import forms
from loraland.playground.messages import Prompt
from loraland.playground.models import Conversation, Turn
from loraland.playground.partner import Partner
from loraland.refusal import Refused

if TYPE_CHECKING:
    from loraland.catalogue.routing.choice import Choice

REASONS = {
    "far": "No adapter is near enough to what you wrote.",
    "general": "This is what people ask of a base, not of a specialist.",
    "nothing_fits": "No adapter takes such a text.",
}


@dataclass(frozen=True)
class Other:
    """Somebody else who could answer: an adapter with its score, or a base, which has none."""

    name: str
    title: str
    score: float | None = None
    version: AdapterVersion | None = None


@dataclass(frozen=True)
class ChosenView:
    """Why the partner of a chat answers, and who else could: `words` say the first, `others` are offered."""

    words: str
    score: float | None
    others: tuple[Other, ...]


def choose_partner(prompt: Prompt, among: Sequence[Base]) -> tuple[Partner, Prompt, Choice]:
    """Who answers `prompt`, which comes back as they read it, and why."""
    # numpy, without which the site starts
    from loraland.catalogue.routing.choice import choose
    from loraland.catalogue.routing.known import known

    choice = choose(known.index(), [base.key for base in among], prompt.text, prompt.inputs)
    if choice.chosen is None:
        return among[0], prompt, choice
    version = AdapterVersion.objects.shown().named(choice.chosen.candidate.slug)
    return version, Prompt(inputs=choice.inputs), choice


def refitted(turn: Turn, version: AdapterVersion | None) -> Prompt:
    """What was said in `turn` as another partner reads it. Raises `Refused` where that is nothing for their fields."""
    fields = version.field_names if version and version.template else ()
    inputs = turn.inputs or {}
    text = turn.text or _written(inputs)
    if not fields:
        return Prompt(text=text)
    if len(fields) == 1:
        return Prompt(inputs={fields[0]: text})
    found = inputs if set(inputs) == set(fields) else of_object(text, fields) or of_lines(text, fields)
    if found is None:
        raise Refused("inputs_required", f"This adapter's prompt has several fields; {forms(fields)}.", param="inputs")
    return Prompt(inputs={name: found[name] for name in fields})


def chosen_view(conversation: Conversation, base: Base) -> ChosenView | None:
    """Why the partner of `conversation`, whose base is `base`, answers; None where the visitor named it at first."""
    if not (route := conversation.route):
        return None
    now = conversation.adapter.slug if conversation.adapter else None
    scores = {each["adapter"]: each["score"] for each in [route, *route["runners_up"]] if each["adapter"]}
    adapters = Adapter.objects.served().filter(slug__in=scores).select_related("published")
    others = [
        Other(adapter.slug, adapter.name, scores[adapter.slug], adapter.published)
        for adapter in sorted(adapters, key=lambda adapter: (-scores[adapter.slug], adapter.slug))
        if adapter.slug != now
    ]
    if now:
        others.append(Other(base.called, "The plain base"))
    return ChosenView(_words(route, now), scores.get(now or ""), tuple(others))


def _words(route: dict[str, Any], now: str | None) -> str:
    if now != route["adapter"]:
        return "You chose this one yourself."
    return REASONS.get(route["reason"], "") if now is None else "The nearest to what you wrote."


def _written(inputs: dict[str, str]) -> str:
    """What stands in `inputs`, as a text that fills them again."""
    lone = list(inputs.values())
    return lone[0] if len(lone) == 1 else "\n".join(f"{name}: {value}" for name, value in inputs.items())
