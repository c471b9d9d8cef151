"""A trained gate: its tensors and settings, and whether it is made for some adapters and what they do.

Its file is `inference.adapters.gate_file`'s, by whose names its tensors go.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

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
    def num_layers(self) -> int:
        return 1 + max(int(name.split(".")[1]) for name in self.tensors)

    def stacked(self, name: str) -> Tensor:
        """The tensors of all layers, [layers, ...]."""
        return torch.stack([self.tensors[f"layers.{layer}.{name}"] for layer in range(self.num_layers)])

    def mistakes(self, digests: list[str], ref: GateRef) -> Iterable[str]:
        """Why it cannot weigh the parts `digests` as `ref` says, in sentences."""
        if ref.kind != self.kind:
            yield f"the gate is of the kind {self.kind}, and {ref.kind} was asked for"
        if (ref.top_k, ref.temperature) != (0, 1.0):
            yield f"the gate's own settings hold; leave out top_k ({ref.top_k}) and temperature ({ref.temperature:g})"
        if self.parts and list(self.parts) != digests:
            named = ", ".join(digest[:12] for digest in self.parts)
            yield f"the gate is made for {named}, in this order, and not for {', '.join(one[:12] for one in digests)}"

    def misfits(self, target: str, count: int, shape: tuple[int, int, int]) -> Iterable[str]:
        """Why it cannot weigh what `count` parts do to `target` of `shape`: layers, features in and out."""
        layers, into, out = shape
        if self.num_layers != layers:
            yield f"the gate has {self.num_layers} layers, and the base {layers}"
            return
        g = self._width(target)
        if not g:
            yield f"the gate has no A_r and B_r for {target}, which a part changes"
            return
        wanted: dict[str, tuple[int, ...]] = {f"{target}.A_r": (g, into), f"{target}.B_r": (out, g)}
        if self.kind == "flow":
            wanted = {"weight": (count, g), "bias": (count,)}
        for name, size in wanted.items():
            if found := [one for layer in range(layers) if (one := self._shape(layer, name)) != size]:
                yield f"the gate's {name} is {list(found[0])}, and {list(size)} in another place or in the base"

    def _width(self, target: str) -> int:
        """Of RAMoLE the keys of `target`, of LoRA-Flow the residual stream, by the first layer; 0 where none are."""
        sizes = self._shape(0, "weight")[1:] if self.kind == "flow" else self._shape(0, f"{target}.A_r")[:1]
        return sizes[0] if sizes else 0

    def _shape(self, layer: int, name: str) -> tuple[int, ...]:
        tensor = self.tensors.get(f"layers.{layer}.{name}")
        return () if tensor is None else tuple(tensor.shape)
