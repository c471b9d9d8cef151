"""A training from the site: what its owner wants, where it stands, and its one recorded outcome."""

from __future__ import annotations

import shutil
import uuid
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.db import models
from django.urls import reverse
from django.utils import timezone

from inference.server import trained
from inference.tasks.card import Card, card_of
from inference.tasks.gate_recipe import SCHEDULES, GateRecipe
from inference.tasks.recipe import ExampleInput, Field, Lora, Recipe, Schedule, Source
from loraland import bases
from loraland.bases import Base
from loraland.catalogue.blends import NAMES
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.template import fields_of
from loraland.evals.models import DataSet, Run

LEASE: Final = timedelta(minutes=3)
"""So long one process has a training to itself; a process that died lets it go after that."""
MOST_BREAKS: Final = 10
"""A step that broke off so often in a row, by an error that nobody foresaw or with its process, would do so again."""


class TrainingQuerySet(models.QuerySet["Training"]):
    def active(self) -> TrainingQuerySet:
        """Trainings without an outcome."""
        return self.filter(state__in=Training.ACTIVE)

    def of_other_kind(self, *, is_blend: bool) -> TrainingQuerySet:
        """Trainings of adapters where `is_blend`, else of gates, without those that ended with nothing."""
        ended = models.Q(state__in=(Training.State.FAILED, Training.State.CANCELLED), version=None)
        same = models.Q(gate={})
        return self.exclude(ended).filter(same if is_blend else ~same)

    def claim(self, pk: uuid.UUID) -> Training | None:
        """Take the next step of training `pk` to ourselves; None when another process has it or it has ended.

        One whose step broke off `MOST_BREAKS` times in a row ends here.
        """
        now = timezone.now()
        free = self.active().filter(pk=pk, claimed_until__lte=now)
        if not free.update(claimed_until=now + LEASE, breaks=models.F("breaks") + 1):
            return None
        training = self.select_related("data", "version__adapter", "created_by").get(pk=pk)
        if training.breaks <= MOST_BREAKS:
            return training
        state = training.get_state_display()
        training.end(Training.State.FAILED, f"While {state}, the site broke off {MOST_BREAKS} times. {training.note}")
        return None


