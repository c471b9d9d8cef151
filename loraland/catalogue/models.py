"""Which adapters exist, and which version of each is shown."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models
from django.urls import reverse
from django.utils import timezone


class AdapterQuerySet(models.QuerySet["Adapter"]):
    def published(self) -> AdapterQuerySet:
        """Adapters that a visitor may see, each with its published version; retired ones are left out."""
        return self.filter(published__isnull=False).select_related("published")

    def served(self) -> AdapterQuerySet:
        """Published adapters of the base model that this site serves."""
        return self.published().filter(base__iexact=settings.BASE_NAME)


class Adapter(models.Model):
    """One named specialist. Its weights live in versions; `published` is the one that answers."""

    slug = models.SlugField(max_length=80, unique=True)
    name = models.CharField(max_length=120)
    category = models.CharField(max_length=60, blank=True)
    summary = models.CharField(max_length=240, blank=True, help_text="What it is for, in one plain sentence.")
    description = models.TextField(blank=True)
    base = models.CharField(max_length=200, help_text="Name of the base model whose shapes it fits.")
    license = models.CharField(max_length=120, blank=True)
    author = models.CharField(max_length=120, blank=True)
    dataset = models.JSONField(default=dict, blank=True, help_text="name, source, license, restricted, train_rows")
    published = models.ForeignKey(
        "AdapterVersion", null=True, blank=True, editable=False, on_delete=models.SET_NULL, related_name="+"
    )
    created = models.DateTimeField(default=timezone.now, editable=False)

    objects = AdapterQuerySet.as_manager()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("adapter", args=[self.slug])

    @property
    def is_served(self) -> bool:
        """Whether the base model that runs here is the one that this adapter was made for."""
        return self.base.lower() == settings.BASE_NAME.lower()


class AdapterVersion(models.Model):
    """One set of weights under its digest, from upload to retirement. Published versions never change."""

    class Status(models.TextChoices):
        UPLOADED = "uploaded"
        VALIDATING = "validating"
        REJECTED = "rejected"
        READY = "ready"
        PUBLISHED = "published"
        RETIRED = "retired"

    adapter = models.ForeignKey(Adapter, on_delete=models.CASCADE, related_name="versions")
    digest = models.CharField(max_length=64, blank=True, db_index=True)
    status = models.CharField(max_length=12, choices=Status.choices, default=Status.UPLOADED, db_index=True)
    reasons = models.JSONField(default=list, blank=True, help_text="Why it was rejected, one sentence each.")
    publish_when_ready = models.BooleanField(default=True)
    quarantine = models.CharField(max_length=64, blank=True, editable=False)
    probe_id = models.CharField(max_length=32, blank=True, editable=False, db_index=True)

    config = models.JSONField(default=dict, blank=True)
    rank = models.PositiveIntegerField(default=0)
    lora_alpha = models.FloatField(default=0)
    target_modules = models.JSONField(default=list, blank=True)
    num_parameters = models.PositiveBigIntegerField(default=0)
    size_bytes = models.PositiveBigIntegerField(default=0)
    logit_delta = models.FloatField(null=True, blank=True, editable=False)

    template = models.TextField(blank=True, help_text="The prompt it was trained on, with literal {field} placeholders.")
    fields = models.JSONField(default=list, blank=True, help_text='[{"name": "text", "label": "Tweet", "rows": 3}]')
    examples = models.JSONField(default=list, blank=True, help_text='[{"inputs": {"text": "…"}, "expected": "joy"}]')
    training = models.JSONField(default=dict, blank=True)
    score = models.JSONField(default=dict, blank=True)

    created = models.DateTimeField(default=timezone.now, editable=False)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, editable=False, on_delete=models.SET_NULL
    )
    published_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        ordering = ["-created"]
        constraints = [
            models.UniqueConstraint(
                fields=["adapter", "digest"], condition=~models.Q(digest=""), name="one_version_per_digest"
            )
        ]

    def __str__(self) -> str:
        return f"{self.adapter.slug}@{self.short_digest}"

    @property
    def short_digest(self) -> str:
        return self.digest[:12]

    @property
    def field_names(self) -> tuple[str, ...]:
        return tuple(field["name"] for field in self.fields)

    @property
    def effective_scale(self) -> float:
        """What B·A is multiplied with: alpha / rank, or alpha / sqrt(rank) for rsLoRA."""
        divisor = self.rank**0.5 if self.config.get("use_rslora") else self.rank
        return self.lora_alpha / divisor if self.rank else 0.0

    @property
    def gain(self) -> float | None:
        score: dict[str, Any] = self.score
        return score["tuned"] - score["base"] if {"tuned", "base"} <= score.keys() else None
