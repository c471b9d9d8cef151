"""Does this device keep the promise that no row's arithmetic depends on its batch? Asked once, at start.

A tile and a decode row are computed alone, then once more among other sequences at other places of the batch
and of the cache; the logits must agree to the bit. The key-value cache must not be in use yet.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from inference.config import ConfigError
from inference.engine.model_runner import ModelRunner
from inference.scheduling.plan import Plan, Work
from inference.scheduling.sequence import Sequence

_OTHERS = 4
EXACT = "exact"
DIFFERS = "rows differ"


def self_check(runner: ModelRunner, vocab_size: int) -> str:
    """``exact``, or what differs: ``tile`` or ``decode`` with the largest difference of a logit.

    Raises `ConfigError` for a base that computes no numbers at all.
    """
    num_blocks = len(runner.cache.keys[0])
    per_sequence = -(-(len(runner.canary_ids) + 1) // runner.cache.block_size)
    others = min(_OTHERS, num_blocks // per_sequence - 1)
    if others < 1:
        return "not checked: the key-value cache is too small"
    sequences = [_sequence(runner, index, vocab_size, per_sequence) for index in range(others + 1)]
    for kind in ("tile", "decode"):
        # A decoder may use the memory of its last logits again.
        alone = _logits(runner, sequences[:1], kind)[0].clone()
        if not torch.isfinite(alone).all():
            raise ConfigError(
                "the base's logits are no numbers: its weights are damaged, so fetch it again, or too large for "
                "DTYPE=float16, so choose bfloat16 or float32"
            )
        among = _logits(runner, sequences[::-1], kind)[-1]
        if not torch.equal(alone, among):
            return f"{kind} {DIFFERS} by up to {float((alone - among).abs().max()):.3g} in a batch"
    return EXACT


def differs(outcome: str) -> bool:
    """Whether `outcome`, of `self_check`, says that rows have other bits in other company."""
    return DIFFERS in outcome


def _sequence(runner: ModelRunner, index: int, vocab_size: int, num_blocks: int) -> Sequence:
    """The canary, with every token moved by `index`, and its first token once more as an answer."""
    ids = tuple((token_id + index) % vocab_size for token_id in runner.canary_ids)
    table = tuple(range(index * num_blocks, (index + 1) * num_blocks))
    return Sequence(f"check-{index}", ids, 1, output_ids=[ids[0]], block_table=table)


def _logits(runner: ModelRunner, sequences: Iterable[Sequence], kind: str) -> Tensor:
    if kind == "tile":
        return runner.forward(Plan(tiles=tuple(Work(one, 0, one.num_prompt, True) for one in sequences)))
    return runner.forward(Plan(decodes=tuple(Work(one, one.num_prompt, 1, True) for one in sequences)))