class Training(models.Model):
    """One adapter in the making, or the gate of a blend: `gate` has its kind, the digests of its `parts`, their `names`
    as versions, and its numbers.

    `state` goes waiting -> training -> examining -> measuring -> done, or ends in cancelled or failed; `reason` says
    why. The row is the truth: whatever Redis, the training server or a job has forgotten is asked for again from here.
    """

    class State(models.TextChoices):
        WAITING = "waiting"
        TRAINING = "training"
        EXAMINING = "examining", "being examined"
        MEASURING = "measuring", "being measured"
        DONE = "done"
        CANCELLED = "cancelled"
        FAILED = "failed"

    ACTIVE: Final = (State.WAITING, State.TRAINING, State.EXAMINING, State.MEASURING)

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    data = models.ForeignKey(DataSet, on_delete=models.PROTECT, related_name="trainings")

    slug = models.SlugField(max_length=80, help_text="Its name in addresses, and of its task on the leaderboard.")
    name = models.CharField(max_length=120)
    category = models.CharField(max_length=60)
    summary = models.CharField(max_length=240, blank=True, help_text="What it is for, in one plain sentence.")
    template = models.TextField(help_text="Ends where the answer begins.")
    instruction = models.TextField(help_text="The plain request that the base is asked with, to compare.")
    examples = models.JSONField(default=list, blank=True)
    metric = models.CharField(max_length=20)
    labels = models.JSONField(default=list, blank=True)
    many_lines = models.BooleanField(default=False)
    max_answer = models.PositiveIntegerField(help_text="Tokens of an answer at most.")

    base = models.CharField(max_length=200)
    steps = models.PositiveIntegerField()
    batch = models.PositiveIntegerField("rows a step")
    learning_rate = models.FloatField()
    rank = models.PositiveIntegerField()
    target_modules = models.JSONField(default=list)
    nola_basis = models.PositiveIntegerField("random bases", default=0, help_text="Those of a NOLA; 0 for a LoRA.")
    invocation = models.CharField(max_length=200, blank=True, help_text="What invokes an aLoRA; empty for others.")
    gate = models.JSONField(default=dict, blank=True, help_text="Of a blend's gate what it is; empty for an adapter.")
    max_length = models.PositiveIntegerField("tokens a row", help_text="Longer rows are left out.")
    seed = models.PositiveIntegerField(default=1)
    tokens = models.PositiveBigIntegerField(default=0, help_text="About how many it will read: see `presets`.")

    state = models.CharField(max_length=10, choices=State.choices, default=State.WAITING, db_index=True)
    reason = models.TextField(blank=True, help_text="Why it ended as it did.")
    note = models.TextField(blank=True, help_text="What it waits for.")
    is_unwanted = models.BooleanField(default=False, help_text="Its owner wants it to end.")
    is_urgent = models.BooleanField(default=False, help_text="It computes beside visitors' answers, not behind them.")
    cursor = models.CharField(max_length=40, default="0-0", editable=False)
    step = models.PositiveIntegerField(default=0)
    losses = models.JSONField(default=list, blank=True, help_text="[[step, loss in nats a token], …]")
    seconds_left = models.FloatField(null=True, blank=True)
    told = models.DateTimeField(null=True, blank=True, help_text="When the trainer was last heard of.")
    rows = models.PositiveIntegerField(default=0, help_text="That it learnt from.")
    minutes = models.FloatField(null=True, blank=True)
    measured = models.PositiveIntegerField(default=0)
    to_measure = models.PositiveIntegerField(default=0)
    setbacks = models.PositiveIntegerField(default=0, help_text="Attempts to measure that came no further.")
    version = models.ForeignKey(AdapterVersion, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    run = models.ForeignKey(Run, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")

    created = models.DateTimeField(default=timezone.now, editable=False)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, editable=False, on_delete=models.SET_NULL
    )
    started = models.DateTimeField(null=True, blank=True)
    ended = models.DateTimeField(null=True, blank=True)
    breaks = models.PositiveSmallIntegerField(default=0, editable=False, help_text="Steps in a row that broke off.")
    claimed_until = models.DateTimeField(default=timezone.now, editable=False)

    objects = TrainingQuerySet.as_manager()

    class Meta:
        ordering = ["-created"]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("admin:training_training_change", args=[self.pk])

    @property
    def wire_id(self) -> str:
        return self.id.hex

    @property
    def folder(self) -> Path:
        """Holds the rows in `data` and what the trainer makes of them in `out`, until the training has ended."""
        return settings.TRAININGS_DIR / self.wire_id

    @property
    def is_active(self) -> bool:
        return self.state in self.ACTIVE

    @property
    def recipe(self) -> Recipe:
        """What the trainer follows and what the measurement goes by."""
        return Recipe(
            task=self.slug,
            name=self.name,
            category=self.category,
            summary=self.summary,
            description="",
            template=self.template,
            instruction=self.instruction,
            metric=self.metric,
            max_answer=self.max_answer,
            fields=tuple(Field(**field) for field in self.form_fields),
            dataset=Source(self.slug, f"{self.data.name}, uploaded here", ""),
            labels=tuple(self.labels),
            many_lines=self.many_lines,
            examples=tuple(ExampleInput(example["inputs"], example["expected"]) for example in self.examples),
            lora=self.lora,
            schedule=Schedule(self.steps, self.batch, self.learning_rate, max_length=self.max_length, seed=self.seed),
            license="",
            author=self.owner,
        )

    @property
    def lora(self) -> Lora:
        """The shape of the adapter."""
        return Lora(self.rank, 2 * self.rank, tuple(self.target_modules), self.nola_basis, self.invocation or None)

    @property
    def gate_recipe(self) -> GateRecipe | None:
        """How the gate learns; None where an adapter does. Its parts are called by their digests."""
        if not self.gate:
            return None
        own = {name: value for name, value in self.gate.items() if name not in ("parts", "names")}
        numbers = {name: getattr(self, name) for name in ("steps", "batch", "learning_rate", "max_length", "seed")}
        schedule = replace(SCHEDULES[own["kind"]], **numbers)
        parts = tuple(self.gate["parts"])
        return GateRecipe(parts=parts, name=self.name, summary=self.summary, schedule=schedule, **own)

    @property
    def method(self) -> str:
        """What people call the kind of gate that learns; empty for an adapter."""
        return NAMES[self.gate["kind"]] if self.gate else ""

    @property
    def card(self) -> Card:
        """What the catalogue will tell of it."""
        return card_of(self.recipe, self.base, self.rows, self.minutes or 0.0)

    @property
    def of_base(self) -> Base:
        """The base that it is for, which may not be served any more."""
        return bases.recorded(self.base)

    @property
    def form_fields(self) -> list[dict[str, Any]]:
        """The fields of its template, with labels."""
        return fields_of(self.template)

    @property
    def owner(self) -> str:
        return self.created_by.get_username() if self.created_by else ""

    def change(self, **values: Any) -> bool:
        """Set `values` in a training without an outcome; False, and nothing set, when it has one."""
        if not Training.objects.active().filter(pk=self.pk).update(**values):
            return False
        for name, value in values.items():
            setattr(self, name, value)
        return True

    def end(self, state: Training.State, reason: str = "", **values: Any) -> None:
        """Record the one outcome, and put the working files away."""
        outcome = {"state": state, "reason": reason, "note": "", "seconds_left": None, "ended": timezone.now()}
        if self.change(**values | outcome):
            shutil.rmtree(self.folder, ignore_errors=True)
            trained.forget(settings.ADAPTER_STORE, self.wire_id)

    def cancel(self) -> bool:
        """Ask for its end; False when it has ended before."""
        return self.change(is_unwanted=True)

    def hurry(self) -> bool:
        """Ask for a share of the processor like any other's; False when it has ended before."""
        return self.change(is_urgent=True)

    @property
    def can_be_measured(self) -> bool:
        """Whether it ended with a version that answers and was not measured."""
        answers = (AdapterVersion.Status.READY, AdapterVersion.Status.PUBLISHED)
        return (
            not self.is_active and self.run_id is None and self.version is not None and self.version.status in answers
        )

    def measure_again(self) -> bool:
        """Go on with the measurement that an end cut off; False where there is none to go on with."""
        ended = Training.objects.filter(pk=self.pk, run=None).exclude(version=None).exclude(state__in=self.ACTIVE)
        return bool(ended.update(state=self.State.MEASURING, reason="", is_unwanted=False, setbacks=0, ended=None))

    def release(self) -> None:
        """Let another process take the next step at once: this one came to its end."""
        self._let_go(breaks=0)

    def break_off(self, error: Exception) -> None:
        """Let another process try this step again, which `error` broke off."""
        self.change(note=f"It broke off ({type(error).__name__}: {str(error)[:200]}) and is tried again.")
        self._let_go()

    def _let_go(self, **values: Any) -> None:
        mine = Training.objects.filter(pk=self.pk, claimed_until=self.claimed_until)
        mine.update(claimed_until=timezone.now(), **values)
