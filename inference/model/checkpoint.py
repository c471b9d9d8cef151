"""The tensors of a model directory by name: one safetensors file, or several."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from inference.model.linear import KeptLinear
from inference.model.safetensors_files import WeightsError as WeightsError
from inference.model.safetensors_files import find_tensors
from inference.reading import said, shown

IN_FULL: Final = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
"""The types of numbers that mean what they say; others have a scale somewhere."""


class Table(Protocol):
    """Rows [hidden] of a vocabulary, in `dtype`, as a tensor [vocab, hidden] gives them."""

    @property
    def shape(self) -> Sequence[int]: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    def __getitem__(self, token_ids: Tensor, /) -> Tensor: ...


class Checkpoint:
    """The tensors of a model directory by name, each read when asked for. Raises `WeightsError`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._files = find_tensors(directory)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def name_also(self, name: str, other: str) -> None:
        """Call the tensor `other` by `name` too."""
        self._files[name] = self._files[other]

    def __iter__(self) -> Iterator[str]:
        """The names of all that is stored, parts of linears in fewer bits among them."""
        return iter(self._files)

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
        tensor = self._stored(name, shape, IN_FULL)
        return tensor if dtype is None else tensor.to(dtype)

    def _stored(
        self, name: str, shape: tuple[int, ...], kinds: Collection[torch.dtype], why: str = "config.json asks for"
    ) -> Tensor:
        """The tensor `name` as it is stored, if it has `shape` and one of the types `kinds`."""
        tensor = self._raw(name)
        told = f"tensor {shown(name)} of {self.directory}"
        if tuple(tensor.shape) != shape:
            raise WeightsError(f"{told} has shape {tuple(tensor.shape)}; {why} {shape}")
        if tensor.dtype not in kinds:
            wanted = " or ".join(map(_name, kinds))
            raise WeightsError(f"{told} is of type {_name(tensor.dtype)}; read here are {wanted}, so take another copy")
        return tensor

    def _raw(self, name: str) -> Tensor:
        if name not in self._files:
            raise WeightsError(f"{self.directory} has no tensor {name!r}")
        stored, path = self._files[name]
        try:
            with safe_open(path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(stored)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path} cannot be read: {said(error)}; fetch it again") from error
        return tensor


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
