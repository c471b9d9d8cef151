"""The adapters in a GPU's slots as the kernels know them: by tables of addresses, a column for each target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from inference.model.architecture import EMBEDDING, HEAD, TARGETS, Architecture
from inference.model.spec import NORMS

INDEX: Final = {target: index for index, target in enumerate((*TARGETS, EMBEDDING, HEAD, *NORMS))}
"""The columns of a `SlotTable`."""
BUCKETS: Final = (8, 16, 32, 64)
"""Ranks are padded with zeros to the next of these, and past the last to a multiple of it."""
RANK_BIT: Final = 52
"""Where the rank, counted in the least of the buckets, begins in the entry of a matrix; addresses are shorter."""
ALIGNMENT: Final = 16
"""Bytes by which the addresses in a table can be divided: the kernels read so many at once."""
MEMBERS: Final = {
    "qkv": TARGETS[:3],
    "o": TARGETS[3:4],
    "gate_up": TARGETS[4:6],
    "down": TARGETS[6:],
    "embedding": (EMBEDDING,),
    "head": (HEAD,),
}
"""Targets by the product that their base weights are stacked for."""


@dataclass(frozen=True)
class Group:
    """Targets whose base weights are stacked: `count` columns from `first` on, each of `widths` features out."""

    first: int
    count: int
    width_in: int
    widths: tuple[int, ...]


def groups(architecture: Architecture) -> dict[str, Group]:
    """The products of a decoder by the names of its linears, and the embedding."""
    there = (*architecture.targets, EMBEDDING, HEAD)
    members = {name: [target for target in targets if target in there] for name, targets in MEMBERS.items()}
    return {name: _group(architecture, targets) for name, targets in members.items()}


def _group(architecture: Architecture, targets: list[str]) -> Group:
    (width_in, _), *_ = shapes = [architecture.target_shape(target) for target in targets]
    return Group(INDEX[targets[0]], len(targets), width_in, tuple(width_out for _, width_out in shapes))


@dataclass(frozen=True)
class Pair:
    """An adapter's matrices for one target: `a` [layers, rank, in], `b` [layers, rank, out], scaling folded into `b`.

    The embedding's `a` is [1, vocab, rank], since it is looked up. In int8 both are integers, and a rank's products
    are multiplied by its `rank_scales` float32 [layers, rank]. With `affine` float32 [layers, 2, out] the sum of the
    base and the update is multiplied by the first half, which are DoRA's magnitudes, and the second is added, which are
    biases. A norm has no rank, and of `affine` the second half alone. `gate` is a record of
    `inference.decoders.gpu.kernels.gate`.
    """

    a: Tensor
    b: Tensor
    rank_scales: Tensor | None = None
    affine: Tensor | None = None
    gate: Tensor | None = None

    @property
    def rank(self) -> int:
        return self.b.shape[1]


def entry(address: int, rank: int) -> int:
    """What the table says of a matrix at `address` of a padded `rank`: both, so that one look tells them."""
    assert rank % BUCKETS[0] == 0, f"rank {rank} is not padded"
    assert 0 <= address < 1 << RANK_BIT, "the rank lies where addresses have no bits"
    assert address % ALIGNMENT == 0, "the kernels take it to be aligned"
    return address | (rank // BUCKETS[0]) << RANK_BIT


@dataclass(frozen=True)
class SlotTable:
    """What the kernels know of the slots, for each and each column of `INDEX`, 0 where it has nothing there.

    All are int64 [slots, columns]: `a` and `b` as `entry` says, with no rank above `max_rank`, `rank_scales`,
    `affine` and `gates` addresses. `streams` int64 [slots] are those of gates that look at the residual stream.
    """

    a: Tensor
    b: Tensor
    rank_scales: Tensor
    affine: Tensor
    gates: Tensor
    streams: Tensor
    max_rank: int
    is_int8: bool


def empty_table(num_slots: int, max_rank: int, device: torch.device | str, is_int8: bool = False) -> SlotTable:
    """A table of slots without adapters."""
    shape = (num_slots, len(INDEX))
    a, b, rank_scales, affine, gates = (torch.zeros(shape, dtype=torch.int64, device=device) for _ in range(5))
    streams = torch.zeros(num_slots, dtype=torch.int64, device=device)
    return SlotTable(a, b, rank_scales, affine, gates, streams, bucket(max_rank), is_int8)


def quantize(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`a` and `b` in int8, each rank's row by its largest element, and the scales of the ranks' products."""
    scales = [scales_of(a), scales_of(b)]
    whole = [(matrix.float() / scale).round().to(torch.int8) for matrix, scale in zip((a, b), scales, strict=True)]
    return whole[0], whole[1], (scales[0] * scales[1]).squeeze(-1)


def scales_of(matrix: Tensor) -> Tensor:
    """What one stands for in each row of `matrix` in int8, float32 [layers, rank, 1]."""
    return matrix.abs().amax(-1, keepdim=True).float().clamp(min=1e-30) / 127


def bucket(rank: int) -> int:
    """The rank that `rank` is padded to."""
    last = BUCKETS[-1]
    return next((size for size in BUCKETS if rank <= size), -(-rank // last) * last)
