"""Who owns which block of the key-value cache. Counts and lists only: the tensors live with the layers."""

from __future__ import annotations


class BlockPool:
    """A fixed number of blocks of `block_size` tokens each, handed out and taken back."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError(f"a pool needs at least one block of one token, not {num_blocks} of {block_size}")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free = list(range(num_blocks - 1, -1, -1))
        self._is_free = [True] * num_blocks

    @property
    def num_free(self) -> int:
        """Blocks that nobody owns."""
        return len(self._free)

    def blocks_for(self, num_tokens: int) -> int:
        """How many blocks hold `num_tokens` tokens."""
        return -(-num_tokens // self.block_size)

    def can_allocate(self, count: int) -> bool:
        """Whether `count` blocks are free."""
        return count <= len(self._free)

    def allocate(self, count: int) -> tuple[int, ...]:
        """Take `count` blocks. Ask `can_allocate` first: to ask for more than are free is a defect."""
        assert self.can_allocate(count), f"{count} blocks wanted, {self.num_free} free"
        blocks = tuple(self._free.pop() for _ in range(count))
        for block in blocks:
            self._is_free[block] = False
        return blocks

    def free(self, blocks: tuple[int, ...]) -> None:
        """Give `blocks` back."""
        for block in blocks:
            assert not self._is_free[block], f"block {block} freed twice"
            self._is_free[block] = True
            self._free.append(block)
