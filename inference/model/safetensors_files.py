"""Which safetensors file of a model directory holds which tensor, and what is said of a directory without any."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open

from inference.model.json_file import read_object
from inference.model.spec import plain_name
from inference.reading import Refused, said, shown

SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
_SHARD: Final = re.compile(r"(.+-)(\d{5})-of-(\d{5})(\.safetensors)")
_PICKLES: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt")

Stored = tuple[str, Path]
"""A tensor's name in its file, and the file."""


class WeightsError(Refused):
    """A checkpoint that cannot be read as the model it claims to be."""


def find_tensors(directory: Path) -> dict[str, Stored]:
    """Where each tensor of the model in `directory` lies, by its `plain_name`.

    As in transformers one file counts before an index; beyond that several files without one are read together.
    Raises `WeightsError`.
    """
    single, index = directory / SINGLE, directory / INDEX
    if single.is_file() or not index.is_file():
        return _from_files([single] if single.is_file() else _files(directory))
    return _from_index(index)


def _files(directory: Path) -> list[Path]:
    found = sorted(directory.glob("*.safetensors"))
    if not found:
        raise WeightsError(f"{directory} holds no .safetensors file{_instead(directory)}")
    for path in found:
        if shard := _SHARD.fullmatch(path.name):
            names = (f"{shard[1]}{number:05}-of-{shard[3]}{shard[4]}" for number in range(1, int(shard[3]) + 1))
            _check_present(directory, names, "of which the names of the others tell")
    return found


def _instead(directory: Path) -> str:
    pickles = sorted(path.name for kind in _PICKLES for path in directory.glob(kind))
    if not pickles:
        return "; fetch the model again"
    return (
        f", and {pickles[0]} is a pickle, which may run code and is not read: load the model with transformers where "
        "you trust it, and save it by save_pretrained"
    )


def _from_files(files: Iterable[Path]) -> dict[str, Stored]:
    found: dict[str, Stored] = {}
    for path in files:
        for name in names_in(path):
            _add(found, name, path)
    return found


def _from_index(index: Path) -> dict[str, Stored]:
    directory, files = index.parent, read_object(index, WeightsError).get("weight_map")
    if not isinstance(files, dict) or not files or not all(isinstance(file, str) for file in files.values()):
        raise WeightsError(f"{index} has no weight_map of tensors and their files; fetch it again")
    if outside := next((file for file in files.values() if Path(file).name != file), None):
        raise WeightsError(f"{index} names the file {shown(outside)}; its files lie beside it, so fetch it again")
    _check_present(directory, files.values(), "which its index names")
    held = {file: set(names_in(directory / file)) for file in sorted({*files.values()})}
    found: dict[str, Stored] = {}
    for name, file in files.items():
        if name not in held[file]:
            raise WeightsError(f"{directory / file} has no tensor {shown(name)}, which {INDEX} says it has; fetch both")
        _add(found, name, directory / file)
    return found


def _check_present(directory: Path, names: Iterable[str], why: str) -> None:
    if missing := sorted({name for name in names if not (directory / name).is_file()}):
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise WeightsError(f"{directory} lacks {', '.join(missing[:3])}{more}, {why}; fetch the model again")


def _add(found: dict[str, Stored], name: str, path: Path) -> None:
    plain = plain_name(name)
    if plain in found:
        other, place = found[plain]
        raise WeightsError(
            f"the tensor {shown(plain)} is there twice: as {shown(other)} in {place} and as {shown(name)} in {path}; "
            "keep the files of one model in a directory"
        )
    found[plain] = name, path


def names_in(path: Path) -> list[str]:
    """The names of the tensors in the file at `path`. Raises `WeightsError`."""
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file: {said(error)}; fetch it again") from error
