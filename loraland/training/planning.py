"""The page on which an owner plans a training: the form, what a row becomes by it, and how long it will take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from django.conf import settings
from django.urls import reverse

from inference.tasks.metrics import METRICS
from inference.tasks.recipe import Schedule
from inference.tasks.template import filled
from loraland.evals.forecast import forecast
from loraland.training import presets
from loraland.training.forms import TrainingForm
from loraland.training.presets import PRESETS, Preset, duration
from loraland.training.speed import ms_a_token

NUMBERS: Final = ("steps", "batch", "learning_rate", "rank", "max_length")


@dataclass(frozen=True)
class Ticket:
    """A preset with the time that it would take on these rows."""

    preset: Preset
    time: str
    address: str
    is_chosen: bool


def context_of(form: TrainingForm) -> dict[str, Any]:
    """What the page shows."""
    data = form.rows_of
    return {
        "form": form,
        "data": data,
        "forecast": forecast(data.heuristics),
        "num_train": len(form.parts.learnt),
        "num_validation": len(form.parts.train) - len(form.parts.learnt),
        "num_test": len(form.parts.test),
        "metrics": [(radio, METRICS[radio.data["value"]].meaning) for radio in form["metric"]],
        "placeholders": [f"{{{name}}}" for name in data.fields],
        "numbers": [form[name] for name in NUMBERS],
        "tickets": tickets(form),
        "base_name": settings.BASE_NAME,
        **preview_of(form),
    }


def preview_of(form: TrainingForm) -> dict[str, Any]:
    """What the first row becomes by the form's prompt, how long training takes, and how many rows are too long."""
    template, schedule = _value(form, "template"), schedule_of(form)
    lengths = form.parts.lengths(template)
    return {
        "pieces": filled(template, form.parts.train[0].inputs),
        "answer": form.parts.train[0].target,
        "time": duration(presets.seconds(schedule, lengths, ms_a_token())),
        "passes": schedule.steps * schedule.batch / max(1, len(form.parts.learnt)),
        "too_long": sum(length > schedule.max_length for length in lengths),
        "steps": schedule.steps,
    }


def schedule_of(form: TrainingForm) -> Schedule:
    """The schedule that the form asks for; a number that is wrong counts as the proposed one."""
    steps, batch, max_length = (int(_value(form, name)) for name in ("steps", "batch", "max_length"))
    return Schedule(steps, batch, max_length=max_length)


def tickets(form: TrainingForm) -> list[Ticket]:
    """The presets with their times; the one is chosen whose steps the form has."""
    wanted, speed, lengths = schedule_of(form), ms_a_token(), form.parts.lengths(_value(form, "template"))
    found = []
    for preset in PRESETS:
        schedule = Schedule(preset.schedule.steps, preset.schedule.batch, max_length=wanted.max_length)
        time = duration(presets.seconds(schedule, lengths, speed))
        address = reverse("admin:training_training_add", query={"data": form.rows_of.pk, "preset": preset.key})
        found.append(Ticket(preset, time, address, schedule == wanted))
    return found


def _value(form: TrainingForm, name: str) -> Any:
    """What the form has for `name`: what was sent and is right, else what was proposed."""
    if form.is_bound and (value := form.cleaned_data.get(name)):
        return value
    return form.initial[name]
