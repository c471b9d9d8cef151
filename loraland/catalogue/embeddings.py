"""What the inputs of each version look like, as rows; and by what a process knows that adapters have changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from django.db import models, transaction
from django.db.models.signals import post_delete, post_save

from inference.tasks.embedding import EMBEDDER, Embedding, bare, of_table

if TYPE_CHECKING:
    from loraland.catalogue.models import AdapterVersion


class InputEmbedding(models.Model):
    """An `inference.tasks.embedding.Embedding`. `is_given` marks one that came with the adapter, from its training;
    else its examples made it."""

    version = models.OneToOneField(
        "catalogue.AdapterVersion", on_delete=models.CASCADE, related_name="embedding", editable=False
    )
    embedder = models.CharField(max_length=40)
    texts = models.PositiveIntegerField()
    numbers = models.BinaryField()
    is_given = models.BooleanField(default=False)

    def __str__(self) -> str:
        return f"{self.version} of {self.texts} texts"

    @property
    def value(self) -> Embedding:
        return Embedding(self.embedder, self.texts, bytes(self.numbers))


class CatalogueStamp(models.Model):
    """One row, whose value is another after each change of an adapter, a version or an embedding."""

    value = models.CharField(max_length=32)

    def __str__(self) -> str:
        return self.value


def keep(version: AdapterVersion, table: dict[str, Any] | None = None) -> InputEmbedding | None:
    """The embedding of `version`: the one in a card's `table` where that can be used, else of its examples. None, and
    no row, where it has neither."""
    given = of_table(table) if table else None
    found = given or of_examples(version.examples, version.field_names)
    if found is None:
        InputEmbedding.objects.filter(version=version).delete()
        return None
    values = {"embedder": found.embedder, "texts": found.texts, "numbers": found.numbers, "is_given": bool(given)}
    return InputEmbedding.objects.update_or_create(version=version, defaults=values)[0]


def of(version: AdapterVersion) -> InputEmbedding | None:
    """The embedding by which `auto` finds `version`; None for one that it never finds."""
    return InputEmbedding.objects.filter(version=version, embedder=EMBEDDER).first() if version.template else None


def mend(version: AdapterVersion) -> None:
    """Let the embedding follow the examples of `version`, unless it came with the adapter."""
    if not InputEmbedding.objects.filter(version=version, is_given=True).exists():
        keep(version)


def refresh(version: AdapterVersion, table: dict[str, Any]) -> None:
    """Give `version`, which is here already, the embedding of a card's `table`, where it has none from a training."""
    if of_table(table) and not InputEmbedding.objects.filter(version=version, is_given=True, embedder=EMBEDDER):
        keep(version, table)


def complete(versions: models.QuerySet[AdapterVersion]) -> int:
    """Make the embeddings that `versions` lack, or have of another embedder, of their examples; how many were made."""
    lacking = versions.exclude(embedding__embedder=EMBEDDER).exclude(examples=[])
    return sum(keep(version) is not None for version in lacking)


def of_examples(examples: Sequence[dict[str, Any]], fields: Sequence[str]) -> Embedding | None:
    """The embedding of what examples give to the fields of a template; None without any."""
    if not fields:
        return None
    # numpy, without which the site starts
    from inference.tasks.vectors import embedding_of

    return embedding_of([bare(example["inputs"], fields) for example in examples])


def stamp() -> str:
    """What the catalogue's stamp is now; empty before anything has changed."""
    return CatalogueStamp.objects.filter(pk=1).values_list("value", flat=True).first() or ""


def _change_stamp(sender: type[models.Model], **sent: Any) -> None:
    """Once the change is to be seen: within its transaction the one row would be a lock that all changes meet at."""
    waiting = (call for _, call, *_ in transaction.get_connection().run_on_commit)
    if not sent.get("raw") and _stamp_anew not in waiting:
        transaction.on_commit(_stamp_anew, robust=True)


def _stamp_anew() -> None:
    CatalogueStamp.objects.update_or_create(pk=1, defaults={"value": uuid4().hex})


def watch(*senders: type[models.Model]) -> None:
    """Change the stamp whenever a row of `senders` is written or deleted one by one."""
    watched: tuple[type[models.Model], ...] = (InputEmbedding, *senders)
    for sender in watched:
        post_save.connect(_change_stamp, sender, dispatch_uid=f"stamp of {sender.__name__}")
        post_delete.connect(_change_stamp, sender, dispatch_uid=f"stamp of {sender.__name__}")
