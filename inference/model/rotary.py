"""Rotary position embedding (Su et al., 2021) and the scalings by which configs stretch it.

The angles are tables of fixed shape, so that a position's bits never depend on a batch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from inference.model.architecture import Architecture, Rope


class Rotary:
    """Cosines and sines [max_position, rotary_dim] for every position, in the type of the rows: of the base's rotary
    embedding, or of `rope`, another one of it."""

    def __init__(
        self, architecture: Architecture, dtype: torch.dtype, device: torch.device, rope: Rope | None = None
    ) -> None:
        frequencies, scale = inverse_frequencies(architecture, rope or architecture.rope)
        angles = torch.arange(architecture.max_position, dtype=torch.float32)[:, None] * frequencies
        twice = angles.repeat_interleave(2, dim=-1)
        angles = twice if architecture.spec.is_interleaved else torch.cat((angles, angles), dim=-1)
        self.cos = (angles.cos() * scale).to(device, dtype)
        self.sin = (angles.sin() * scale).to(device, dtype)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [n, 1, rotary_dim] for `positions` int64 [n]."""
        return self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)


def apply_rope(heads: Tensor, cos: Tensor, sin: Tensor, is_interleaved: bool = False) -> Tensor:
    """Turn the first numbers of `heads` [n, heads, head_dim], as many as `cos` has, by the angles of their rows: those
    of one half with those of the other, or each even one with the next."""
    width = cos.shape[-1]
    if width < heads.shape[-1]:
        turned = apply_rope(heads[..., :width], cos, sin, is_interleaved)
        return torch.cat((turned, heads[..., width:]), dim=-1)
    if is_interleaved:
        return heads * cos + torch.stack((-heads[..., 1::2], heads[..., ::2]), dim=-1).flatten(-2) * sin
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat((-second, first), dim=-1) * sin


def inverse_frequencies(architecture: Architecture, rope: Rope) -> tuple[Tensor, float]:
    """Inverse frequencies float32 [rotary_dim / 2] of `rope` and the factor on cosines and sines.

    `dynamic` equals `default` here: its stretching begins past `max_position`, where this decoder does not go.
    """
    dim = architecture.rotary_dim
    plain = 1.0 / rope.theta ** (torch.arange(0, dim, 2, dtype=torch.int64).to(torch.float32) / dim)
    if rope.kind == "linear":
        return plain / rope.scaling["factor"], 1.0
    if rope.kind == "llama3":
        return _llama3(plain, rope.scaling), 1.0
    if rope.kind == "yarn":
        return _yarn(plain, architecture, rope)
    if rope.kind == "longrope":
        return _longrope(plain, rope.scaling)
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


def _longrope(plain: Tensor, scaling: dict[str, Any]) -> tuple[Tensor, float]:
    """LongRoPE (Ding et al., 2024): a factor for each frequency, found by search, for short and for long contexts."""
    factors = scaling["long_factor" if scaling["is_long"] else "short_factor"]
    given, factor = scaling.get("attention_factor"), scaling["factor"]
    if given is None:
        stretched = math.log(factor) / math.log(scaling["original_max_position_embeddings"]) if factor > 1 else 0.0
        given = math.sqrt(1 + stretched)
    return plain / torch.tensor(factors, dtype=torch.float32), float(given)


def _yarn(plain: Tensor, architecture: Architecture, rope: Rope) -> tuple[Tensor, float]:
    """YaRN (Peng et al., 2023): a ramp over the dimensions from kept to stretched, and a sharper attention."""
    scaling, dim, theta = rope.scaling, architecture.rotary_dim, rope.theta
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
