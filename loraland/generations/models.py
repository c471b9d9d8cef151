"""Every request for an answer, from the moment it is accepted to its one recorded outcome."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import models
from django.utils import timezone

from inference.wire.failures import FailureCode
from inference.wire.protocol import Failed, Finished, Stats, Terminal
from loraland.rows import update

if TYPE_CHECKING:
    from loraland.generations.visitor import Visitor


class GenerationQuerySet(models.QuerySet["Generation"]):
    def of(self, visitor: Visitor) -> GenerationQuerySet:
        """The generations that `visitor` asked for itself: nobody else's, and none for a stranger."""
        return self.filter(tenant=visitor.tenant) if visitor.tenant else self.none()

    def unfinished(self) -> GenerationQuerySet:
        """Accepted requests without a recorded outcome."""
        return self.filter(status=Generation.Status.QUEUED)

    def number(self) -> models.QuerySet[Generation, tuple[int]]:
        """How many they are, as the one column of one row; of none where there are none."""
        counted = self.order_by().values("tenant").annotate(number=models.Count("pk"))
        return counted.values_list("number")


class Generation(models.Model):
    """One answer of one adapter version, of several together, or of the base when there is none."""

    class Status(models.TextChoices):
        QUEUED = "queued", "in progress"
        DONE = "done"
        LENGTH = "length", "reached its length limit"
        STOPPED = "stopped"
        ERROR = "error"

    class Source(models.TextChoices):
        CHAT = "chat"
        COMPARE = "compare"
        API = "api"
        EVALUATION = "evaluation"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL)
    session_key = models.CharField(max_length=40, blank=True, db_index=True)
    tenant = models.CharField(max_length=64, blank=True, editable=False, help_text="Who asked, as the workers know it.")
    address = models.CharField(
        max_length=16, blank=True, editable=False, help_text="Whence a page asked: a keyed hash, for limits."
    )
    source = models.CharField(max_length=12, choices=Source.choices)
    adapter_version = models.ForeignKey(
        "catalogue.AdapterVersion", null=True, blank=True, on_delete=models.PROTECT, related_name="generations"
    )
    components = models.JSONField(
        default=list, blank=True, help_text="The versions that were added up, with their digests and weights."
    )
    base = models.CharField(max_length=200)
    route = models.JSONField(default=dict, blank=True, help_text="Why `auto` chose who answers, as it was told.")
    request = models.JSONField(help_text="The request as it went over the wire.")
    status = models.CharField(max_length=8, choices=Status.choices, default=Status.QUEUED, db_index=True)
    text = models.TextField(blank=True)
    error_code = models.CharField(max_length=40, blank=True)
    error = models.TextField(blank=True)
    stats = models.JSONField(default=dict, blank=True)
    weights = models.JSONField(
        default=list, blank=True, editable=False, help_text="Of a blend's answer each token and what its parts weighed."
    )
    created = models.DateTimeField(default=timezone.now, editable=False, db_index=True)
    finished = models.DateTimeField(null=True, blank=True)

    objects = GenerationQuerySet.as_manager()

    class Meta:
        ordering = ["-created"]
        indexes = [
            models.Index(fields=["tenant", "status"], name="generations_of_a_tenant"),
            models.Index(fields=["address", "status"], name="generations_of_an_address"),
        ]

    def __str__(self) -> str:
        return str(self.id)

    @property
    def wire_id(self) -> str:
        """The id under which the wire knows it: 32 hex digits."""
        return self.id.hex

    @property
    def is_finished(self) -> bool:
        return self.status != self.Status.QUEUED

    def terminal(self) -> Terminal:
        """The one event that ended it, as the wire told it."""
        stats = Stats(**self.stats)
        if self.status == self.Status.ERROR:
            return Failed(self.wire_id, cast(FailureCode, self.error_code), self.error, stats)
        return Finished(self.wire_id, self.status, stats)  # type: ignore[arg-type]

    def record(self, terminal: Terminal, text: str = "", weights: list[list[Any]] | None = None) -> bool:
        """Write the outcome down, once: False, and nothing written, when there is one already."""
        columns = outcome(terminal, text) | ({"weights": _storable(weights)} if weights else {})
        return update(Generation, columns, {"id": self.pk, "status": self.Status.QUEUED})

    async def afail(self, failure: Failed) -> bool:
        """Record that it ended before it reached the workers."""
        return await sync_to_async(self.record)(failure)


def _storable(weights: list[list[Any]]) -> list[list[Any]]:
    return [[token.replace("\0", ""), parts] for token, parts in weights]


def outcome(terminal: Terminal, text: str) -> dict[str, Any]:
    """The columns that `terminal` sets."""
    columns = {"text": text.replace("\0", ""), "stats": asdict(terminal.stats), "finished": timezone.now()}
    if isinstance(terminal, Failed):
        return {**columns, "status": Generation.Status.ERROR, "error_code": terminal.code, "error": terminal.error}
    return {**columns, "status": Generation.Status(terminal.reason)}
