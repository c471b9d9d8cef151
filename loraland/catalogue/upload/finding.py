"""For which of the served bases two files are: by their shapes, by the name in their config, else it is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from inference.adapters.examination import Examination, examine_files
from inference.adapters.named_base import judge_base, named_base
from inference.model.architecture import Architecture
from loraland import bases
from loraland.bases import Base
from loraland.catalogue import store
from loraland.catalogue.upload.bases import architecture_of, known_base

HOW: Final = "Say which one it is for: --base NAME of import_adapter, or “Base” in the admin's upload form."


@dataclass(frozen=True)
class Found:
    """What an examination says, and for which served base; None where it is for one that is not served. A `question` is
    to be answered first, or tells that no other base fits."""

    examination: Examination
    base: Base | None
    question: str = ""


def find_base(directory: Path, said: str) -> Found:
    """For which base the adapter in `directory` is, of which somebody said that it is called `said`, empty if nobody.

    What was said is taken if the shapes are its own; else the base whose shapes they are, and of several the one that
    the config names. Raises OSError.
    """
    spoken, examined = bases.of_name(said), dict[Base, Examination]()
    for base in _candidates(spoken, said):
        examined[base] = _examine(directory, architecture_of(base), base.max_rank)
        if examined[base].fits and (base == spoken or examined[base].reasons):
            return Found(examined[base], base)
    if fitting := {base: found for base, found in examined.items() if found.fits}:
        return _chosen(fitting)
    if examined and (spoken or not said):
        base, *others = examined
        told = f"Nor does it fit {' or '.join(other.name for other in others)}." if others else ""
        return Found(examined[base], base, told)
    question = "" if said else f"The shapes of {bases.names()} are not known here. {HOW}"
    return Found(_examine(directory, known_base(said), bases.max_rank()), None, question)


def _candidates(spoken: Base | None, said: str) -> list[Base]:
    """The bases to be tried, first the one that was spoken of. One whose shapes are not known here fits everything, so
    it must have been spoken of, or be the only one where nobody said anything."""
    served = sorted(bases.served(), key=lambda base: base != spoken)
    is_clear = len(served) == 1 and not said
    return [base for base in served if base == spoken or is_clear or architecture_of(base)]


def _chosen(fitting: Mapping[Base, Examination]) -> Found:
    """The one of those that fit, or the one whose name the config has."""
    named = named_base(next(iter(fitting.values())).config)
    same = [base for base in fitting if judge_base(named, base.name) == "same"]
    meant = next((found for found in (list(fitting), same) if len(found) == 1), [])
    if meant:
        return Found(fitting[meant[0]], meant[0])
    names = bases.together([base.name for base in fitting])
    told = f"names {named}" if named else "names none"
    question = f"Its shapes are those of {names} alike, and adapter_config.json {told}. {HOW}"
    return Found(next(iter(fitting.values())), None, question)


def _examine(directory: Path, base: Architecture | None, max_rank: int) -> Examination:
    return examine_files(directory / store.CONFIG, directory / store.WEIGHTS, base, max_rank)
