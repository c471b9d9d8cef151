"""The base in a GGUF file as a checkpoint: its groups as the decoders have theirs, or expanded where that is wanted.

Q8_0 is levels of 8 bits, Q5_0, Q5_1 and Q5_K of 5, Q4_0, Q4_1 and Q4_K of 4; the scales and minima of K types are
rounded to float16. What has no form of its own, Q6_K, is rounded to 8 bits. Weights in full stay so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.model.architecture import Architecture
from inference.model.checkpoint import Checkpoint
from inference.model.gguf.blocks import BlockType, Groups
from inference.model.gguf.file import FILE, Bytes, GgufFile, GgufTensor, gguf_in
from inference.model.gguf.header import GgufError
from inference.model.gguf.names import Place, places_in
from inference.model.linear import GROUP, GroupedLinear, Int4Linear, Int5Linear, Int8Linear, KeptLinear, MinimaLinear

_WITH_MINIMA: Final[dict[str, type[MinimaLinear]]] = {
    **dict.fromkeys(("Q4_0", "Q4_1", "Q4_K"), Int4Linear),
    **dict.fromkeys(("Q5_0", "Q5_1", "Q5_K"), Int5Linear),
}


class GgufCheckpoint(Checkpoint):
    """The tensors of the file in a model directory, by the names that other checkpoints have for them."""

    def __init__(self, directory: Path, architecture: Architecture) -> None:
        self.directory = directory
        self._file = GgufFile(gguf_in(directory) or directory / FILE)
        self.places = places_in(architecture, str(self._file.fields.get("general.architecture")))

    def __contains__(self, name: str) -> bool:
        return self._place(name).tensor in self._file.tensors

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.places if name in self)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The names of all tensors with their shapes."""
        tensors = self._file.tensors
        return {name: tensors[self.places[name].tensor].shape for name in self}

    @property
    def files(self) -> list[Path]:
        return self._file.paths

    @property
    def is_quantized(self) -> bool:
        return any(tensor.block.groups for tensor in self._file.tensors.values())

    def read(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        tensor, place = self._tensor(name, shape), self._place(name)
        pieces = (torch.from_numpy(tensor.block.dequantize(raw)) - place.offset for raw in self._pieces(tensor, place))
        values = torch.cat([piece.to(dtype or torch.float32) for piece in pieces])
        if place.heads and len(shape) == 1:
            values = values.view(place.heads, -1, 2).transpose(1, 2)
        return values.reshape(shape)

    def kept(self, name: str, shape: tuple[int, ...]) -> KeptLinear | None:
        tensor = self._tensor(name, shape)
        if tensor.block.groups is None:
            return None
        linear = _kept(tensor.block, self._pieces(tensor, self._place(name)))
        if not linear.is_finite:
            raise GgufError(
                f"tensor {tensor.name!r} of {self._file.path} has scales that are no numbers in float16; "
                "fetch the file again, or use the model's safetensors"
            )
        return linear

    def table(self, name: str, shape: tuple[int, int], dtype: torch.dtype) -> TokenTable | None:
        tensor = self._tensor(name, shape)
        return TokenTable(self._file, tensor, dtype) if tensor.block.groups else None

    def _place(self, name: str) -> Place:
        return self.places.get(name, Place(name))

    def _tensor(self, name: str, shape: tuple[int, ...]) -> GgufTensor:
        place = self._place(name)
        tensor = self._file.tensors.get(place.tensor)
        if tensor is None:
            raise GgufError(f"{self._file.path} has no tensor {place.tensor!r} ({name}); it is not whole")
        if tensor.shape != shape:
            asked = f"config.json beside it asks for {shape}"
            raise GgufError(f"tensor {place.tensor!r} of {self._file.path} has shape {tensor.shape}; {asked}")
        return tensor

    def _pieces(self, tensor: GgufTensor, place: Place) -> Iterator[Bytes]:
        """The blocks of all rows, some rows at a time, in the order that checkpoints have."""
        if not place.heads or len(tensor.shape) == 1:
            yield from self._file.pieces(tensor)
            return
        height = tensor.rows // place.heads
        for raw in self._file.pieces(tensor, height):
            # Rows (0, n/2, 1, n/2 + 1, ...) of each head back to (0, 1, 2, ...).
            pairs = raw.reshape(-1, height // 2, 2, raw.shape[1])
            yield np.ascontiguousarray(pairs.transpose(0, 2, 1, 3)).reshape(raw.shape)


class TokenTable:
    """The rows of a table of tokens, read from the file when they are asked for; on the CPU."""

    device: Final = torch.device("cpu")

    def __init__(self, file: GgufFile, tensor: GgufTensor, dtype: torch.dtype) -> None:
        self._file, self._tensor = file, tensor
        self.dtype, self.shape = dtype, torch.Size(tensor.shape)

    def __getitem__(self, token_ids: Tensor) -> Tensor:
        """Rows [n, hidden] of `token_ids` int64 [n]."""
        rows = [self._file.raw(self._tensor, token_id, 1) for token_id in token_ids.tolist()]
        if not rows:
            return torch.empty((0, self.shape[1]), dtype=self.dtype)
        return torch.from_numpy(self._tensor.block.dequantize(np.concatenate(rows))).to(self.dtype)


def _kept(block: BlockType, pieces: Iterable[Bytes]) -> GroupedLinear:
    kind = _WITH_MINIMA.get(block.name)
    if kind is None:
        return Int8Linear.stacked([_in_eight_bits(block.read(raw)) for raw in pieces])
    return kind.stacked([_with_minima(kind, block.read(raw)) for raw in pieces])


def _with_minima(kind: type[MinimaLinear], groups: Groups) -> MinimaLinear:
    assert groups.mins is not None
    return kind.of_levels(torch.from_numpy(groups.levels), _half(groups.scales), _half(groups.mins))


def _in_eight_bits(groups: Groups) -> Int8Linear:
    if groups.mins is None and groups.size == GROUP:
        return Int8Linear.of_parts(torch.from_numpy(groups.levels.copy()), _half(groups.scales))
    return Int8Linear(torch.from_numpy(groups.weights()))


def _half(values: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(values).to(torch.float16)
