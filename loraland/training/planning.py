"""The page on which an owner plans a training: the form, what a row becomes by it, and how long it will take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from django.urls import reverse

from inference.tasks.metrics import METRICS
from inference.tasks.recipe import Schedule
from inference.tasks.template import filled
from loraland import bases
from loraland.bases import Base
from loraland.catalogue.models import Adapter
from loraland.evals.forecast import forecast
from loraland.training import presets
from loraland.training.forms import TrainingForm
from loraland.training.presets import PRESETS, Preset, duration
from loraland.training.speed import ms_a_token


@dataclass(frozen=True)
class Ticket:
    """A preset with the time that it would take on these rows."""

    preset: Preset
    time: str
    address: str
    is_chosen: bool


@dataclass(frozen=True)
class Learner:
    """Something that may learn from the rows."""

    name: str
    meaning: str
    address: str
    is_chosen: bool


LEARNERS: Final = (
    (presets.DEFAULT, "An adapter", "New weights beside the base’s."),
    ("flow", "A LoRA-Flow gate", "It weighs published adapters for every token, and is made for these alone."),
    ("ramole", "A RAMoLE router", "It weighs any adapters on the linears that it learned on."),
)
"""By the preset that each begins with."""


@dataclass(frozen=True)
class BaseTicket:
    """A base that an adapter can be trained for, and how many adapters it has."""

    base: Base
    num_adapters: int
    address: str
    is_chosen: bool


def context_of(form: TrainingForm) -> dict[str, Any]:
    """What the page shows."""
    data = form.rows_of
    return {
        "form": form,
        "data": data,
        "forecast": None if form.is_of_gate else forecast(data.heuristics, form.of_base),
        "learners": learners(form),
        "num_train": len(form.parts.learnt),
        "num_validation": len(form.parts.train) - len(form.parts.learnt),
        "num_test": len(form.parts.test),
        "metrics": [(radio, METRICS[radio.data["value"]].meaning) for radio in form["metric"]],
        "placeholders": [f"{{{name}}}" for name in data.fields],
        "numbers": [form[name] for name in form.numbers if name in form.fields],
        "tickets": tickets(form),
        "base": form.of_base,
        "base_tickets": base_tickets(form),
        **preview_of(form),
    }


def preview_of(form: TrainingForm) -> dict[str, Any]:
    """What the first row becomes by the form's prompt, how long training takes, and how many rows are too long."""
    template, schedule = _value(form, "template"), schedule_of(form)
    lengths = form.parts.lengths(template, form.of_base)
    return {
        "pieces": filled(template, form.parts.train[0].inputs),
        "answer": form.parts.train[0].target,
        "time": duration(presets.seconds(schedule, lengths, ms_a_token(form.of_base))),
        "passes": schedule.steps * schedule.batch / max(1, len(form.parts.learnt)),
        "too_long": sum(length > schedule.max_length for length in lengths),
        "steps": schedule.steps,
    }


def schedule_of(form: TrainingForm) -> Schedule:
    """The schedule that the form asks for; a number that is wrong counts as the proposed one."""
    steps, batch, max_length = (int(_value(form, name)) for name in ("steps", "batch", "max_length"))
    return Schedule(steps, batch, max_length=max_length)


def tickets(form: TrainingForm) -> list[Ticket]:
    """The presets with their times; the one is chosen whose steps the form has. None for a gate, which begins with its
    paper's numbers."""
    if form.is_of_gate:
        return []
    wanted, speed = schedule_of(form), ms_a_token(form.of_base)
    lengths, found = form.parts.lengths(_value(form, "template"), form.of_base), []
    for preset in PRESETS:
        schedule = Schedule(preset.schedule.steps, preset.schedule.batch, max_length=wanted.max_length)
        time = duration(presets.seconds(schedule, lengths, speed))
        found.append(Ticket(preset, time, _address(form, form.of_base, preset.key), schedule == wanted))
    return found


def learners(form: TrainingForm) -> list[Learner]:
    """What may be trained, with the one that the form is of."""
    chosen = form.preset if form.is_of_gate else presets.DEFAULT
    return [
        Learner(name, meaning, _address(form, form.of_base, preset), preset == chosen)
        for preset, name, meaning in LEARNERS
    ]


def base_tickets(form: TrainingForm) -> list[BaseTicket]:
    """The bases to train on; none where there is no choice."""
    served = bases.served()
    counts = {base: Adapter.objects.published().filter(base__iexact=base.name).count() for base in served}
    found = [BaseTicket(base, counts[base], _address(form, base, form.preset), base == form.of_base) for base in served]
    return found if len(found) > 1 else []


def _address(form: TrainingForm, base: Base, preset: str) -> str:
    """The page with `preset` for `base`, of which nothing is said where there is no other."""
    of_base = {} if len(bases.served()) == 1 else {"base": base.name}
    return reverse("admin:training_training_add", query={"data": form.rows_of.pk, "preset": preset} | of_base)


def _value(form: TrainingForm, name: str) -> Any:
    """What the form has for `name`: what was sent and is right, else what was proposed."""
    if form.is_bound and (value := form.cleaned_data.get(name)):
        return value
    return form.initial[name]
