from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.scheduling.kv_cache import BlockPool


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


def test_a_cached_block_is_found_until_its_place_is_wanted() -> None:
    pool = BlockPool(3, 32)
    first, second = pool.allocate(2)
    pool.register(first, b"first")
    pool.register(second, b"second")
    pool.free((first, second))
    assert pool.num_free == 3
    assert pool.find([b"first", b"second", b"third"]) == (first, second)
    pool.allocate(2)
    assert pool.find([b"first", b"second"]) == (first,)
    pool.allocate(1)
    assert pool.find([b"first"]) == ()


def test_what_was_used_last_is_forgotten_last() -> None:
    pool = BlockPool(2, 32)
    old, young = pool.allocate(2)
    pool.register(old, b"old")
    pool.register(young, b"young")
    pool.free((old,))
    pool.free((young,))
    pool.share(pool.find([b"old"]))
    pool.free((old,))
    pool.allocate(1)
    assert (pool.find([b"old"]), pool.find([b"young"])) == ((old,), ())


def test_a_shared_block_is_free_when_the_last_of_its_users_has_gone() -> None:
    pool = BlockPool(2, 32)
    (block,) = pool.allocate(1)
    pool.register(block, b"it")
    pool.share((block,))
    pool.free((block,))
    assert pool.num_free == 1
    assert not pool.can_allocate(2)
    pool.free((block,))
    assert pool.num_free == 2
    with pytest.raises(AssertionError):
        pool.free((block,))


def test_blocks_that_are_to_be_shared_cannot_be_taken_as_well() -> None:
    pool = BlockPool(3, 32)
    (block,) = pool.allocate(1)
    pool.register(block, b"it")
    assert pool.can_allocate(2, shared=(block,))
    pool.free((block,))
    assert pool.can_allocate(2, shared=(block,))
    assert not pool.can_allocate(3, shared=(block,))


def test_one_hash_has_one_block_and_all_can_be_forgotten() -> None:
    pool = BlockPool(2, 32)
    first, second = pool.allocate(2)
    pool.register(first, b"it")
    pool.register(second, b"it")
    assert (pool.find([b"it"]), pool.num_cached) == ((first,), 1)
    pool.free((first, second))
    pool.forget()
    assert (pool.find([b"it"]), pool.num_cached) == ((), 0)
    assert sorted(pool.allocate(2)) == [0, 1]
