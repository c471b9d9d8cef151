"""What was measured: runs over the rows of a task, and every answer in them. A finished run never changes."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.db import models
from django.urls import reverse
from django.utils import timezone

from inference.tasks.baseline import STYLES
from inference.tasks.metrics import SCORING, Tally
from loraland.catalogue import distant
from loraland.catalogue.models import AdapterVersion

FEWEST_ROWS: Final = 100
"""Test rows from which on a gain enters the averages: with these a share is known to about ten points."""


class RunFinished(Exception):
    """A finished run would have changed; the message is a sentence."""


def rules_of_today() -> int:
    """The number of the rules by which answers are scored now."""
    return SCORING


class RunQuerySet(models.QuerySet["Run"]):
    def finished(self) -> RunQuerySet:
        return self.filter(finished__isnull=False)

    def whole(self) -> RunQuerySet:
        """Finished runs with an answer to every row here, the newest first; imported ones have the sum alone."""
        every = self.finished().annotate(kept=models.Count("samples"))
        return every.filter(kept=models.F("n")).order_by("-finished")

    def of_today(self) -> RunQuerySet:
        """Runs whose answers were scored by the rules of today: only these can be compared."""
        return self.filter(scoring=SCORING)

    def public(self) -> RunQuerySet:
        """Finished runs but those of drafts, which only their owners know of."""
        return self.finished().exclude(_is_of_a_draft())

    def hidden(self) -> RunQuerySet:
        """The others that are finished."""
        return self.finished().filter(_is_of_a_draft())

    def on_test(self) -> RunQuerySet:
        """Finished runs over test rows, the newest first."""
        return self.finished().filter(split=Run.Split.TEST).order_by("-finished")

    def drawn(self) -> RunQuerySet:
        """Finished runs over a few drawn test rows, the newest first: they show answers and never count as scores."""
        return self.finished().filter(split=Run.Split.DRAWN).order_by("-finished")


def _is_of_a_draft() -> models.Exists:
    same = {"digest": models.OuterRef("digest"), "adapter__slug": models.OuterRef("adapter")}
    return models.Exists(AdapterVersion.objects.drafts().filter(**same))


class Run(models.Model):
    """One answerer over the rows of one task, and what its answers are worth: `score` of 1 with its 95 % interval.

    `gains` tells of an adapter's run the paired 95 % intervals of its score less that of other runs on the same rows:
    ``{"base": {"run": id, "low": 0.1, "high": 0.2}, "constant": …}``.
    """

    class Subject(models.TextChoices):
        ADAPTER = "adapter", "the adapter"
        BASE = "base", "the base"
        CONSTANT = "constant", "the best constant answer"
        REFERENCE = "reference", "another model"

    class Split(models.TextChoices):
        TEST = "test"
        VALIDATION = "validation"
        DRAWN = "drawn", "test rows drawn by a seed"

    class Source(models.TextChoices):
        ENGINE = "engine", "the serving engine"
        TRAINING = "training", "the end of its training"
        ENDPOINT = "endpoint", "another server"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    task = models.CharField(max_length=80, db_index=True)
    metric = models.CharField(max_length=20)
    subject = models.CharField(max_length=10, choices=Subject.choices)
    adapter = models.CharField(max_length=80, blank=True, help_text="The slug of the adapter.")
    digest = models.CharField(max_length=64, blank=True)
    base = models.CharField(max_length=200, help_text="The base model, or the model of another server.")
    prompt = models.CharField(max_length=40, blank=True, help_text="In which style it was asked.")
    split = models.CharField(max_length=10, choices=Split.choices, default=Split.TEST)
    rows_digest = models.CharField(max_length=64, blank=True, help_text="SHA-256 of the rows, where they are known.")
    answer = models.TextField(blank=True, help_text="The one answer that a constant run gives to every row.")
    n = models.PositiveIntegerField()
    seed = models.PositiveIntegerField(default=0)
    source = models.CharField(max_length=10, choices=Source.choices, default=Source.ENGINE)
    version = models.CharField(max_length=40, blank=True, help_text="Of this software.")
    fingerprint = models.CharField(max_length=200, blank=True, help_text="Of the workers' arithmetic.")
    scoring = models.PositiveSmallIntegerField(default=rules_of_today, help_text="The rules that scored it.")
    score = models.FloatField(null=True, blank=True)
    low = models.FloatField(null=True, blank=True)
    high = models.FloatField(null=True, blank=True)
    gains = models.JSONField(default=dict, blank=True)
    verdict = models.CharField(max_length=16, blank=True, help_text="gain, no clear gain, or empty.")
    created = models.DateTimeField(default=timezone.now, editable=False)
    finished = models.DateTimeField(null=True, blank=True, editable=False, db_index=True)

    objects = RunQuerySet.as_manager()

    class Meta:
        ordering = ["-created"]
        indexes = [models.Index("adapter", "task", name="run_of_adapter")]

    def __str__(self) -> str:
        return f"{self.who} on {self.task}"

    def get_absolute_url(self) -> str:
        return reverse("run", args=[self.pk])

    @property
    def who(self) -> str:
        """Whose answers these are."""
        if self.subject == self.Subject.ADAPTER:
            return f"{self.adapter}@{self.digest[:12]}" if self.digest else self.adapter
        return self.base if self.subject == self.Subject.REFERENCE else str(self.get_subject_display())

    @property
    def asked(self) -> str:
        """How it was asked, in words; empty where there was nothing to ask."""
        if self.subject == self.Subject.ADAPTER:
            return "with its own prompt"
        return STYLES.get(self.prompt, "") if self.subject != self.Subject.CONSTANT else ""

    @property
    def points(self) -> float:
        """The score in points of 100."""
        return 100 * (self.score or 0.0)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval in points of 100, where it is known."""
        return None if self.low is None or self.high is None else (100 * self.low, 100 * self.high)

    @property
    def is_outdated(self) -> bool:
        """Whether older rules scored it, so that it is compared with nothing."""
        return self.scoring < SCORING

    @property
    def is_finished(self) -> bool:
        return self.finished is not None

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Raises `RunFinished` for a run that ended before."""
        self._refuse_when_finished()
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        """Raises `RunFinished` for a run that ended before."""
        self._refuse_when_finished()
        return super().delete(*args, **kwargs)

    def tallies(self) -> list[Tally]:
        """What each row earned, in the order of the rows."""
        return [Tally(*pair) for pair in self.samples.values_list("earned", "possible")]

    def _refuse_when_finished(self) -> None:
        if Run.objects.finished().filter(pk=self.pk).exists():
            raise RunFinished(f"{self} is finished and stays as it is; measure again for a new run.")


class StandingQuerySet(models.QuerySet["Standing"]):
    def of_today(self) -> StandingQuerySet:
        """Those whose answers were scored by the rules of today."""
        return self.filter(scoring__gte=SCORING)

    def counting(self) -> StandingQuerySet:
        """Those measured on enough rows to enter the averages."""
        return self.filter(rows__gte=FEWEST_ROWS)


class Standing(models.Model):
    """An adapter's run beside what it must beat, as `loraland.evals.standings` writes it: by what the leaderboard
    finds, counts and orders. `title` is the task's, without case; scores are in points of 100.
    """

    tuned = models.OneToOneField(Run, on_delete=models.CASCADE, primary_key=True, related_name="standing")
    against = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="+")
    constant = models.ForeignKey(Run, null=True, on_delete=models.CASCADE, related_name="+")
    reference = models.ForeignKey(Run, null=True, on_delete=models.CASCADE, related_name="+")
    task = models.CharField(max_length=80, db_index=True)
    text = models.TextField()
    title = models.CharField(max_length=240)
    category_key = models.CharField(max_length=20, db_index=True)
    base = models.CharField(max_length=200)
    base_key = models.CharField(max_length=200, db_index=True)
    base_score = models.FloatField()
    tuned_score = models.FloatField()
    gain = models.FloatField()
    rows = models.PositiveIntegerField()
    is_clear = models.BooleanField()
    scoring = models.PositiveSmallIntegerField()

    objects = StandingQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(models.F("gain").desc(), "title", name="standing_by_gain"),
            models.Index("title", name="standing_by_title"),
        ]

    def __str__(self) -> str:
        return str(self.tuned)


class Sample(models.Model):
    """One row of a run: what was asked, what came back, how it was read, and what that earned of what was possible."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="samples")
    index = models.PositiveIntegerField()
    prompt = models.TextField()
    answer = models.TextField(blank=True)
    read = models.TextField(blank=True, help_text="The part of the answer that was scored.")
    target = models.TextField()
    earned = models.FloatField()
    possible = models.FloatField(default=1.0)
    error = models.TextField(blank=True, help_text="Why there is no answer.")

    class Meta:
        ordering = ["run", "index"]
        constraints = [models.UniqueConstraint(fields=["run", "index"], name="one_sample_per_row")]

    def __str__(self) -> str:
        return f"row {self.index} of {self.run}"

    @property
    def share(self) -> float:
        """What it earned of what was possible, in points of 100."""
        return 100 * self.earned / self.possible if self.possible else 100.0

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Raises `RunFinished` when the run has ended."""
        self.run._refuse_when_finished()
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        """Raises `RunFinished` when the run has ended."""
        self.run._refuse_when_finished()
        return super().delete(*args, **kwargs)


class DataSet(models.Model):
    """Rows that an owner has uploaded to train on, and a test part if there is one.

    The files lie under their digest in `settings.DATASETS_DIR` and never change.
    """

    name = models.CharField(max_length=120)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    fields = models.JSONField(default=list, editable=False)
    rows = models.PositiveIntegerField(default=0, editable=False)
    test_rows = models.PositiveIntegerField(default=0, editable=False, help_text="0: a part of the rows is held out.")
    heuristics = models.JSONField(default=dict, editable=False)
    created = models.DateTimeField(default=timezone.now, editable=False)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, editable=False, on_delete=models.SET_NULL
    )

    class Meta:
        ordering = ["-created"]

    def __str__(self) -> str:
        return self.name

    @property
    def path(self) -> Path:
        return self._here(f"{self.digest}.jsonl")

    @property
    def test_path(self) -> Path:
        return self._here(f"{self.digest}.test.jsonl")

    def _here(self, name: str) -> Path:
        """The place of a file, brought to this host if it came in at another. Raises OSError where it cannot be."""
        place = settings.DATASETS_DIR / name
        if not place.exists():
            distant.bring_rows(self.digest)
        return place
