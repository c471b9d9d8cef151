"""What a visitor keeps: conversations of turns, and comparisons of columns."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, ClassVar

from django.conf import settings
from django.db import models, transaction
from django.urls import reverse
from django.utils import timezone

from inference.wire.protocol import Sampling
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.generations.models import Generation

if TYPE_CHECKING:
    from typing import Self

    from loraland.generations.visitor import Visitor


class OwnedQuerySet(models.QuerySet):  # type: ignore[type-arg]
    def of(self, visitor: Visitor) -> Self:
        """The rows of `visitor`: the user's, or the anonymous session's own; none for a stranger."""
        if visitor.user_id is not None:
            return self.filter(user_id=visitor.user_id)
        return self.filter(user=None, session_key=visitor.session_key) if visitor.session_key else self.none()


class Owned(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.CASCADE)
    session_key = models.CharField(max_length=40, blank=True, db_index=True)
    created = models.DateTimeField(default=timezone.now, editable=False)
    updated = models.DateTimeField(auto_now=True)

    objects = OwnedQuerySet.as_manager()
    holds: ClassVar[str]
    """How a generation is asked whether its answer stands here."""

    class Meta:
        abstract = True
        ordering = ["-updated"]

    @classmethod
    def owned(cls, visitor: Visitor, **values: Any) -> Self:
        """A new, unsaved row of `visitor`. What a user owns does not hang on the session of the day."""
        session_key = "" if visitor.user_id else visitor.session_key
        return cls(user_id=visitor.user_id, session_key=session_key, **values)

    def forget(self) -> None:
        """Delete it with its answers. The end of one that is still being stopped has no row to go to."""
        answers = Generation.objects.filter(**{self.holds: self})
        with transaction.atomic():
            ids = list(answers.values_list("pk", flat=True))
            self.delete()
            Generation.objects.filter(pk__in=ids, answer=None, column=None).delete()


class Conversation(Owned):
    """Turns with one adapter, or with a base model when `adapter` is empty: the default one, unless it is named."""

    holds = "answer__turn__conversation"

    adapter = models.ForeignKey(Adapter, null=True, blank=True, on_delete=models.SET_NULL)
    base = models.CharField(max_length=200, blank=True)
    title = models.CharField(max_length=120, blank=True)
    route = models.JSONField(
        default=dict, blank=True, editable=False, help_text="Why its partner was chosen; empty where it was named."
    )

    def __str__(self) -> str:
        return self.title or "Untitled chat"

    def get_absolute_url(self) -> str:
        return reverse("conversation", args=[self.pk])


class Turn(models.Model):
    """What the visitor said: free text, or the fields of the adapter's template."""

    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="turns")
    text = models.TextField(blank=True)
    inputs = models.JSONField(null=True, blank=True)
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["id"]


class Answer(models.Model):
    """One generation that answers a turn; regenerating adds another, and the last one counts."""

    turn = models.ForeignKey(Turn, on_delete=models.CASCADE, related_name="answers")
    generation = models.OneToOneField(Generation, on_delete=models.PROTECT)

    class Meta:
        ordering = ["id"]


class Comparison(Owned):
    """One prompt set before two to four columns."""

    holds = "column__comparison"

    text = models.TextField(blank=True)
    inputs = models.JSONField(null=True, blank=True)
    expected = models.TextField(blank=True)
    sampling = models.JSONField(default=dict, blank=True)

    def __str__(self) -> str:
        return str(self.id)

    def get_absolute_url(self) -> str:
        return reverse("comparison", args=[self.pk])

    @property
    def chosen(self) -> Sampling:
        """Its sampling as the wire knows it, which JSON has without tuples."""
        return Sampling(**{**self.sampling, "stop": tuple(self.sampling.get("stop", ()))})


class Column(models.Model):
    """One competitor of a comparison: a version of an adapter, or a base, the default one unless it is named.

    `generation` is its last answer; `refusal` says why there is none, where asking was refused.
    """

    comparison = models.ForeignKey(Comparison, on_delete=models.CASCADE, related_name="columns")
    position = models.PositiveSmallIntegerField()
    version = models.ForeignKey(AdapterVersion, null=True, blank=True, on_delete=models.PROTECT)
    base = models.CharField(max_length=200, blank=True)
    generation = models.ForeignKey(Generation, null=True, blank=True, on_delete=models.PROTECT)
    refusal = models.TextField(blank=True)

    class Meta:
        ordering = ["position"]
        constraints = [models.UniqueConstraint(fields=["comparison", "position"], name="one_column_a_position")]
