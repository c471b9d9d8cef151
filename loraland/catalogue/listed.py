"""One narrow row for each published adapter: by what lists find, count and order it.

Much of that is worked out of JSON and of words without case, which no database does alike with another. So it is kept
beside the adapter, by whatever writes the adapter or its published version.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from django.db import connection, models, transaction
from django.db.models.functions import Coalesce

from loraland import bases
from loraland.catalogue.blends import NAMES
from loraland.catalogue.categories import category_of, position
from loraland.catalogue.finder import searchable
from loraland.catalogue.score import score_of

if TYPE_CHECKING:
    from loraland.catalogue.models import Adapter, AdapterVersion

ADAPTERS: Final = "adapters"
BLENDS: Final = "blends"
UNMEASURED: Final = -101.0
"""A gain below all others."""
OF_ADAPTER: Final = frozenset({"name", "slug", "summary", "category", "base", "dataset", "published", "published_id"})
OF_VERSION: Final = frozenset({"gate", "score", "size_bytes", "published_at", "created", "examples"})
"""What of an adapter and of its published version a row is made of."""
BATCH: Final = 500
UNHELPED: Final = 2
"""The rank of what was measured to do no better than what it must beat."""


class ListedAdapterQuerySet(models.QuerySet["ListedAdapter"]):
    def served(self) -> ListedAdapterQuerySet:
        """Those of the bases that this site serves."""
        return self.filter(base_key__in=[base.key for base in bases.served()])

    def ranked(self) -> ListedAdapterQuerySet:
        """With `rank`: what answers comes first, then what does not, and last what fine-tuning did not help."""
        is_served = models.Q(base_key__in=[base.key for base in bases.served()])
        rank = models.Case(
            models.When(~is_served, then=1),
            models.When(is_unhelped=True, then=UNHELPED),
            default=0,
            output_field=models.IntegerField(),
        )
        return self.annotate(rank=rank)


class ListedAdapter(models.Model):
    """`text` is what a search looks through (`searchable`), `gain` in points of 100, `kind_order` an order of kinds of
    work; a `_key` is the same however it is spelled."""

    adapter = models.OneToOneField(
        "catalogue.Adapter", on_delete=models.CASCADE, primary_key=True, related_name="listed", editable=False
    )
    text = models.TextField()
    name = models.CharField(max_length=240)
    base = models.CharField(max_length=200)
    base_key = models.CharField(max_length=200, db_index=True)
    category = models.CharField(max_length=60, db_index=True)
    category_key = models.CharField(max_length=20, db_index=True)
    kind = models.CharField(max_length=10)
    kind_order = models.CharField(max_length=130)
    gain = models.FloatField()
    is_unhelped = models.BooleanField()
    has_examples = models.BooleanField()
    size_bytes = models.PositiveBigIntegerField()
    published_at = models.DateTimeField()

    objects = ListedAdapterQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index("is_unhelped", models.F("gain").desc(), "name", name="listed_by_gain"),
            models.Index("name", "adapter", name="listed_by_name"),
        ]

    def __str__(self) -> str:
        return self.name


def keep(adapters: Iterable[int]) -> None:
    """Write the rows of `adapters`, by their keys, anew; one that shows no version has none."""
    pks = list(adapters)
    with transaction.atomic():
        _lock(pks)
        shown = _adapters().filter(pk__in=pks, published__isnull=False).select_related("published")
        rows = [ListedAdapter(**columns_of(adapter, adapter.published)) for adapter in shown if adapter.published]
        ListedAdapter.objects.filter(pk__in=set(pks) - {row.adapter_id for row in rows}).delete()
        names = [field.name for field in ListedAdapter._meta.concrete_fields if not field.primary_key]
        ListedAdapter.objects.bulk_create(
            rows, update_conflicts=True, unique_fields=["adapter"], update_fields=names, batch_size=BATCH
        )


def complete() -> int:
    """Write the rows that adapters lack, or that another version than theirs has, and delete those of adapters that
    show none: what an older version of this program leaves, or what is put into the database at once; how many."""
    is_shown, since = models.Q(published__isnull=False), Coalesce("published__published_at", "published__created")
    lacks = is_shown & (models.Q(listed__isnull=True) | ~models.Q(listed__published_at=since))
    wrong = _adapters().filter(lacks | ~is_shown & models.Q(listed__isnull=False))
    pks = list(wrong.values_list("pk", flat=True))
    for start in range(0, len(pks), BATCH):
        keep(pks[start : start + BATCH])
    return len(pks)


def columns_of(adapter: Adapter, version: AdapterVersion) -> dict[str, Any]:
    """The row of `adapter`, which shows `version`."""
    category, score = category_of(adapter.category), score_of(version.score)
    words = [adapter.name, adapter.slug, adapter.summary, adapter.base, category.name]
    words += ["blend", NAMES[version.gate["kind"]]] if version.gate else []
    known, name = position(category)
    return {
        "adapter_id": adapter.pk,
        "text": searchable(*words, str(adapter.dataset.get("name", ""))),
        "name": adapter.name.casefold()[:240],
        "base": adapter.base,
        "base_key": adapter.base.lower(),
        "category": adapter.category,
        "category_key": category.key,
        "kind": BLENDS if version.gate else ADAPTERS,
        "kind_order": f"{known}{name}"[:130],
        "gain": score.gain if score else UNMEASURED,
        "is_unhelped": score is not None and bool(score.remark or score.gain <= 0),
        "has_examples": bool(version.examples),
        "size_bytes": version.size_bytes,
        "published_at": version.published_at or version.created,
    }


def _lock(pks: list[int]) -> None:
    """Lock them in one order, so that of two that write one adapter the later sees what the first wrote."""
    if connection.features.has_select_for_update:
        list(_adapters().filter(pk__in=pks).select_for_update().order_by("pk").values_list("pk", flat=True))


def _adapters() -> models.QuerySet[Adapter]:
    model: type[Adapter] = ListedAdapter._meta.get_field("adapter").related_model  # type: ignore[assignment]
    return model._default_manager.order_by()
