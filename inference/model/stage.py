"""A stage: the layers of a base that one process computes, where several processes share it one behind the other.

Numbers only: no torch, no weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from inference.model.architecture import EMBEDDING, Architecture
from inference.model.spec import HEAD, LAST_NORM


@dataclass(frozen=True)
class Stage:
    """Layers [first, end) of `num_layers`. The first stage has the embedding too, the last one the norm and the head;
    a base that is tied has its table in both."""

    first: int
    end: int
    num_layers: int

    @property
    def is_first(self) -> bool:
        return self.first == 0

    @property
    def is_last(self) -> bool:
        return self.end == self.num_layers

    @property
    def layers(self) -> slice:
        """Its layers among all of them."""
        return slice(self.first, self.end)

    def has(self, target: str) -> bool:
        """Whether `target` is computed here, in some layers or as one of a kind."""
        if target in (HEAD, LAST_NORM):
            return self.is_last
        return self.is_first if target == EMBEDDING else True

    def of(self, architecture: Architecture) -> Architecture:
        """`architecture` with these layers alone, which count from 0."""
        spec = architecture.spec
        own = replace(spec, turning=spec.turning[self.layers], windowed=spec.windowed[self.layers])
        return replace(architecture, num_layers=self.end - self.first, spec=own)


def whole(architecture: Architecture) -> Stage:
    """The one stage of a base that nobody shares."""
    return Stage(0, architecture.num_layers, architecture.num_layers)


def cut(architecture: Architecture, count: int, layer_bits: int, head_bits: int) -> tuple[Stage, ...]:
    """`count` stages of about as many bytes of weights that a pass reads; linears of layers have `layer_bits` a number,
    the head has `head_bits`. Not more stages than there are layers."""
    shapes = [architecture.target_shape(target) for target in architecture.targets]
    layer = layer_bits * sum(into * out for into, out in shapes)
    costs = [layer] * architecture.num_layers
    costs[-1] += head_bits * architecture.vocab_size * architecture.hidden_size
    ends = (0, *_ends(costs, count))
    return tuple(Stage(first, end, architecture.num_layers) for first, end in pairwise(ends))


def _ends(costs: Sequence[int], count: int) -> list[int]:
    """Where each of `count` pieces of `costs` ends: as near as can be to its share, with one cost at least in each."""
    sums, ends = [0, *accumulate(costs)], [0]
    for piece in range(1, count):
        wanted, last = sums[-1] * piece / count, len(costs) - (count - piece)
        ends.append(min(range(ends[-1] + 1, last + 1), key=lambda end: abs(sums[end] - wanted)))
    return [*ends[1:], len(costs)]
