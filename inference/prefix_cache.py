"""Keys and values of prompts that begin alike are computed once: full blocks are found again by what they hold.

A block's name is a hash over the adapter's digest and all tokens up to the block's end, so that nothing is ever
shared between adapters, or between prompts that differ anywhere before. A block that is found holds the bits that
would have been computed. This asks for care, since a token's keys differ in their last bits between a row of a
prefill tile and a decode row:

- Tokens of a prompt are computed in tiles, so only blocks that lie wholly in a prompt get a name. The answer of one
  turn is a part of the prompt in the next one, and is computed again, unless the decoder says that
  its rows are uniform: the same bits in a tile as alone.
- Reading goes on at the start of a tile.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from math import lcm

from inference.kv_cache import BlockPool
from inference.sequence import Sequence


class PrefixCache:
    """Names the blocks of `pool` and finds them for new sequences. `tile` is the length of a prefill tile in tokens."""

    def __init__(self, pool: BlockPool, tile: int, *, is_on: bool = True, rows_are_uniform: bool = False) -> None:
        self.pool, self.is_on, self.rows_are_uniform = pool, is_on, rows_are_uniform
        self._stride = lcm(pool.block_size, tile) // pool.block_size

    def find(self, sequence: Sequence) -> tuple[int, ...]:
        """The blocks with which `sequence` may begin; its newest token is never among them, nor half a tile."""
        if not self.is_on:
            return ()
        longest = min(self._num_nameable(sequence), sequence.num_tokens - 1) // self.pool.block_size
        found = self.pool.find(self._names(sequence, longest))
        return found[: len(found) // self._stride * self._stride]

    def fits(self, sequence: Sequence, spare: int, returned: Iterable[tuple[int, ...]] = ()) -> bool:
        """Whether there are blocks for all tokens of `sequence`, and `spare` more, once `returned` are given back."""
        found = self.find(sequence)
        return self.pool.can_allocate(self.pool.blocks_for(sequence.num_tokens) - len(found) + spare, found, returned)

    def begin(self, sequence: Sequence) -> None:
        """Give `sequence` blocks for all its tokens, and count as computed what is found. Ask `fits` first."""
        found = self.find(sequence)
        self.pool.share(found)
        own = self.pool.allocate(self.pool.blocks_for(sequence.num_tokens) - len(found))
        sequence.block_table = found + own
        self._skip_to(sequence, len(found))

    def catch_up(self, sequence: Sequence) -> None:
        """Skip what others, who run beside `sequence` and began with the same tokens, have computed meanwhile."""
        found, table = self.find(sequence), sequence.block_table
        start = sequence.num_computed // self.pool.block_size
        if len(found) > start:
            self.pool.share(found[start:])
            self.pool.free(table[start : len(found)])
            sequence.block_table = table[:start] + found[start:] + table[len(found) :]
            self._skip_to(sequence, len(found))

    def keep(self, sequence: Sequence) -> None:
        """Let the blocks that `sequence` has filled be found by others."""
        if not self.is_on:
            return
        num_tokens = min(sequence.num_computed, self._num_nameable(sequence))
        num_full = num_tokens // self.pool.block_size
        if num_full > sequence.num_kept:
            named = slice(sequence.num_kept, num_full)
            for block, name in zip(sequence.block_table[named], self._names(sequence, num_full)[named], strict=True):
                self.pool.name(block, name)
            sequence.num_kept = num_full

    def end(self, sequence: Sequence) -> None:
        """Take back the blocks of `sequence`; those with names stay findable."""
        self.keep(sequence)
        self.pool.free(sequence.block_table)
        sequence.block_table, sequence.num_kept = (), 0

    def _skip_to(self, sequence: Sequence, num_blocks: int) -> None:
        """Count `num_blocks` blocks that were found as computed, and as named."""
        sequence.num_kept = num_blocks
        sequence.num_computed = num_blocks * self.pool.block_size
        sequence.num_cached = max(sequence.num_cached, min(sequence.num_computed, sequence.num_prompt))

    def _num_nameable(self, sequence: Sequence) -> int:
        """The first tokens of `sequence` whose keys any sequence with the same tokens would compute alike."""
        return sequence.num_tokens if self.rows_are_uniform else sequence.num_prompt

    def _names(self, sequence: Sequence, count: int) -> list[bytes]:
        """The names of the first `count` blocks, each a hash that covers those before it."""
        names, size = sequence.block_names, self.pool.block_size
        while len(names) < count:
            before = names[-1] if names else hashlib.sha256(sequence.digest.encode()).digest()
            tokens = array("I", sequence.tokens(len(names) * size, size))
            names.append(hashlib.sha256(before + tokens.tobytes()).digest())
        return names[:count]
