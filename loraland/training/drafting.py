"""From trained files to a draft: the same examination and proof as an upload."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from django.db import transaction

from inference.tasks.card import CARD, EmbeddingTable
from loraland.catalogue import store
from loraland.catalogue.card import CardError, read_card
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.tasks import validate_version
from loraland.catalogue.upload.submission import submit
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
        token = store.receive_directory(training.folder / "out")
    except FileNotFoundError:
        training.end(Training.State.FAILED, "The trained files are gone from this machine; train again.")
        return None
    except store.TooLarge as error:
        training.end(Training.State.FAILED, f"It is trained, but {error}; take a lower rank.")
        return None
    except OSError as error:
        training.change(note=f"The trained files could not be copied: {error}. It is tried again.")
        return None
    with transaction.atomic():
        card = replace(training.card, embedding=_embedding_in(training.folder / "out" / CARD))
        version = submit(token, training.slug, card, user=training.created_by, publish=False).version
        training.change(version=version)
    return version


def _embedding_in(path: Path) -> EmbeddingTable:
    """What the trainer tells of the rows, in the card at `path`; nothing where it wrote none."""
    try:
        return read_card(path).embedding
    except (OSError, CardError):
        return {}


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
