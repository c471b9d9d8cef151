"""Batches built by hand, as the runner builds them, to drive a decoder in tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from inference.decoders.batch import Batch, Segment
from inference.decoders.kv_tensors import KVCache
from inference.tile import TILE


@dataclass
class Sequence:
    """A sequence in a cache: its blocks, its adapter's slot, how many tokens it has, and from where on they are the
    adapter's."""

    blocks: tuple[int, ...]
    slot: int = -1
    length: int = 0
    active_from: int = 0


@dataclass(frozen=True)
class Chunk:
    """Tokens to append to `sequence` in one pass, in tiles or each as a decode row."""

    sequence: Sequence
    token_ids: list[int]
    is_prefill: bool = True


@dataclass
class Passes:
    """A decoder with a cache, which runs chunks of sequences in one pass each call."""

    decoder: Any
    num_blocks: int = 256
    block_size: int = 16
    dtype: torch.dtype | None = None
    _next_block: int = 0
    cache: KVCache = field(init=False)

    def __post_init__(self) -> None:
        dtype = self.dtype or self.decoder.weights.dtype
        self.cache = KVCache(self.decoder.architecture, self.num_blocks, self.block_size, dtype)

    def sequence(self, slot: int = -1, max_tokens: int = 128) -> Sequence:
        """A new sequence with blocks for `max_tokens`."""
        count = -(-max_tokens // self.block_size)
        first, self._next_block = self._next_block, self._next_block + count
        assert self._next_block <= self.num_blocks
        return Sequence(tuple(range(first + count - 1, first - 1, -1)), slot)

    def run(self, *chunks: Chunk) -> list[Tensor]:
        """One pass over all `chunks`; logits [tokens, vocab] of every row, by chunk."""
        batch, lengths = self.batch(*chunks)
        # What a decoder gives may lie in memory that its next pass uses.
        logits = self.decoder.forward(batch, self.cache).clone()
        return list(logits.split(lengths))

    def batch(self, *chunks: Chunk) -> tuple[Batch, list[int]]:
        """The batch of `chunks`, which counts their tokens as written."""
        tokens: list[int] = []
        positions: list[int] = []
        places: list[int] = []
        slots: list[int] = []
        decodes: list[Segment] = []
        tiles: list[Segment] = []
        for chunk in chunks:
            sequence = chunk.sequence
            start, first = len(tokens), sequence.length
            step = TILE if chunk.is_prefill else 1
            assert not chunk.is_prefill or first % TILE == 0
            for offset in range(0, len(chunk.token_ids), step):
                length = min(step, len(chunk.token_ids) - offset)
                segment = Segment(start + offset, length, sequence.blocks, first + offset + length)
                (tiles if chunk.is_prefill else decodes).append(segment)
            for position, token in enumerate(chunk.token_ids, first):
                tokens.append(token)
                positions.append(position)
                block = sequence.blocks[position // self.block_size]
                places.append(block * self.block_size + position % self.block_size)
                slots.append(sequence.slot if position >= sequence.active_from else -1)
            sequence.length += len(chunk.token_ids)
        batch = Batch(
            torch.tensor(tokens),
            torch.tensor(positions),
            torch.tensor(places),
            torch.tensor(slots),
            tuple(decodes),
            tuple(tiles),
            torch.arange(len(tokens)),
        )
        return batch, [len(chunk.token_ids) for chunk in chunks]


def answer(
    passes: Passes, prompts: list[list[int]], slots: list[int], num_tokens: int
) -> tuple[Tensor, list[list[int]]]:
    """Greedy answers to `prompts`, all in the same passes: logits [prompts, tokens, vocab] and the tokens."""
    sequences = [passes.sequence(slot) for slot in slots]
    rows = passes.run(*(Chunk(one, prompt) for one, prompt in zip(sequences, prompts, strict=True)))
    steps = [torch.stack([row[-1] for row in rows])]
    for _ in range(num_tokens - 1):
        tokens = steps[-1].argmax(-1).tolist()
        rows = passes.run(*(Chunk(one, [token], False) for one, token in zip(sequences, tokens, strict=True)))
        steps.append(torch.cat(rows))
    logits = torch.stack(steps, dim=1)
    return logits, logits.argmax(-1).tolist()
