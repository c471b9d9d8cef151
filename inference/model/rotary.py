"""Rotary position embedding (Su et al., 2021) and the scalings by which configs stretch it.

The angles are tables of fixed shape, so that a position's bits never depend on a batch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from inference.model.architecture import Architecture


class Rotary:
    """Cosines and sines [max_position, head_dim] for every position, in the type of the rows."""

    def __init__(self, architecture: Architecture, dtype: torch.dtype, device: torch.device) -> None:
        frequencies, scale = inverse_frequencies(architecture)
        angles = torch.arange(architecture.max_position, dtype=torch.float32)[:, None] * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        self.cos = (angles.cos() * scale).to(device, dtype)
        self.sin = (angles.sin() * scale).to(device, dtype)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [n, 1, head_dim] for `positions` int64 [n]."""
        return self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)


def apply_rope(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn `heads` [n, heads, head_dim] by the angles of their rows."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat((-second, first), dim=-1) * sin


def inverse_frequencies(architecture: Architecture) -> tuple[Tensor, float]:
    """Inverse frequencies float32 [head_dim / 2] and the factor on cosines and sines.

    `dynamic` equals `default` here: its stretching begins past `max_position`, where this decoder does not go.
    """
    rope, dim = architecture.rope, architecture.head_dim
    plain = 1.0 / rope.theta ** (torch.arange(0, dim, 2, dtype=torch.int64).to(torch.float32) / dim)
    if rope.kind == "linear":
        return plain / rope.scaling["factor"], 1.0
    if rope.kind == "llama3":
        return _llama3(plain, rope.scaling), 1.0
    if rope.kind == "yarn":
        return _yarn(plain, architecture)
    return plain, 1.0


def _llama3(plain: Tensor, scaling: dict[str, Any]) -> Tensor:
    """Llama 3.1's scaling: long wavelengths are stretched, short ones kept, those between blended."""
    factor, low, high = scaling["factor"], scaling["low_freq_factor"], scaling["high_freq_factor"]
    original = scaling["original_max_position_embeddings"]
    wavelength = 2 * math.pi / plain
    smooth = (original / wavelength - low) / (high - low)
    blended = (1 - smooth) * plain / factor + smooth * plain
    stretched = torch.where(wavelength > original / low, plain / factor, plain)
    between = (wavelength >= original / high) & (wavelength <= original / low)
    return torch.where(between, blended, stretched)


def _yarn(plain: Tensor, architecture: Architecture) -> tuple[Tensor, float]:
    """YaRN (Peng et al., 2023): a ramp over the dimensions from kept to stretched, and a sharper attention."""
    scaling, dim, theta = architecture.rope.scaling, architecture.head_dim, architecture.rope.theta
    original = scaling.get("original_max_position_embeddings") or architecture.max_position
    factor = scaling["factor"]

    def dimension(rotations: float) -> float:
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(scaling.get("beta_fast") or 32), dimension(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    high = high + 0.001 if low == high else high
    ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    return plain / factor * ramp + plain * (1 - ramp), _yarn_scale(scaling, factor)


def _yarn_scale(scaling: dict[str, Any], factor: float) -> float:
    given = scaling.get("attention_factor")
    if given is not None:
        return float(given)

    def sharpness(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return sharpness(scaling["mscale"]) / sharpness(scaling["mscale_all_dim"])
    return sharpness(1.0)
