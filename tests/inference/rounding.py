"""How far logits of bfloat16 may lie from those of float32: about as far as transformers' own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.inference.checkpoints import load_reference

ALLOWANCE = 1.5
"""Times the distance of transformers. Both round at places of their own, so that either may be the nearer."""


def check_rounding(
    model: Path, texts: Sequence[list[int]], replies: Sequence[list[int]], logits: Sequence[Tensor]
) -> None:
    """Logits [reply, vocab] of each of `replies` to `texts` are as near to the exact ones as transformers' bfloat16."""
    told = [_told(model, tuple(text + reply[:-1])) for text, reply in zip(texts, replies, strict=True)]
    pairs = [(got, *(rows[-len(got) :] for rows in both)) for got, both in zip(logits, told, strict=True)]
    ours = sum(float((got - exact).square().sum()) for got, exact, _ in pairs) ** 0.5
    theirs = sum(float((rounded - exact).square().sum()) for _, exact, rounded in pairs) ** 0.5
    assert ours <= ALLOWANCE * theirs, f"{ours / theirs:.2f} times as far as transformers"


@lru_cache(maxsize=64)
def _told(model: Path, tokens: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Logits float32 [tokens, vocab], exact and of bfloat16."""
    exact, rounded = _references(model)
    with torch.no_grad():
        return exact(torch.tensor([tokens])).logits[0], rounded(torch.tensor([tokens])).logits[0].float()


@lru_cache(maxsize=1)
def _references(model: Path) -> tuple[Any, Any]:
    return load_reference(model), load_reference(model).to(torch.bfloat16)
