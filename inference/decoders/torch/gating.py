"""What a blend's gate makes of rows: a coefficient for each part, by which the part's share of rows @ A is multiplied.

Everything is float32. Rows come as [n, in] of a tile, or as [n, 1, in], items of a batched product, so that a row's
numbers are its own as those of its update are (`inference.decoders.torch.lora`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from inference.adapters.gate import Gate


def weighed(gate: Gate, layer: int, shrunk: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """`shrunk` [..., rank], each rank times its part's coefficient, and these [..., parts]; `seen` [..., in] is what
    the gate looks at."""
    wide = shrunk.to(torch.float32)
    coefficients = _coefficients(gate, layer, _scores(gate, layer, wide, seen.to(torch.float32)))
    num_ranks = len(gate.owners)
    wide[..., :num_ranks] *= coefficients[..., gate.owners]
    return wide.to(shrunk.dtype), coefficients


def _scores(gate: Gate, layer: int, shrunk: Tensor, seen: Tensor) -> Tensor:
    """[..., parts]."""
    projected = seen @ _items(gate.projection[layer], seen)
    if gate.kind == "arrow":
        return projected.abs()
    if gate.keys is None:
        return projected
    agreement = shrunk * (projected @ _items(gate.keys[layer], seen))
    return agreement[..., : len(gate.owners)] @ _items(gate.membership, seen)


def _items(matrix: Tensor, rows: Tensor) -> Tensor:
    """`matrix` for each item of `rows`, where these are items."""
    return matrix.expand(len(rows), -1, -1) if rows.dim() == 3 else matrix


def _coefficients(gate: Gate, layer: int, scores: Tensor) -> Tensor:
    """[..., parts]; of equal scores the first is the larger."""
    if 0 < gate.top_k < scores.shape[-1]:
        order = scores.sort(dim=-1, descending=True, stable=True).indices
        scores = scores.scatter(-1, order[..., gate.top_k :], -torch.inf)
    coefficients = torch.softmax(scores / gate.temperature, dim=-1)
    return coefficients if gate.bias is None else coefficients + gate.bias[layer]
