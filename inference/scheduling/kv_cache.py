"""Who uses which block of the key-value cache. Counts and lists only: the tensors live with the decoders.

A block may have a hash that says what it holds (see `inference.scheduling.prefix_cache`). Such a cached block is found
while others use it, and also when nobody does, until its place is wanted: least recently used first.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable


class BlockPool:
    """A fixed number of blocks of `block_size` tokens each, handed out, shared and taken back."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError(f"a pool needs at least one block of one token, not {num_blocks} of {block_size}")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._empty = list(range(num_blocks - 1, -1, -1))
        self._evictable: OrderedDict[int, None] = OrderedDict()
        self._ref_counts = [0] * num_blocks
        self._hashes: dict[int, bytes] = {}
        self._cached: dict[bytes, int] = {}
        self._versions = [0] * num_blocks
        self._newest_version = 0

    @property
    def num_free(self) -> int:
        """Blocks that nobody uses, cached ones included."""
        return len(self._empty) + len(self._evictable)

    @property
    def num_cached(self) -> int:
        """Blocks that can be found by their hashes."""
        return len(self._cached)

    def blocks_for(self, num_tokens: int) -> int:
        """How many blocks hold `num_tokens` tokens."""
        return -(-num_tokens // self.block_size)

    def can_allocate(self, count: int, shared: tuple[int, ...] = (), returned: Iterable[tuple[int, ...]] = ()) -> bool:
        """Whether `count` blocks are free beside those of `shared`, or would be once `returned` were given back."""
        given = Counter(block for blocks in returned for block in blocks)
        num_free = self.num_free + sum(self._ref_counts[block] == refs for block, refs in given.items())
        return count + sum(self._ref_counts[block] == given[block] for block in shared) <= num_free

    def allocate(self, count: int) -> tuple[int, ...]:
        """Take `count` blocks. Ask `can_allocate` first: to ask for more than are free is a defect."""
        assert self.can_allocate(count), f"{count} blocks wanted, {self.num_free} free"
        blocks = tuple(self._empty.pop() if self._empty else self._evict() for _ in range(count))
        for block in blocks:
            self._ref_counts[block] = 1
        return blocks

    def free(self, blocks: tuple[int, ...]) -> None:
        """Give `blocks` back, once for each `allocate` or `share`; of a sequence the last block is evicted first."""
        for block in reversed(blocks):
            assert self._ref_counts[block] > 0, f"block {block} freed twice"
            self._ref_counts[block] -= 1
            if not self._ref_counts[block] and block in self._hashes:
                self._evictable[block] = None
            elif not self._ref_counts[block]:
                self._empty.append(block)

    def find(self, hashes: Iterable[bytes]) -> tuple[int, ...]:
        """The blocks of the first of `hashes`, as far as every one of them is cached."""
        blocks: list[int] = []
        for block_hash in hashes:
            if block_hash not in self._cached:
                break
            blocks.append(self._cached[block_hash])
        return tuple(blocks)

    def share(self, blocks: tuple[int, ...]) -> None:
        """Use `blocks` that were found. What they hold must not be written any more."""
        for block in blocks:
            self._evictable.pop(block, None)
            self._ref_counts[block] += 1

    def register(self, block: int, block_hash: bytes) -> None:
        """Let `block`, which is in use, be found by `block_hash`, unless another one is."""
        assert self._ref_counts[block], f"block {block} holds nothing"
        if block_hash not in self._cached and block not in self._hashes:
            self._cached[block_hash], self._hashes[block] = block, block_hash
            self._newest_version += 1
            self._versions[block] = self._newest_version

    def version(self, block: int) -> int:
        """Which registration gave the cached `block` its content: another number whenever it has been evicted."""
        return self._versions[block]

    def forget(self) -> None:
        """Let no block be found any more; those in use stay with their users."""
        self._cached.clear()
        self._hashes.clear()
        self._empty += self._evictable
        self._evictable.clear()

    def _evict(self) -> int:
        block, _ = self._evictable.popitem(last=False)
        del self._cached[self._hashes.pop(block)]
        return block
