"""Rows of the embedding and of the head that an adapter trained themselves, as pairs of a LoRA: a rank for each row.

One side of a pair is 1 at the row's token and 0 elsewhere, the other what the row was changed by. So the decoders,
which add a pair to a table of the base's, compute such a row to within its rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from inference.adapters.findings import Parts
from inference.adapters.tables import TrainedTables, table_of
from inference.model.architecture import EMBEDDING, HEAD, Architecture


class TooManyRows(ValueError):
    """More rows of the table `target` were trained than there are ranks; the text is a sentence."""

    def __init__(self, target: str, sentence: str) -> None:
        super().__init__(sentence)
        self.target = target


Weight = Callable[[str], Tensor]
"""The base's own table, float32 [vocab, hidden], rounded to the decoder's type."""
Pair = dict[str, Tensor]
"""A [rank, in] and B [out, rank], float32."""


def read_pairs(
    file: Path,
    rows: Parts,
    tables: Parts,
    trained: TrainedTables,
    architecture: Architecture,
    own: Weight,
    dtype: torch.dtype,
    max_rank: int,
) -> dict[str, Pair]:
    """The pairs of the trained `rows`, and of whole `tables` that were trained, by their target.

    The head of a base that has one table for both takes the embedding's rows, as in PEFT. Raises `TooManyRows`.
    """
    pairs: dict[str, Pair] = {}
    with safe_open(file, framework="pt") as content:
        for module, info in rows.items():
            target = table_of(module)
            ids = torch.tensor(trained.rows_of(target))
            change = _rounded(content.get_tensor(info.name), dtype) - own(target)[ids]
            pairs[target] = _pair(target, ids, change, architecture.vocab_size)
            if target == EMBEDDING and architecture.tied_embeddings and HEAD not in map(table_of, rows):
                pairs[HEAD] = _pair(HEAD, ids, change, architecture.vocab_size)
        for module, info in tables.items():
            target = table_of(module)
            if target in trained.whole:
                table = _rounded(content.get_tensor(info.name), dtype)
                change = table - own(target)[: len(table)]
                ids = change.any(dim=1).nonzero().flatten()
                _check_count(module, len(ids), max_rank)
                pairs |= {target: _pair(target, ids, change[ids], architecture.vocab_size)} if len(ids) else {}
    return pairs


def _pair(target: str, ids: Tensor, change: Tensor, vocab_size: int) -> Pair:
    """The pair that adds `change` [rows, hidden] to the rows `ids` of a table."""
    places = torch.zeros(len(ids), vocab_size)
    places[torch.arange(len(ids)), ids] = 1
    return {"A": places, "B": change.t()} if target == EMBEDDING else {"A": change, "B": places.t()}


def _rounded(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype).to(torch.float32)


def _check_count(module: str, count: int, max_rank: int) -> None:
    if count > max_rank:
        raise TooManyRows(
            table_of(module),
            f"{count} rows of the table of {module} were trained; up to {max_rank} (MAX_RANK) are served, each as a "
            "rank of its own. Train a LoRA on it, or the rows of new tokens alone (trainable_token_indices)",
        )
