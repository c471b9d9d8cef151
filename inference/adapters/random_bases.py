"""The random bases of NOLA: each number is a function of the seed, module, matrix, basis and place, on any device.

A number is 24 bits of SplitMix64 (Steele et al., 2014) at a counter, as a fraction in [-1, 1), which float32 holds
exactly. Sums are taken in float64 in the order of the bases, a product and a sum at a time, and rounded once.
"""

from __future__ import annotations

import hashlib
import math
from typing import Final

import torch
from torch import Tensor

_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""SplitMix64's."""
_BITS: Final = 24
_AT_ONCE: Final = 32768
"""Hashes whose words stay in a processor's cache."""


def stream_key(seed: int, module: str, matrix: str) -> int:
    """Where the numbers of a matrix begin: the first 8 bytes of a SHA-256. `matrix` is A, B, or A0 for A's start."""
    text = f"loraland nola 1\0{seed}\0{module}\0{matrix}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little")


def draw(key: int, first: int, count: int, size: int, device: torch.device | str = "cpu") -> Tensor:
    """Bases `first` to `first + count` of `size` numbers each, float64 [count, size] in [-1, 1).

    A basis has half as many hashes as numbers: the first half of its numbers is their upper bits, the second half those
    below.
    """
    half = (size + 1) // 2
    words = torch.arange(count * half, device=device).add_(1 + first * half).mul_(_signed(_STEP)).add_(_signed(key))
    words = _mixed(words).view(count, half)
    upper, lower = _unsigned_shift(words, 64 - _BITS), _unsigned_shift(words, 64 - 2 * _BITS) & (2**_BITS - 1)
    numbers = torch.cat([upper, lower[:, : size - half]], dim=1).to(torch.float64)
    return numbers.sub_(2 ** (_BITS - 1)).div_(2 ** (_BITS - 1))


def combine(key: int, coefficients: Tensor, shape: tuple[int, int], start: Tensor | None = None) -> Tensor:
    """`start` plus the sum of the bases, each multiplied by its coefficient over the root of their count; float32 of
    `shape`. `start` is float64."""
    size, count = math.prod(shape), len(coefficients)
    weights = (coefficients.to(torch.float64) / math.sqrt(count)).tolist()
    total = torch.zeros(size, dtype=torch.float64, device=coefficients.device) if start is None else start.flatten()
    together = max(1, _AT_ONCE * 2 // size)
    for first in range(0, count, together):
        drawn = draw(key, first, min(together, count - first), size, coefficients.device)
        for weight, basis in zip(weights[first : first + together], drawn, strict=False):
            total = total + basis * weight
    return total.view(shape).to(torch.float32)


def start_of(key: int, shape: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
    """What A is without any basis: uniform within 1 / √in, as PEFT's first A is. Float64 [rank, in]."""
    return draw(key, 0, 1, math.prod(shape), device).view(shape) / math.sqrt(shape[1])


def _mixed(words: Tensor) -> Tensor:
    """SplitMix64's output function of each word; products are modulo 2^64."""
    words = (words ^ _unsigned_shift(words, 30)) * _signed(_FIRST)
    words = (words ^ _unsigned_shift(words, 27)) * _signed(_SECOND)
    return words ^ _unsigned_shift(words, 31)


def _unsigned_shift(words: Tensor, bits: int) -> Tensor:
    """A shift to the right that brings zeros in, of a type that is signed."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word
