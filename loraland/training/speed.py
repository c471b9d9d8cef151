"""How fast the training server of this site is, from the trainings that have ended here."""

from __future__ import annotations

from statistics import median
from typing import Final

from django.conf import settings

from loraland.training.models import Training
from loraland.training.presets import BEGINNING_SECONDS, MS_A_TOKEN

REMEMBERED: Final = 5


def ms_a_token() -> float:
    """What a token of a training takes, in ms: the median of the latest here, else what is known of a small base."""
    ended = Training.objects.filter(base=settings.BASE_NAME, minutes__gt=0, tokens__gt=0).order_by("-started")
    spent = [(60 * (training.minutes or 0.0) - BEGINNING_SECONDS, training.tokens) for training in ended[:REMEMBERED]]
    return median(1000 * max(seconds, 1.0) / tokens for seconds, tokens in spent) if spent else MS_A_TOKEN
