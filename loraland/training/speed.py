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
    found = [
        1000 * max(60 * (training.minutes or 0.0) - BEGINNING_SECONDS, 1.0) / training.tokens
        for training in ended[:REMEMBERED]
    ]
    return median(found) if found else MS_A_TOKEN
