"""Proofs that failed: whether that says anything of the adapter, and when they are asked for again otherwise."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from django.utils import timezone
from django.utils.formats import date_format

from inference.wire.failures import meaning_of
from inference.wire.protocol import Failed

FIRST_PAUSE: Final = timedelta(seconds=15)
LONGEST_PAUSE: Final = timedelta(hours=1)
"""A proof that ends workers costs several each time; one that finds no memory finds some when others have gone."""
MOST_DOUBLINGS: Final = 16


def is_the_adapters(failure: Failed, *, has_files: bool) -> bool:
    """Whether `failure` is the adapter's own. A worker that does not see files which are here says nothing of them."""
    fault = meaning_of(failure.code).fault
    return fault == "adapter" or (fault == "choice" and not has_files)


def next_due(num_ended: int) -> datetime:
    """When to ask again after `num_ended` proofs in a row that said nothing: after twice the time before."""
    pause: timedelta = min(FIRST_PAUSE * 2 ** min(num_ended, MOST_DOUBLINGS), LONGEST_PAUSE)
    return timezone.now() + pause


def told(failure: Failed, num_ended: int, due: datetime) -> str:
    """Why the adapter is not proven yet, for staff."""
    times = "once" if num_ended == 1 else f"{num_ended} times in a row"
    when = date_format(timezone.localtime(due), "j M H:i:s")
    return (
        f"A worker's proof ended {times} without a verdict, through no fault of the adapter's that is known "
        f"({failure.code}: {failure.error}) It is asked for again at {when}; “Validate again” asks at once."
    )
