"""Which adapters exist, and which version of each is shown."""

from __future__ import annotations

import math
import time
from typing import Any, Final
from uuid import uuid4

from django.conf import settings
from django.db import models, transaction
from django.urls import reverse
from django.utils import timezone

from inference.adapters.methods.known import method_of
from inference.adapters.named_base import doubt_of, named_base
from inference.tasks.template import label_of
from inference.wire.contract import WireError
from inference.wire.protocol import AdapterRef, Component, Failed, Probe, Terminal
from loraland import bases, inference_client
from loraland.bases import Base
from loraland.catalogue import blends, embeddings, listed, proofs, store
from loraland.catalogue.alone import alone
from loraland.catalogue.invocation import invocation_of, spelt
from loraland.catalogue.status import ANSWERING, ON_THE_WAY, VersionStatus
from loraland.catalogue.versions import AdapterVersionQuerySet

MOST_REASONS: Final = 30
MOST_REASON_CHARS: Final = 1000


class NotPossible(Exception):
    """A step that this version cannot take now; the message is a sentence."""


class AdapterQuerySet(models.QuerySet["Adapter"]):
    def published(self) -> AdapterQuerySet:
        """Adapters that a visitor may see, each with its published version; retired ones are left out."""
        return self.filter(published__isnull=False).select_related("published")

    def blends(self) -> AdapterQuerySet:
        """Adapters whose versions are blends."""
        return self.filter(pk__in=_usable().exclude(gate={}).values("adapter"))

    def plain(self) -> AdapterQuerySet:
        """All others."""
        return self.exclude(pk__in=_usable().exclude(gate={}).values("adapter"))

    def served(self) -> AdapterQuerySet:
        """Published adapters of the bases that this site serves."""
        return self.published().filter(bases.is_served("base"))

    def update(self, **values: Any) -> int:
        """As any, and lists hear of it."""
        if not listed.OF_ADAPTER & values.keys():
            return super().update(**values)
        pks = list(self.values_list("pk", flat=True))
        number = super().update(**values)
        listed.keep(pks)
        return number


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

    def save(self, *args: Any, **kwargs: Any) -> None:
        super().save(*args, **kwargs)
        listed.keep([self.pk])

    def get_absolute_url(self) -> str:
        return reverse("adapter", args=[self.slug])

    @property
    def is_served(self) -> bool:
        """Whether a base model that runs here is the one that this adapter was made for."""
        return bases.of_name(self.base) is not None

    @property
    def is_settled(self) -> bool:
        """Whether it has a version that was not rejected, and with it a base for good."""
        return self.versions.exclude(status=VersionStatus.REJECTED).exists()

    @property
    def served_base(self) -> Base:
        """The base under which its requests wait; the default one while its own is not served."""
        return bases.of_name(self.base) or bases.default()

    @property
    def unserved_reason(self) -> str:
        """Why a listed adapter does not answer here, in one sentence; empty for one that does."""
        if self.is_served:
            return ""
        return f"Made for {self.base}; this site serves {bases.names()}."


