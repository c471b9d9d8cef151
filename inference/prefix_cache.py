"""Keys and values of prompts that begin alike are computed once: full blocks are found again by what they hold.

A block's name is a hash over the adapter's digest and all tokens up to the block's end, so that nothing is ever
shared between adapters, or between prompts that differ anywhere before. A block that is found holds the bits that
would have been computed. This asks for care, since a token's keys differ in their last bits between a row of a
prefill tile and a decode row:

- Tokens of a prompt are computed in tiles, so only blocks that lie wholly in a prompt get a name. The answer of one
  turn is a part of the prompt in the next one, and is computed again.
- Reading goes on at the start of a tile.

Where the decoder says that its rows are uniform, the same bits in a tile as alone, neither holds, and a beginning that
ends within a block is found too: the block that its tenant last computed after the blocks before it is copied, as far
as its tokens are the same. Another tenant's is not, for the count of known tokens would tell them one by one.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable
from math import lcm

from inference.kv_cache import BlockPool
from inference.sequence import Sequence


class PrefixCache:
    """Names the blocks of `pool` and finds them for new sequences. `tile` is the length of a prefill tile in tokens."""

    def __init__(self, pool: BlockPool, tile: int, *, is_on: bool = True, rows_are_uniform: bool = False) -> None:
        self.pool, self.is_on, self.rows_are_uniform = pool, is_on, rows_are_uniform
        self._stride = 1 if rows_are_uniform else lcm(pool.block_size, tile) // pool.block_size
        self._newest = OrderedDict[tuple[str, bytes], tuple[bytes, list[int]]]()
        self._copies: list[tuple[int, int]] = []

    def find(self, sequence: Sequence) -> tuple[int, ...]:
        """The blocks with which `sequence` may begin; its newest token is never among them, nor, unless
        rows are uniform, half a tile."""
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
        alike, count = self._alike(sequence, len(found))
        own = self.pool.allocate(self.pool.blocks_for(sequence.num_tokens) - len(found))
        sequence.block_table = found + own
        self._skip_to(sequence, len(found), count)
        if count:
            # The block may have been taken for another already: whoever writes to it does so after the copies, and a
            # block that is copied to has no name by which it could be copied from.
            self._copies.append((alike, own[0]))

    def take_copies(self) -> tuple[tuple[int, int], ...]:
        """Blocks to be copied, from and to, in this order and before the next pass writes anything."""
        copies, self._copies = tuple(self._copies), []
        return copies

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
            names = self._names(sequence, num_full)
            for index in range(sequence.num_kept, num_full):
                self.pool.name(sequence.block_table[index], names[index])
                if self.rows_are_uniform:
                    self._remember(sequence, index)
            sequence.num_kept = num_full

    def end(self, sequence: Sequence) -> None:
        """Take back the blocks of `sequence`; those with names stay findable."""
        self.keep(sequence)
        self.pool.free(sequence.block_table)
        sequence.block_table, sequence.num_kept = (), 0

    def _skip_to(self, sequence: Sequence, num_blocks: int, more: int = 0) -> None:
        """Count `num_blocks` blocks that were found as computed and as named, and `more` tokens as computed."""
        sequence.num_kept = num_blocks
        sequence.num_computed = num_blocks * self.pool.block_size + more
        sequence.num_cached = max(sequence.num_cached, min(sequence.num_computed, sequence.num_prompt))

    def _num_nameable(self, sequence: Sequence) -> int:
        """The first tokens of `sequence` whose keys any sequence with the same tokens would compute alike."""
        return sequence.num_tokens if self.rows_are_uniform else sequence.num_prompt

    def _alike(self, sequence: Sequence, num_found: int) -> tuple[int, int]:
        """A block that begins as that of `sequence` after the first `num_found` does, and with how many tokens."""
        if not self._newest:
            return -1, 0
        name, tokens = self._newest.get((sequence.tenant, self._before(sequence, num_found)), (b"", []))
        blocks = self.pool.find([name])
        if not blocks:
            return -1, 0
        own = self._tokens(sequence, num_found)[: sequence.num_tokens - 1 - num_found * self.pool.block_size]
        alike = [one == other for one, other in zip(own, tokens, strict=False)]
        return blocks[0], (*alike, False).index(False)

    def _remember(self, sequence: Sequence, index: int) -> None:
        """Note the block at `index` as the last computed after those before it; a pool has as many notes as blocks."""
        place = sequence.tenant, self._before(sequence, index)
        self._newest[place] = sequence.block_names[index], self._tokens(sequence, index)
        self._newest.move_to_end(place)
        if len(self._newest) > self.pool.num_blocks:
            self._newest.popitem(last=False)

    def _names(self, sequence: Sequence, count: int) -> list[bytes]:
        """The names of the first `count` blocks, each a hash that covers those before it."""
        names = sequence.block_names
        while len(names) < count:
            tokens = array("I", self._tokens(sequence, len(names)))
            names.append(hashlib.sha256(self._before(sequence, len(names)) + tokens.tobytes()).digest())
        return names[:count]

    def _before(self, sequence: Sequence, index: int) -> bytes:
        """The name of the block before the one at `index`, which was given; for the first the adapter's."""
        return sequence.block_names[index - 1] if index else hashlib.sha256(sequence.digest.encode()).digest()

    def _tokens(self, sequence: Sequence, index: int) -> list[int]:
        """The tokens of the block at `index`."""
        return sequence.tokens(index * self.pool.block_size, self.pool.block_size)
