"""The embedding in memory as the native decoder reads it, of which only the rows are there that passes asked for."""

from __future__ import annotations

import mmap
from typing import Final

import torch
from torch import Tensor

from inference.model.checkpoint import Table

MOST_BYTES: Final = 64 * 1024**2
"""Rows that are kept for later passes: of a vocabulary, texts use few thousand words at a time."""


class TokenRows:
    """Room for all of `table`, filled as `fill` asks for tokens. Pages that nobody touched take no memory.

    Rows beyond `most_bytes` make it forget all and begin again, which the rows of one pass may exceed.
    """

    def __init__(self, table: Table, most_bytes: int = MOST_BYTES) -> None:
        vocab, hidden = table.shape
        self._table, row_bytes = table, hidden * table.dtype.itemsize
        self._most = max(1, most_bytes // max(row_bytes, mmap.PAGESIZE))
        self._memory = mmap.mmap(-1, vocab * row_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            self._memory.madvise(mmap.MADV_NOHUGEPAGE)  # a row would take two megabytes
        self.rows: Final = torch.frombuffer(self._memory, dtype=table.dtype).view(vocab, hidden)
        self._is_filled = torch.zeros(vocab, dtype=torch.bool)
        self._count = 0

    def fill(self, token_ids: Tensor) -> None:
        """See that the rows of `token_ids` int64 [n] are there."""
        missing = self._missing(token_ids)
        if self._count + len(missing) > self._most and self._count:
            self._forget()
            missing = self._missing(token_ids)
        if len(missing):
            self.rows[missing] = self._table[missing]
            self._is_filled[missing] = True
            self._count += len(missing)

    def _missing(self, token_ids: Tensor) -> Tensor:
        return token_ids[~self._is_filled[token_ids]].unique()

    def _forget(self) -> None:
        self._memory.madvise(mmap.MADV_DONTNEED)
        self._is_filled.zero_()
        self._count = 0
