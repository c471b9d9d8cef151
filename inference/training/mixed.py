"""Batches of several adapters laid end to end, for one pass over the base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from inference.training.examples import IGNORED, Batch


@dataclass(frozen=True)
class Rectangle:
    """The examples of one adapter, padded to one length: `rows` among all rows of the pass. `invoked_at` is where it
    begins to act in each example, empty where it does from the start in all. Of a blend `parts` are those that answer
    each example, or all where none are named."""

    rows: slice
    examples: int
    length: int
    invoked_at: tuple[int, ...] = ()
    parts: tuple[tuple[int, ...], ...] = ()

    @property
    def num_rows(self) -> int:
        return self.examples * self.length

    def acting(self, like: Tensor) -> Tensor | None:
        """1 for each row in which the adapter acts and 0 before, [rows, 1] of the kind of `like`; None where it acts
        in all."""
        if not self.invoked_at:
            return None
        places = torch.arange(self.length, device=like.device)
        begins = torch.tensor(self.invoked_at, device=like.device)
        return (places >= begins[:, None]).reshape(-1, 1).to(like.dtype)


@dataclass(frozen=True)
class MixedBatch:
    """All examples of a pass. `token_ids`, `positions` and `next_ids` are int64 [rows]; `next_ids` is IGNORED where
    the loss does not look."""

    token_ids: Tensor
    positions: Tensor
    next_ids: Tensor
    rectangles: tuple[Rectangle, ...]

    @cached_property
    def answers(self) -> Tensor:
        """The rows from which a token of an answer is foretold, int64 [answers]."""
        return torch.nonzero(self.next_ids != IGNORED).squeeze(1)

    @cached_property
    def owners(self) -> Tensor:
        """The number of the adapter that each of `answers` belongs to, int64 [answers]."""
        ends = torch.tensor([rectangle.rows.stop for rectangle in self.rectangles], device=self.answers.device)
        return torch.bucketize(self.answers, ends, right=True)

    def to(self, device: torch.device) -> MixedBatch:
        """The same batch on `device`."""
        rows = (self.token_ids.to(device), self.positions.to(device), self.next_ids.to(device))
        return MixedBatch(*rows, self.rectangles)


def lay_end_to_end(batches: Sequence[Batch]) -> MixedBatch:
    """One batch of all `batches`, the first adapter's first."""
    rectangles, start = [], 0
    for batch in batches:
        examples, length = batch.token_ids.shape
        rows = slice(start, start + examples * length)
        rectangles.append(Rectangle(rows, examples, length, batch.invoked_at, batch.parts))
        start = rectangles[-1].rows.stop
    return MixedBatch(
        token_ids=torch.cat([batch.token_ids.flatten() for batch in batches]),
        positions=torch.cat([torch.arange(rectangle.length).repeat(rectangle.examples) for rectangle in rectangles]),
        next_ids=torch.cat([functional.pad(batch.labels[:, 1:], (0, 1), value=IGNORED).flatten() for batch in batches]),
        rectangles=tuple(rectangles),
    )
