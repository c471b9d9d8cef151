"""Where an adapter lies among the files of a folder, a .zip or a repository; or what lies there instead."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from loraland.catalogue import store

CONVERT: Final = "python -m inference.adapters.convert FOLDER"
WANTED: Final = f"{store.CONFIG} and {store.WEIGHTS}"
PICKLED: Final = (
    "The gate is a pickle, as LoRA-Flow's own code saves it, which may run code and is not opened here. Convert it on "
    "a machine that you trust: python -m inference.adapters.convert GATE.pt --parts DIGEST DIGEST --to FOLDER writes "
    f"{store.GATE} there."
)
MOST_NAMED: Final = 8
MOST_FILES: Final = 10_000
"""Files of a folder that are looked at; an adapter has a dozen beside it."""

_PART: Final = re.compile(
    r"adapter_model[-.]\d+-of-\d+\.(?:safetensors|bin)|adapter_model\.(?:safetensors|bin)\.index\.json"
)
_MODEL: Final = re.compile(r"(?:pytorch_)?model(?:-\d+-of-\d+)?\.(?:safetensors|bin)")
_PICKLE: Final = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth")
_OTHERS: Final = {
    "adapters.safetensors": "an adapter of MLX, whose names and shapes are its own; "
    "`python -m inference.adapters.convert FOLDER` writes PEFT's files, and manage.py import_adapter does so by itself",
    "adapters.npz": "an adapter of MLX before 2024, whose names and shapes are its own; save it with mlx-lm again",
    "pytorch_lora_weights.safetensors": "a LoRA of diffusers, which makes images; only language models answer here",
    store.GATE: "the gate of a blend; “Upload a blend” in the admin takes it",
    "adapter_model.gguf": "an adapter as llama.cpp has it; give the files of PEFT that it was made from",
}


def home_of(names: Iterable[str], wanted: Sequence[str] = store.FILES) -> str | None:
    """The folder, with its slash, of the one adapter among `names`, or whatever has the files that are `wanted`; empty
    for the top. None for no such one or several.

    One that holds all the others is meant, as a training's result lies above its checkpoints.
    """
    homes = homes_of(names, wanted)
    first = min(homes, key=len, default=None)
    return first if first is not None and all(home.startswith(first) for home in homes) else None


def homes_of(names: Iterable[str], wanted: Sequence[str] = store.FILES) -> list[str]:
    """Every folder that holds the files of an adapter, or those that are `wanted`, with its slash, in order."""
    known = set(names)
    ends = (name.removesuffix(wanted[0]) for name in known if _bare(name) == wanted[0])
    return sorted(home for home in ends if all(home + name in known for name in wanted))


def misses(names: Iterable[str], what: str, wanted: Sequence[str] = store.FILES) -> list[str]:
    """Why `names`, the files of `what` (“The .zip”), are no adapter at one place, or have not what is `wanted`."""
    known = sorted(names)
    if wanted != store.FILES:
        return _misses_gate(known, what)
    if homes := homes_of(known):
        return [f"{what} has several adapters: {_listed(map(_shown, homes))}. Give one of them by itself."]
    found = [said for said in (_other_form(known), *_other_kinds(known)) if said]
    for name in store.FILES:
        is_in_other_form = name == store.WEIGHTS and bool(_other_form(known))
        if not is_in_other_form and not any(_bare(other) == name for other in known):
            found.append(f"{what} lacks {name}; PEFT's save_pretrained writes it.")
    apart = [name for name in known if _bare(name) in store.FILES]
    if len({_bare(name) for name in apart}) == 2:
        found.append(f"{what} has {WANTED} apart: {_listed(apart)}. They belong in one folder.")
    return [f"{what} has {sentence}" if sentence[0].islower() else sentence for sentence in found]


def _misses_gate(known: list[str], what: str) -> list[str]:
    if any(_bare(name) == "data.pkl" for name in known):
        return [PICKLED]
    if homes := homes_of(known, (store.GATE,)):
        return [f"{what} has several gates: {_listed(map(_shown, homes))}. Give one of them by itself."]
    if homes_of(known):
        return [f"{what} has an adapter and no {store.GATE}; upload it as an adapter, and choose it here as a part."]
    return [f"{what} lacks {store.GATE}, the gate of a blend. A blend by Arrow needs no file."]


def misses_here(names: Iterable[str], what: str, instead: str = "") -> list[str]:
    """As `misses`, where the adapter must lie at the top: one that lies deeper is named, with what to do `instead`."""
    known = list(names)
    home = home_of(known)
    if home == "":
        return []
    if home:
        instead = instead or f"give {what.rstrip('/')}/{home.rstrip('/')} instead"
        return [f"{what} has its adapter a folder deeper, in {home}: {instead}."]
    return misses(known, what)


def files_below(directory: Path) -> list[str]:
    """The files in `directory` and below, by their names from there; links to folders are not followed."""
    names: list[str] = []
    for folder, folders, files in os.walk(directory):
        folders.sort()
        names += [(Path(folder) / name).relative_to(directory).as_posix() for name in files]
        if len(names) > MOST_FILES:
            break
    return names


def told(names: Iterable[str]) -> str:
    """What is said of files that nobody reads."""
    return f"These files beside the adapter are not read: {_listed(sorted(names))}."


def _other_form(names: list[str]) -> str:
    if any(_bare(name) == store.WEIGHTS for name in names):
        return ""
    if parts := [name for name in names if _PART.fullmatch(_bare(name))]:
        return f"its weights in parts ({_listed(parts)}). Join them with {CONVERT}, which writes {store.WEIGHTS} there."
    if pickles := [name for name in names if _bare(name) in _PICKLE]:
        return (
            f"its weights as a pickle ({_listed(pickles)}), which may run code and is not opened here. Convert it on a "
            f"machine that you trust with {CONVERT}, which writes {store.WEIGHTS} beside it."
        )
    is_adapter = any(_bare(name) == store.CONFIG for name in names)
    others = [name for name in names if name.endswith(".safetensors") and _bare(name) not in _OTHERS]
    if is_adapter and others:
        return (
            f"weights under another name ({_listed(others)}). If they are the adapter's, call the file {store.WEIGHTS}."
        )
    return ""


def _other_kinds(names: list[str]) -> list[str]:
    kinds = [f"{name}: {kind}." for name in names if (kind := _OTHERS.get(_bare(name)))]
    kinds += [f"another .zip in it ({name}); unpack that." for name in names if name.lower().endswith(".zip")][:1]
    models = [name for name in names if _MODEL.fullmatch(_bare(name))]
    if models and not any(_bare(name) == store.CONFIG for name in names):
        kinds.append(f"a whole model ({_listed(models)}), not an adapter. Only adapters are taken, as PEFT saves them.")
    return kinds


def _bare(name: str) -> str:
    return name.rpartition("/")[2]


def _shown(home: str) -> str:
    return home or "its top"


def _listed(names: Iterable[str]) -> str:
    given = [name[:100] for name in names]
    more = len(given) - MOST_NAMED
    return ", ".join(given[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
