"""From trained files to a draft: the same examination and proof as an upload."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from django.conf import settings
from django.db import transaction

from inference.objects.failures import Damaged
from inference.server import trained
from inference.tasks.card import CARD, Card, TrainingTable
from loraland.catalogue import store
from loraland.catalogue.card import CardError, read_card
from loraland.catalogue.composition import Composition
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.tasks import validate_version
from loraland.catalogue.upload.assembling import BlendRefused, assembled
from loraland.catalogue.upload.blending import Gated
from loraland.catalogue.upload.submission import submit, submit_blend
from loraland.training.models import Training

Status = AdapterVersion.Status


def examine(training: Training) -> None:
    """Take the trained files one step further towards a proven draft, or end `training` with what is against them."""
    version = training.version or _adopt(training)
    if version is None:
        return
    if version.status == Status.UPLOADED:
        validate_version(version.pk)
    _judge(training, AdapterVersion.objects.select_related("adapter").filter(pk=version.pk).first())


def _adopt(training: Training) -> AdapterVersion | None:
    """The version that the trained files become; None when they are gone, which ends the training."""
    try:
        files = (store.GATE,) if training.gate else store.FILES
        _take_back(training, files)
        token = store.receive_directory(training.folder / "out", files)
    except FileNotFoundError:
        training.end(Training.State.FAILED, "The trained files are gone from this machine; train again.")
        return None
    except Damaged:
        training.end(Training.State.FAILED, "The trained files were damaged on their way here; train again.")
        return None
    except store.TooLarge as error:
        training.end(Training.State.FAILED, f"It is trained, but {error}; take a lower rank.")
        return None
    except OSError as error:
        training.change(note=f"The trained files could not be copied: {error}. It is tried again.")
        return None
    told = _card_in(training.folder / "out" / CARD)
    try:
        blend = _blend(training, token) if training.gate else None
    except BlendRefused as error:
        store.drop(token)
        training.end(Training.State.FAILED, " ".join(error.reasons))
        return None
    with transaction.atomic():
        version = _submitted(training, token, told, blend)
        training.change(version=version)
    return version


def _take_back(training: Training, files: Iterable[str]) -> None:
    """Have what was trained on another host here. Raises OSError and `Damaged`."""
    out = training.folder / "out"
    shared = trained.trainings(settings.ADAPTER_STORE)
    if shared and not all((out / name).exists() for name in files):
        shared.take(trained.name_of(training.wire_id, "out"), out)


def _submitted(training: Training, token: str, told: Card, blend: Composition | None) -> AdapterVersion:
    card, user = replace(training.card, embedding=told.embedding), training.created_by
    if blend is None:
        return submit(token, training.slug, card, user=user, publish=False).version
    about: TrainingTable = {**told.training, "parts": training.gate["names"]}
    card = replace(card, training=about)
    return submit_blend(training.slug, card, blend, token=token, user=user, publish=False).version


def _blend(training: Training, token: str) -> Composition:
    """The trained gate with its parts as they are now. Raises `BlendRefused`."""
    gate = Gated(store.quarantined(token) / store.GATE)
    are_named = gate.head is not None and bool(gate.head.parts)
    return assembled(gate, [] if are_named else training.gate["names"])


def _card_in(path: Path) -> Card:
    """What the trainer tells of the rows and of its work, in the card at `path`; nothing where it wrote none."""
    try:
        return read_card(path)
    except (OSError, CardError):
        return Card("")


def _judge(training: Training, version: AdapterVersion | None) -> None:
    if version is None:  # its adapter has these very weights already; they are found in the next round
        training.change(version=None)
    elif version.status in (Status.READY, Status.PUBLISHED):
        training.change(state=Training.State.MEASURING, note="")
    elif version.status == Status.REJECTED:
        training.end(Training.State.FAILED, " ".join(version.reasons))
    elif version.status == Status.LISTED:
        reason = f"It was trained for {version.adapter.base}, which this site no longer serves."
        training.end(Training.State.FAILED, reason)
    elif version.status == Status.RETIRED:
        reason = f"These are exactly the weights of {version}, which was retired; publish that one again."
        training.end(Training.State.FAILED, reason)
    else:
        training.change(note="A worker is asked to prove that it changes the base’s answers.")
