"""What one pass computes: decode rows, and tiles of prompts."""

from __future__ import annotations

from dataclasses import dataclass

from inference.scheduling.sequence import Sequence
from inference.tile import TILE


@dataclass(frozen=True)
class Work:
    """Positions [start, start + length) of a sequence: one tile, or `length` decode rows.

    `is_sampled` says that the last of them decides the sequence's next token. `draft` are tokens that may come
    next, each computed as one more row that decides what follows it. `is_scored` says that each row tells how likely
    the token of the prompt behind it was.
    """

    sequence: Sequence
    start: int
    length: int
    is_sampled: bool
    draft: tuple[int, ...] = ()
    is_scored: bool = False

    @property
    def is_answered(self) -> bool:
        """Whether it brings its sequence the next token of an answer."""
        return self.is_sampled and not self.sequence.is_probe

    @property
    def num_logits(self) -> int:
        """Rows whose logits are wanted, the last ones of the work and of its draft."""
        return self.length if self.is_scored else (1 + len(self.draft)) * self.is_sampled


@dataclass(frozen=True)
class Plan:
    """One pass: decode rows and tiles, and the sequences that start or start again with it.

    `copies` are blocks of the cache, from and to, to be copied in order before it. `is_for_first_tokens` says that it
    is the short one of those who wait for the first token that their tenant gets.
    """

    decodes: tuple[Work, ...] = ()
    tiles: tuple[Work, ...] = ()
    admitted: tuple[Sequence, ...] = ()
    copies: tuple[tuple[int, int], ...] = ()
    is_for_first_tokens: bool = False

    @property
    def works(self) -> tuple[Work, ...]:
        """All the work, decode rows first."""
        return self.decodes + self.tiles


def read_tiles(sequence: Sequence, count: int) -> list[Work]:
    """The next `count` tiles of a prompt, or as many as are left."""
    starts = range(sequence.num_computed, sequence.num_prompt, TILE)[: max(0, count)]
    ends = [min(start + TILE, sequence.num_prompt) for start in starts]
    return [
        Work(sequence, start, end - start, end == sequence.num_tokens, is_scored=sequence.is_scored)
        for start, end in zip(starts, ends, strict=True)
    ]
