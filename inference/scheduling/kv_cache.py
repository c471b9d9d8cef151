"""Who uses which block of the key-value cache. Counts and lists only: the tensors live with the layers.

A block may have a name that says what it holds (see `inference.scheduling.prefix_cache`). A named block is found again
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
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._num_users = [0] * num_blocks
        self._names: dict[int, bytes] = {}
        self._named: dict[bytes, int] = {}
        self._namings = [0] * num_blocks
        self._num_namings = 0

    @property
    def num_free(self) -> int:
        """Blocks that nobody uses, those that are kept for their names included."""
        return len(self._empty) + len(self._idle)

    @property
    def num_named(self) -> int:
        """Blocks that can be found by name."""
        return len(self._named)

    def blocks_for(self, num_tokens: int) -> int:
        """How many blocks hold `num_tokens` tokens."""
        return -(-num_tokens // self.block_size)

    def can_allocate(self, count: int, shared: tuple[int, ...] = (), returned: Iterable[tuple[int, ...]] = ()) -> bool:
        """Whether `count` blocks are free beside those of `shared`, or would be once `returned` were given back."""
        given = Counter(block for blocks in returned for block in blocks)
        num_free = self.num_free + sum(self._num_users[block] == users for block, users in given.items())
        return count + sum(self._num_users[block] == given[block] for block in shared) <= num_free

    def allocate(self, count: int) -> tuple[int, ...]:
        """Take `count` blocks. Ask `can_allocate` first: to ask for more than are free is a defect."""
        assert self.can_allocate(count), f"{count} blocks wanted, {self.num_free} free"
        blocks = tuple(self._empty.pop() if self._empty else self._evict() for _ in range(count))
        for block in blocks:
            self._num_users[block] = 1
        return blocks

    def free(self, blocks: tuple[int, ...]) -> None:
        """Give `blocks` back, once for each `allocate` or `share`; of a sequence the last block is forgotten first."""
        for block in reversed(blocks):
            assert self._num_users[block] > 0, f"block {block} freed twice"
            self._num_users[block] -= 1
            if not self._num_users[block]:
                self._put_aside(block)

    def find(self, names: Iterable[bytes]) -> tuple[int, ...]:
        """The blocks of the first of `names`, as far as every one of them is found."""
        blocks: list[int] = []
        for name in names:
            if name not in self._named:
                break
            blocks.append(self._named[name])
        return tuple(blocks)

    def share(self, blocks: tuple[int, ...]) -> None:
        """Use `blocks` that were found. What they hold must not be written any more."""
        for block in blocks:
            self._idle.pop(block, None)
            self._num_users[block] += 1

    def name(self, block: int, name: bytes) -> None:
        """Let `block`, which is in use, be found as `name`, unless another one is."""
        assert self._num_users[block], f"block {block} holds nothing"
        if name not in self._named and block not in self._names:
            self._named[name], self._names[block] = block, name
            self._num_namings += 1
            self._namings[block] = self._num_namings

    def naming(self, block: int) -> int:
        """When the named `block` got its name, counted in namings: another number whenever it has been evicted."""
        return self._namings[block]

    def forget(self) -> None:
        """Take all names away; blocks in use stay with their users."""
        self._named.clear()
        self._names.clear()
        self._empty += self._idle
        self._idle.clear()

    def _put_aside(self, block: int) -> None:
        if block in self._names:
            self._idle[block] = None
        else:
            self._empty.append(block)

    def _evict(self) -> int:
        block, _ = self._idle.popitem(last=False)
        del self._named[self._names.pop(block)]
        return block
