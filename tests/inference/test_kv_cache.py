from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.kv_cache import BlockPool


def test_blocks_are_counted_by_the_tokens_they_hold() -> None:
    pool = BlockPool(4, 32)
    assert [pool.blocks_for(count) for count in (0, 1, 32, 33, 64, 65)] == [0, 1, 1, 2, 2, 3]


def test_no_more_blocks_are_given_than_there_are() -> None:
    pool = BlockPool(3, 32)
    pool.allocate(2)
    assert pool.can_allocate(1)
    assert not pool.can_allocate(2)
    with pytest.raises(AssertionError):
        pool.allocate(2)


def test_a_block_cannot_be_freed_twice() -> None:
    pool = BlockPool(3, 32)
    blocks = pool.allocate(2)
    pool.free(blocks)
    with pytest.raises(AssertionError):
        pool.free(blocks[:1])


def test_an_empty_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one block"):
        BlockPool(0, 32)


@given(st.lists(st.integers(0, 5), max_size=40))
def test_no_block_has_two_owners_and_none_is_lost(counts: list[int]) -> None:
    pool = BlockPool(12, 16)
    owned: list[tuple[int, ...]] = []
    for count in counts:
        if not pool.can_allocate(count):
            pool.free(owned.pop(0))
            continue
        owned.append(pool.allocate(count))
        held = [block for blocks in owned for block in blocks]
        assert len(set(held)) == len(held) == pool.num_blocks - pool.num_free
    for blocks in owned:
        pool.free(blocks)
    assert sorted(pool.allocate(12)) == list(range(12))
