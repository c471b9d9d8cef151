"""Rows of an embedding that are there once somebody asked for them."""

from __future__ import annotations

import torch

from inference.decoders.native.token_rows import TokenRows


class Counted:
    """A table [vocab, hidden] that counts the rows that were read."""

    def __init__(self, vocab: int = 100, hidden: int = 64) -> None:
        self.tensor = torch.randn((vocab, hidden), generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
        self.shape, self.dtype, self.device = self.tensor.shape, self.tensor.dtype, self.tensor.device
        self.read = 0

    def __getitem__(self, token_ids: torch.Tensor) -> torch.Tensor:
        self.read += len(token_ids)
        return self.tensor[token_ids]


def ids(*token_ids: int) -> torch.Tensor:
    return torch.tensor(token_ids, dtype=torch.int64)


def test_rows_are_the_tables_and_read_once() -> None:
    rows = TokenRows(table := Counted())
    rows.fill(ids(3, 99, 3))
    rows.fill(ids(99, 4))
    assert table.read == 3
    assert torch.equal(rows.rows[ids(3, 99, 4)], table.tensor[ids(3, 99, 4)])
    assert not rows.rows[ids(0, 1, 5)].any()


def test_beyond_the_bound_all_are_forgotten_and_those_of_the_pass_are_there() -> None:
    rows = TokenRows(table := Counted(), most_bytes=4 * 4096)
    rows.fill(ids(0, 1, 2))
    rows.fill(ids(2, 3, 4))
    assert torch.equal(rows.rows[ids(2, 3, 4)], table.tensor[ids(2, 3, 4)])
    assert not rows.rows[0].any()
    assert table.read == 6


def test_a_pass_may_have_more_tokens_than_the_bound() -> None:
    rows = TokenRows(table := Counted(), most_bytes=4096)
    rows.fill(torch.arange(100))
    assert torch.equal(rows.rows, table.tensor)
