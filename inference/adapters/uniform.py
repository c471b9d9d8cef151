"""Pairs of an adapter whose modules are all alike, as most are: in a few steps over all layers, none for each module.

What comes out has the bits of `inference.adapters.file`, which reads any adapter module by module.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from inference.adapters.config import LoraConfig
from inference.adapters.examination import Examination
from inference.adapters.identity import TensorInfo
from inference.adapters.weights import RANK_STEP, AdapterWeights, TargetWeights
from inference.model.architecture import TARGETS, Architecture

_DTYPES: Final = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_PAIR: Final = frozenset("AB")


def read_uniform(
    weights: Path, found: Examination, config: LoraConfig, architecture: Architecture, dtype: torch.dtype
) -> AdapterWeights | None:
    """The pairs in `weights`, as an examination `found` them; None where they are not a plain LoRA's of one type, of
    all layers and of one rank for each target that needs no padding."""
    placed = _placed(architecture, tuple(found.modules)) if _is_plain(found, config) else None
    if placed is None:
        return None
    sides = {target: [[found.modules[name][side] for name in names] for side in "AB"] for target, names in placed}
    infos = [info for both in sides.values() for side in both for info in side]
    if not all(_is_even(a) for a, _ in sides.values()) or len({info.dtype for info in infos} | {""}) != 2:
        return None
    content = bytearray(weights.read_bytes())
    (length,) = struct.unpack_from("<Q", content)
    kind = _DTYPES.get(infos[0].dtype)
    if kind is None or length % kind.itemsize:
        return None
    read: AdapterWeights = {}
    for target, names in placed:
        a, b = (_stacked(content, 8 + length, side, kind) for side in sides[target])
        scalings = torch.tensor([config.scaling(name) for name in names], dtype=torch.float32)
        b = b.to(torch.float32) * scalings[:, None, None]
        read[target] = TargetWeights(a.to(dtype).transpose(1, 2), b.to(dtype).transpose(1, 2))
    return read


def _is_plain(found: Examination, config: LoraConfig) -> bool:
    is_more = config.method is not None or config.is_dora or config.has_shifts
    others = found.tables or found.rows or found.shared or found.biases
    return not is_more and not others and all(parts.keys() == _PAIR for parts in found.modules.values())


def _is_even(matrices: Sequence[TensorInfo]) -> bool:
    """Whether the A of a target's modules are of one rank that needs no padding."""
    ranks = {info.shape[0] for info in matrices}
    return len(ranks) == 1 and not ranks.pop() % RANK_STEP


def _stacked(content: bytearray, start: int, infos: Sequence[TensorInfo], kind: torch.dtype) -> Tensor:
    """The tensors of all layers as one."""
    rows, columns = infos[0].shape
    places = (start + info.begin for info in infos)
    flat = [torch.frombuffer(content, dtype=kind, count=rows * columns, offset=place) for place in places]
    return torch.stack(flat).view(len(infos), rows, columns)


@lru_cache(maxsize=16)
def _placed(architecture: Architecture, modules: tuple[str, ...]) -> tuple[tuple[str, tuple[str, ...]], ...] | None:
    """Of each target the modules in the order of their layers; None where one is fused or a table, or a layer lacks."""
    found: dict[str, dict[int, str]] = {}
    for module in modules:
        places = architecture.places(module)
        if len(places) != 1 or places[0].target not in TARGETS:
            return None
        found.setdefault(places[0].target, {})[places[0].layer] = module
    layers = [*range(architecture.num_layers)]
    if any(sorted(own) != layers for own in found.values()):
        return None
    return tuple((target, tuple(own[layer] for layer in layers)) for target, own in sorted(found.items()))
