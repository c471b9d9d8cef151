"""The files of a training between the site and a trainer on another host: rows go there, what was trained comes back.

They lie in a part of the store of adapters, under the training's id, until it has ended. Checkpoints stay on the
trainer's disk: one that takes a training over on another host begins it anew.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Literal

from inference.objects.address import Address
from inference.objects.failures import StoreAway
from inference.objects.handover import Handover, handover

PAUSES: Final = [5, 15, 60, 300]
"""Seconds before a trainer asks a store again that was away: hours of work are at stake."""

Part = Literal["data", "out"]

log = logging.getLogger(__name__)


def trainings(store: Address | None) -> Handover | None:
    """Where they lie; None where site and trainer share a disk."""
    return handover(store, "trainings")


def name_of(id: str, part: Part) -> str:
    """The folder of the rows, or of what was trained."""
    return f"{id}-{part}"


def take_rows(store: Address | None, id: str, data: Path) -> None:
    """Have the rows of the training `id` in `data`, unless they are on this disk. Raises OSError and `Damaged`."""
    if (shared := trainings(store)) and not data.is_dir():
        _patiently(lambda: shared.take(name_of(id, "data"), data))


def give_back(store: Address | None, id: str, out: Path, names: Iterable[str]) -> None:
    """Let the site have those of `names` that were written to `out`, which it takes from the store even where it is on
    this host. Raises OSError."""
    if shared := trainings(store):
        found = [name for name in names if (out / name).is_file()]
        _patiently(lambda: shared.give(name_of(id, "out"), out, found))
        shutil.rmtree(out, ignore_errors=True)


def forget(store: Address | None, id: str) -> None:
    """Remove both once the training has ended."""
    if shared := trainings(store):
        shared.forget(name_of(id, "data"))
        shared.forget(name_of(id, "out"))


def _patiently(call: Callable[[], object]) -> None:
    for pause in PAUSES:
        try:
            call()
            return
        except StoreAway as error:
            log.warning("asking again in %d s: %s", pause, error)
            time.sleep(pause)
    call()