class AdapterVersion(models.Model):
    """One set of weights under its digest, from upload to retirement, or a blend of such (`loraland.catalogue.blends`).
    They never change; their prompt may be mended.

    `status` goes uploaded -> validating -> ready -> published -> retired, or ends in rejected. A version whose
    shapes fit another base than the one that is served is listed: shown greyed out, and examined again when its
    base is served.
    """

    Status = VersionStatus

    adapter = models.ForeignKey(Adapter, on_delete=models.CASCADE, related_name="versions")
    digest = models.CharField(max_length=64, blank=True, db_index=True)
    status = models.CharField(max_length=12, choices=Status.choices, default=Status.UPLOADED, db_index=True)
    reasons = models.JSONField(default=list, blank=True, help_text="Why it was rejected, one sentence each.")
    publish_when_ready = models.BooleanField(default=True)
    base_confirmed = models.BooleanField(
        default=False, editable=False, help_text="Whether its owner wants it though its config names another base."
    )
    is_loaded = models.BooleanField(
        "loaded", default=False, editable=False, help_text="By a program, which replaces it as it learns."
    )
    remarks = models.JSONField(default=list, blank=True, help_text="What its owner should know, one sentence each.")
    quarantine = models.CharField(max_length=64, blank=True, editable=False)
    probe_id = models.CharField(max_length=32, blank=True, editable=False, db_index=True)
    proof_due = models.DateTimeField(
        "next proof", null=True, blank=True, editable=False, help_text="When it is asked for again."
    )
    num_proofs = models.PositiveSmallIntegerField(
        default=0, editable=False, help_text="That ended one after the other without a verdict."
    )
    examinations = models.PositiveSmallIntegerField(default=0, editable=False, help_text="That have not ended yet.")

    config = models.JSONField(default=dict, blank=True)
    rank = models.PositiveIntegerField(default=0)
    lora_alpha = models.FloatField(default=0)
    target_modules = models.JSONField(default=list, blank=True)
    num_parameters = models.PositiveBigIntegerField(default=0)
    size_bytes = models.PositiveBigIntegerField(default=0)
    logit_delta = models.FloatField(null=True, blank=True, editable=False)
    gate = models.JSONField(
        default=dict, blank=True, editable=False, help_text="What weighs the parts of a blend; empty for no blend."
    )
    components = models.JSONField(
        default=list, blank=True, editable=False, help_text="The parts of a blend, as its answers tell them."
    )

    template = models.TextField(
        blank=True, help_text="The prompt it was trained on, with literal {field} placeholders."
    )
    fields = models.JSONField(default=list, blank=True, help_text='[{"name": "text", "label": "Tweet", "rows": 3}]')
    examples = models.JSONField(default=list, blank=True, help_text='[{"inputs": {"text": "…"}, "expected": "joy"}]')
    training = models.JSONField(default=dict, blank=True)
    score = models.JSONField(default=dict, blank=True)

    created = models.DateTimeField(default=timezone.now, editable=False)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, editable=False, on_delete=models.SET_NULL
    )
    published_at = models.DateTimeField(null=True, blank=True, editable=False)
    changed = models.DateTimeField(default=timezone.now, editable=False, help_text="When it last took a step.")

    objects = AdapterVersionQuerySet.as_manager()

    class Meta:
        ordering = ["-created"]
        constraints = [
            models.UniqueConstraint(
                fields=["adapter", "digest"], condition=~models.Q(digest=""), name="one_version_per_digest"
            )
        ]

    def __str__(self) -> str:
        return f"{self.adapter.slug}@{self.short_digest}" if self.digest else f"{self.adapter.slug} (no digest)"

    def save(self, *args: Any, **kwargs: Any) -> None:
        super().save(*args, **kwargs)
        changed = kwargs.get("update_fields")
        if changed is None or listed.OF_VERSION & {*changed}:
            listed.keep([self.adapter_id])

    @property
    def short_digest(self) -> str:
        return self.digest[:12]

    @property
    def field_names(self) -> tuple[str, ...]:
        return tuple(field["name"] for field in self.fields)

    @property
    def labels(self) -> dict[str, str]:
        """What its fields are called on pages, by their names."""
        return {field["name"]: field.get("label") or label_of(field["name"]) for field in self.fields}

    @property
    def ref(self) -> AdapterRef:
        parts = tuple(Component(part["digest"], part["weight"]) for part in self.components)
        return AdapterRef(self.digest, self.template, self.field_names, parts, blends.gate_of(self))

    @property
    def invocation(self) -> tuple[int, ...]:
        """The tokens from which on it is active, where it is an aLoRA; none for one that always is."""
        return invocation_of(self.config)

    @property
    def invoked_by(self) -> str:
        """The same as text; empty where nobody here can tell."""
        return spelt(self.config, self.adapter.served_base) if self.invocation else ""

    @property
    def is_draft(self) -> bool:
        """Whether the public has never seen it, nor will without its owner: `drafts` for one with its adapter."""
        will_be_seen = self.publish_when_ready and self.status in ON_THE_WAY
        return self.published_at is None and self.adapter.published_id != self.pk and not will_be_seen

    @property
    def is_answering(self) -> bool:
        """Whether it may answer: `answering` for one with its adapter. One that a later one has replaced may still be
        compared with it, until the adapter is withdrawn; a ready one may be measured before it is shown.
        """
        is_withdrawn = self.status == self.Status.RETIRED and self.adapter.published_id is None
        return self.status in ANSWERING and not is_withdrawn

    @property
    def named_base(self) -> str:
        """The base that its config names, as it stands there; empty where it names none."""
        return named_base(self.config)

    @property
    def base_doubt(self) -> str:
        """What speaks against the base that is served, in sentences; empty where its files name no other."""
        file = store.GATE if self.gate else store.CONFIG
        return doubt_of(self.named_base, self.adapter.base, file) if self.adapter.is_served else ""

    @property
    def method(self) -> str:
        """How it was trained: LoRA, DoRA, or one that is expanded to a LoRA of `rank`; of a blend what weighs it."""
        return blends.NAMES[self.gate["kind"]] if self.gate else method_of(self.config)

    @property
    def effective_scale(self) -> float:
        """What B·A is multiplied with: alpha / rank, or alpha / sqrt(rank) for rsLoRA."""
        divisor = self.rank**0.5 if self.config.get("use_rslora") else self.rank
        return self.lora_alpha / divisor if self.rank else 0.0

    def probe(self) -> None:
        """Ask the workers to prove that the weights load and change the base's answers.

        The row goes first: a proof that never reaches the queue is asked for again by the reconciler. Of several
        processes that ask at once, only one does.
        """
        rows = AdapterVersion.objects.filter(pk=self.pk, probe_id=self.probe_id, proof_due=self.proof_due)
        probe_id, now = uuid4().hex, timezone.now()
        if not rows.update(probe_id=probe_id, proof_due=None, changed=now):
            return
        self.probe_id, self.proof_due, self.changed = probe_id, None, now
        try:
            probe = Probe(self.probe_id, self.ref, time.time(), is_awaited=self.is_loaded)
            inference_client.submit_probe(probe, self.adapter.served_base)
        except WireError:
            return  # awaiting_proof still names this version, and the wire does not know its probe

    def reopen(self) -> None:
        """Let its proof be asked for as if there had been none. Raises `NotPossible` when its files are gone, or no
        worker has its base."""
        if self.digest and self.status != self.Status.LISTED and not self.adapter.is_served:
            raise NotPossible(f"{self} cannot be proven. {self.adapter.unserved_reason}")
        if self.status == self.Status.REJECTED:
            if not blends.has_files(self):
                raise NotPossible(f"The files of {self} were removed when it was rejected; upload them again.")
            self._change(status=self.Status.VALIDATING, reasons=[])
        self._change(num_proofs=0)

    def record_proof(self, terminal: Terminal) -> None:
        """Take the outcome of a proof: ready (and published) or rejected. One told twice changes nothing."""
        with transaction.atomic():
            self.refresh_from_db(from_queryset=AdapterVersion.objects.select_for_update())
            if terminal.id != self.probe_id:
                return
            if isinstance(terminal, Failed):
                is_its_own = proofs.is_the_adapters(terminal, has_files=blends.has_files(self))
                return self.reject([terminal.error]) if is_its_own else self._put_off_proof(terminal)
            if not (delta := terminal.stats.logit_delta) or not math.isfinite(delta):
                return self.reject(["It changes nothing: the base answers the same with it. Upload trained weights."])
            return self._accept(delta)

    def reject(self, reasons: list[str]) -> None:
        """End the version with `reasons`; its files go, unless another version is computed from the same."""
        with transaction.atomic():
            self._change(
                status=self.Status.REJECTED, reasons=_told(reasons), probe_id="", proof_due=None, examinations=0
            )
            self._hide()
            transaction.on_commit(self._drop_files)

    def put_off(self, reason: str) -> None:
        """Let the examination be done again later, as often as it takes, and say why meanwhile."""
        self._change(reasons=_told([reason]), examinations=max(0, self.examinations - 1))

    def publish(self) -> None:
        """Let this version answer under its adapter's name and retire the one before it. Raises `NotPossible`."""
        if self.status not in (*ANSWERING, self.Status.REPLACED):
            raise NotPossible(f"{self} is {self.get_status_display()}; only a ready version can be published.")
        if self.logit_delta is None:
            raise NotPossible(f"{self} has not been proven by a worker; validate it again first.")
        if self.status == self.Status.REPLACED and not blends.has_files(self):
            raise NotPossible(f"The files of {self} were removed when it was replaced; load them again.")
        with transaction.atomic():
            Adapter.objects.select_for_update().get(pk=self.adapter_id)
            self._retire_others(self.Status.PUBLISHED, self.Status.LISTED)
            self._change(status=self.Status.PUBLISHED, published_at=timezone.now())
            self._show()

    def mend(self, template: str, fields: list[dict[str, Any]], examples: list[dict[str, Any]]) -> bool:
        """Give the same weights another prompt. Whether they read other words now, and their score no longer holds.

        What was answered stays as it was; an answer under way goes on with the prompt that it was asked with.
        """
        reads_otherwise = (template, [field["name"] for field in fields]) != (self.template, [*self.field_names])
        values: dict[str, Any] = {"template": template, "fields": fields, "examples": examples}
        self._change(**values, **({"score": {}} if reads_otherwise else {}))
        embeddings.mend(self)
        return reads_otherwise

    def list_unserved(self) -> None:
        """Show this version greyed out, because its base is not the one that is served."""
        with transaction.atomic():
            self._retire_others(self.Status.LISTED)
            self._change(status=self.Status.LISTED, probe_id="", proof_due=None)
            if self.publish_when_ready:
                self._show()

    def retire(self) -> None:
        """Take this version out of the catalogue. Answers under way finish on it. Raises `NotPossible`."""
        if self.status not in (self.Status.READY, self.Status.PUBLISHED, self.Status.LISTED, self.Status.RETIRED):
            raise NotPossible(f"{self} is {self.get_status_display()}; there is nothing to retire.")
        with transaction.atomic():
            self._change(status=self.Status.RETIRED)
            self._hide()

    def give_up(self) -> bool:
        """End a version that another has replaced for good: its files go, unless another version needs the same.

        False where its state is another by now, as when two give it up at once.
        """
        with transaction.atomic():
            as_it_was = AdapterVersion.objects.filter(pk=self.pk, status=self.status)
            given_up = as_it_was.update(
                status=self.Status.REPLACED, probe_id="", proof_due=None, changed=timezone.now()
            )
            if given_up:
                transaction.on_commit(self._drop_files)
        return bool(given_up)

    def _put_off_proof(self, failure: Failed) -> None:
        """Have the proof asked for again later, as often as it takes, and say why meanwhile. No file goes."""
        due, num_ended = proofs.next_due(self.num_proofs), self.num_proofs + 1
        reasons = _told([proofs.told(failure, num_ended, due)])
        self._change(probe_id="", proof_due=due, num_proofs=num_ended, reasons=reasons)

    def _accept(self, delta: float) -> None:
        values: dict[str, Any] = {"logit_delta": delta, "probe_id": "", "num_proofs": 0, "reasons": []}
        if self.status != self.Status.VALIDATING:
            return self._change(**values)  # proven again: what is published or retired stays so
        self._change(**values, status=self.Status.READY)
        later = self.adapter.versions.filter(status=self.Status.PUBLISHED, created__gt=self.created)
        if self.publish_when_ready and not later.exists():
            self.publish()

    def _retire_others(self, *statuses: str) -> None:
        others = self.adapter.versions.filter(status__in=statuses).exclude(pk=self.pk)
        others.update(status=self.Status.RETIRED, changed=timezone.now())

    def _drop_files(self) -> None:
        """What came with it goes, unless another version is computed from the same: of a blend, no part's files."""
        store.drop(self.quarantine)
        if not (digest := blends.own_files(self)):
            return
        with alone():
            if not blends.is_needed(digest, AdapterVersion.objects.all()):
                store.remove(digest)

    def _show(self) -> None:
        self.adapter.published = self
        self.adapter.save(update_fields=["published"])

    def _hide(self) -> None:
        for adapter in Adapter.objects.select_for_update().filter(pk=self.adapter_id, published=self):
            adapter.published = None
            adapter.save(update_fields=["published"])

    def _change(self, **values: Any) -> None:
        for name, value in {**values, "changed": timezone.now()}.items():
            setattr(self, name, value)
        self.save(update_fields=[*values, "changed"])


def _usable() -> AdapterVersionQuerySet:
    return AdapterVersion.objects.exclude(status=VersionStatus.REJECTED)


def _told(reasons: list[str]) -> list[str]:
    """`reasons` in bounds: the first of them, none too long, and how many more there are."""
    more = len(reasons) - MOST_REASONS
    shown = [reason[:MOST_REASON_CHARS] for reason in reasons[:MOST_REASONS]]
    return shown if more <= 0 else [*shown, f"And {more} more."]
