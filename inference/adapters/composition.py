"""Several adapters added up, each with a weight, as one adapter of the sum of their ranks.

What the sum adds to a row is the weighted sum of what each adds: their A side by side and their B one below the
other, multiplied by the weights, which is PEFT's ``add_weighted_adapter`` of the kind "cat". Biases are added up too.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from inference.adapters.file import AdapterRefused, HostAdapter
from inference.adapters.identity import composed_digest
from inference.adapters.packed_lora import unpack
from inference.adapters.weights import RANK_STEP, TargetWeights


def compose(digest: str, parts: list[tuple[HostAdapter, float]], max_rank: int) -> HostAdapter:
    """The sum of `parts` with their weights, which must have the identity `digest`.

    Raises `AdapterRefused` for ranks above `max_rank` together, for DoRA and aLoRA, and for weights that lead nowhere.
    """
    rank = sum(adapter.rank for adapter, _ in parts)
    reasons = [
        f"{adapter.digest[:12]} is a DoRA, whose scale depends on its own update alone, so it cannot be added to others"
        for adapter, _ in parts
        if any(pair.scale is not None for pair in adapter.weights.values())
    ]
    reasons += [
        f"{adapter.digest[:12]} is an aLoRA, active from its invocation on alone, so it cannot be added to others"
        for adapter, _ in parts
        if adapter.is_activated
    ]
    if digest != composed_digest((adapter.digest, weight) for adapter, weight in parts):
        reasons.append(f"{digest[:12]} is not the identity of these adapters and weights")
    if rank > max_rank:
        reasons.append(f"the ranks of the adapters add up to {rank}, above {max_rank}, the most that is served")
    if reasons:
        raise AdapterRefused(reasons)
    weights = {target: _add_up(target, parts) for target in sorted({key for part, _ in parts for key in part.weights})}
    if not all(torch.isfinite(part).all() for pair in weights.values() for part in pair.parts.values()):
        raise AdapterRefused(["the adapters' values overflow once multiplied by their weights; choose smaller ones"])
    return HostAdapter(digest, weights, rank, sum(pair.num_bytes for pair in weights.values()))


def _add_up(target: str, parts: list[tuple[HostAdapter, float]]) -> TargetWeights:
    """The pairs of all parts that change `target`, without the padding of their ranks, padded anew."""
    pairs = [(unpack(part.weights[target]), part.rank, weight) for part, weight in parts if target in part.weights]
    a = torch.cat([pair.a[:, :, :rank] for pair, rank, _ in pairs], dim=2)
    b = torch.cat([(pair.b[:, :rank].float() * weight).to(pair.b.dtype) for pair, rank, weight in pairs], dim=1)
    padding = math.ceil(a.shape[2] / RANK_STEP) * RANK_STEP - a.shape[2]
    a = functional.pad(a, (0, padding))
    biases = [pair.bias * weight for pair, _, weight in pairs if pair.bias is not None]
    bias = torch.stack(biases).sum(0) if biases else None
    return TargetWeights(a.contiguous(), functional.pad(b, (0, 0, 0, padding)).contiguous(), bias=bias)
