"""The tensors of a model directory by name: one safetensors file, or several under an index."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from inference.model.linear import KeptLinear
from inference.model.spec import plain_name


class Table(Protocol):
    """Rows [hidden] of a vocabulary, in `dtype`, as a tensor [vocab, hidden] gives them."""

    @property
    def shape(self) -> Sequence[int]: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    def __getitem__(self, token_ids: Tensor, /) -> Tensor: ...


class WeightsError(ValueError):
    """A checkpoint that cannot be read as the model it claims to be."""


class Checkpoint:
    """The tensors of a model directory by name, each read when asked for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._files = {plain_name(name): (name, path) for name, path in _files_by_name(directory).items()}

    def __contains__(self, name: str) -> bool:
        return name in self._files

    @property
    def files(self) -> list[Path]:
        """Where the tensors lie."""
        return sorted({path for _, path in self._files.values()})

    @property
    def is_quantized(self) -> bool:
        """Whether some of its linears are in fewer bits, which `kept` gives."""
        return False

    def kept(self, name: str, shape: tuple[int, ...]) -> KeptLinear | None:
        """The linear of the weight `name` in fewer bits, as the checkpoint has it; None where it is in full there."""
        return None

    def table(self, name: str, shape: tuple[int, int], dtype: torch.dtype) -> Table | None:
        """The table `name` whose rows are read as they are asked for; None where it had better be read whole."""
        return None

    def read(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        """The tensor `name` in `dtype`, or its own; it must have `shape`, and raises `WeightsError` otherwise."""
        tensor = self._raw(name)
        if tuple(tensor.shape) != shape:
            raise WeightsError(f"tensor {name!r} has shape {tuple(tensor.shape)}; config.json asks for {shape}")
        return tensor if dtype is None else tensor.to(dtype)

    def _raw(self, name: str) -> Tensor:
        if name not in self._files:
            raise WeightsError(f"{self.directory} has no tensor {name!r}")
        stored, path = self._files[name]
        try:
            with safe_open(path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(stored)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path} cannot be read: {error}") from error
        return tensor


def _files_by_name(directory: Path) -> dict[str, Path]:
    """Which file holds which tensor, from the index of a sharded checkpoint or the files' own headers."""
    index = directory / "model.safetensors.index.json"
    if index.exists():
        return _from_index(index)
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise WeightsError(f"{directory} holds no .safetensors file")
    return {name: path for path in files for name in _names(path)}


def _from_index(index: Path) -> dict[str, Path]:
    try:
        names: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError) as error:
        raise WeightsError(f"{index} is not an index of a sharded checkpoint") from error
    missing = sorted({file for file in names.values() if not (index.parent / file).is_file()})
    if missing:
        raise WeightsError(f"{index.parent} lacks {', '.join(missing)}, which its index names")
    return {name: index.parent / file for name, file in names.items()}


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file: {error}") from error
