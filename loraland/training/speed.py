"""How fast the training server of this site is, from the trainings that have ended here."""

from __future__ import annotations

from statistics import median
from typing import Final

from loraland.bases import Base
from loraland.catalogue.upload.bases import architecture_of
from loraland.training.models import Training
from loraland.training.presets import BEGINNING_SECONDS, MS_A_TOKEN

REMEMBERED: Final = 5
KNOWN_WEIGHTS: Final = 106_168_320
"""In the linears of the base of which `MS_A_TOKEN` is known, SmolLM2-135M."""


def ms_a_token(base: Base) -> float:
    """What a token of a training on `base` takes, in ms: the median of the latest here, else what is known of a small
    base, times the size of this one."""
    ended = Training.objects.filter(gate={}, base__iexact=base.name, minutes__gt=0, tokens__gt=0).order_by("-started")
    spent = [(60 * (training.minutes or 0.0) - BEGINNING_SECONDS, training.tokens) for training in ended[:REMEMBERED]]
    return median(1000 * max(seconds, 1.0) / tokens for seconds, tokens in spent) if spent else MS_A_TOKEN * _size(base)


def _size(base: Base) -> float:
    """How many times as many weights `base` has in its linears as the known one; 1 where its files are not here."""
    if (architecture := architecture_of(base)) is None:
        return 1.0
    shapes = map(architecture.target_shape, architecture.targets)
    return architecture.num_layers * sum(rows_in * out for rows_in, out in shapes) / KNOWN_WEIGHTS
