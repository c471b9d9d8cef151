"""A trained gate: its tensors and settings, and whether it is made for some adapters and what they do.

Its file is `inference.adapters.gate_file`'s, by whose names its tensors go.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from inference.adapters.gate_head import GateHead
from inference.wire.protocol import GateKind, GateRef


@dataclass(frozen=True)
class StoredGate:
    """A trained gate. `parts` are the digests that it was trained for, in order; of RAMoLE, which weighs any, it may be
    empty. `tensors` are float32, by the names of the file."""

    kind: GateKind
    tensors: dict[str, Tensor] = field(repr=False)
    base: str = ""
    parts: tuple[str, ...] = ()
    top_k: int = 0
    temperature: float = 1.0

    @property
    def head(self) -> GateHead:
        """The same without its numbers."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        return GateHead(self.kind, shapes, self.base, self.parts, self.top_k, self.temperature)

    @property
    def num_layers(self) -> int:
        return self.head.num_layers

    def stacked(self, name: str) -> Tensor:
        """The tensors of all layers, [layers, ...]."""
        return torch.stack([self.tensors[f"layers.{layer}.{name}"] for layer in range(self.num_layers)])

    def mistakes(self, digests: list[str], ref: GateRef) -> Iterable[str]:
        """Why it cannot weigh the parts `digests` as `ref` says, in sentences."""
        return self.head.mistakes(digests, ref)

    def misfits(self, target: str, count: int, shape: tuple[int, int, int]) -> Iterable[str]:
        """Why it cannot weigh what `count` parts do to `target` of `shape`: layers, features in and out."""
        return self.head.misfits(target, count, shape)
