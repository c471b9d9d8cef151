"""Keys and values of prompts that begin alike are computed once: full blocks are found again by what they hold.

A block's hash is taken over all tokens up to the block's end and, from the block in which the adapter becomes active
on, over its digest and that place. So what adapters compute is never shared between them, nor anything between prompts
that differ anywhere before. A plain adapter is active from the first token; what comes before an activated one is the
base's, whoever reads it. A block that is found holds the bits that would have been computed. This asks for care, since
a token's keys differ in their last bits between a row of a prefill tile and a decode row:

- Tokens of a prompt are computed in tiles, so only blocks that lie wholly in a prompt are cached. The answer of one
  turn is a part of the prompt in the next one, and is computed again.
- Reading goes on at the start of a tile.

Where the decoder says that its rows are uniform, the same bits in a tile as alone, neither holds, and a beginning that
ends within a block is found too: the block that its owner last computed after the blocks before it is copied, as far
as its tokens are the same. Another owner's is not, for the time it takes would tell its tokens one by one.

How many tokens of a prompt were known is told to its owner, so it must not tell of others: those count that prompts
of the same owner began with, as if it had been alone. Who has blocks of others to thank reads them all the same, which
a clock can see; with `is_shared` False the owner is a part of every hash, and nothing is found but one's own.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable
from math import lcm
from typing import Final

from inference.scheduling.kv_cache import BlockPool
from inference.scheduling.sequence import Sequence

NOTES_PER_BLOCK: Final = 4
"""How many owners at most are known, on the average, to have read a block."""


class PrefixCache:
    """Hashes the blocks of `pool` and finds them for new sequences. A prefill tile has `tile` tokens."""

    def __init__(
        self,
        pool: BlockPool,
        tile: int,
        *,
        is_on: bool = True,
        rows_are_uniform: bool = False,
        is_shared: bool = True,
    ) -> None:
        self.pool, self.is_on, self.rows_are_uniform, self.is_shared = pool, is_on, rows_are_uniform, is_shared
        self._stride = 1 if rows_are_uniform else lcm(pool.block_size, tile) // pool.block_size
        self._newest = OrderedDict[tuple[str, bytes], tuple[bytes, list[int]]]()
        self._copies: list[tuple[int, int]] = []
        self._notes = OrderedDict[tuple[str, int], int]()

    def find(self, sequence: Sequence) -> tuple[int, ...]:
        """The blocks with which `sequence` may begin; its newest token is never among them, nor, unless
        rows are uniform, half a tile. One of whose prompt each row is needed reads all of it."""
        if not self.is_on or sequence.needs_every_row:
            return ()
        longest = min(self._num_cacheable(sequence), sequence.num_tokens - 1) // self.pool.block_size
        found = self.pool.find(self._hashes(sequence, longest))
        return found[: len(found) // self._stride * self._stride]

    def can_allocate(self, sequence: Sequence, spare: int, returned: Iterable[tuple[int, ...]] = ()) -> bool:
        """Whether there are blocks for all tokens of `sequence`, and `spare` more, once `returned` are given back."""
        found = self.find(sequence)
        return self.pool.can_allocate(self.pool.blocks_for(sequence.num_tokens) - len(found) + spare, found, returned)

    def allocate(self, sequence: Sequence) -> None:
        """Give `sequence` blocks for all its tokens, and count as computed what is found. Ask `can_allocate` first."""
        found = self.find(sequence)
        self.pool.share(found)
        alike, count = self._alike(sequence, len(found))
        own = self.pool.allocate(self.pool.blocks_for(sequence.num_tokens) - len(found))
        sequence.block_table = found + own
        self._count_own(sequence, found)
        self._skip_to(sequence, len(found), count)
        if count:
            # The block may have been taken for another already: whoever writes to it does so after the copies, and a
            # block that is copied to has no hash by which it could be copied from.
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

    def filled(self, sequence: Sequence, start: int, length: int) -> list[bytes]:
        """The hashes under which others will find the blocks that tokens [start, start + length) of a prompt fill."""
        if not self.is_on:
            return []
        size = self.pool.block_size
        return self._hashes(sequence, (start + length) // size)[start // size :]

    def awaited(self, sequence: Sequence, start: int, length: int) -> list[bytes]:
        """Those of `filled` with which `sequence` could go on, once another has filled such blocks."""
        size = self.pool.block_size
        reach = min(start + length, sequence.num_tokens - 1) // size // self._stride * self._stride
        return [] if sequence.needs_every_row else self.filled(sequence, start, length)[: max(0, reach - start // size)]

    def register(self, sequence: Sequence) -> None:
        """Let the blocks that `sequence` has filled be found by others."""
        if not self.is_on:
            return
        num_tokens = min(sequence.num_computed, self._num_cacheable(sequence))
        num_full = num_tokens // self.pool.block_size
        if num_full > sequence.num_registered:
            hashes = self._hashes(sequence, num_full)
            for index in range(sequence.num_registered, num_full):
                self.pool.register(sequence.block_table[index], hashes[index])
                if self.rows_are_uniform:
                    self._remember(sequence, index)
            sequence.num_registered = num_full
        if not sequence.is_prefilling and sequence.num_noted < sequence.num_registered:
            self._note(sequence)

    def free(self, sequence: Sequence) -> None:
        """Take back the blocks of `sequence`; those that are cached stay findable."""
        self.register(sequence)
        self.pool.free(sequence.block_table)
        sequence.block_table, sequence.num_registered, sequence.num_noted = (), 0, 0

    def _skip_to(self, sequence: Sequence, num_blocks: int, more: int = 0) -> None:
        """Count `num_blocks` blocks that were found as computed and as registered, and `more` tokens as computed."""
        sequence.num_registered = num_blocks
        sequence.num_computed = num_blocks * self.pool.block_size + more

    def _note(self, sequence: Sequence) -> None:
        """Note that its tenant knows the blocks of `sequence`, whoever computed them.

        Only once its prompt is read to the end: where one that is given up got to depends on what others left here.
        """
        blocks = self.pool.find(self._hashes(sequence, sequence.num_registered))
        self._count_own(sequence, blocks, is_beside=True)
        for block in blocks:
            self._notes[sequence.owner, block] = self.pool.version(block)
            self._notes.move_to_end((sequence.owner, block))
        while len(self._notes) > NOTES_PER_BLOCK * self.pool.num_blocks:
            self._notes.popitem(last=False)
        sequence.num_noted, sequence.is_counted = sequence.num_registered, True

    def _is_own(self, sequence: Sequence, block: int) -> bool:
        """Whether the owner of `sequence` has read what the cached `block` holds since it was registered."""
        return self._notes.get((sequence.owner, block)) == self.pool.version(block)

    def _count_own(self, sequence: Sequence, found: Iterable[int], is_beside: bool = False) -> None:
        """Count the tokens of the prompt that its owner's prompts began with before: those that would have been found
        had nobody else been here. `is_beside` counts whole blocks again when the prompt has been read, for what others
        of the same owner read meanwhile. An answer that is computed anew after that keeps its count."""
        if sequence.is_counted:
            return
        size = self.pool.block_size
        own = [*(self._is_own(sequence, block) for block in found), False].index(False)
        own = min(own, (sequence.num_prompt - 1) // size) // self._stride * self._stride
        block, count = (-1, 0) if is_beside else self._alike(sequence, own)
        count = count if count and self._is_own(sequence, block) else 0
        sequence.num_cached_tokens = max(sequence.num_cached_tokens, min(own * size + count, sequence.num_prompt))

    def _num_cacheable(self, sequence: Sequence) -> int:
        """The first tokens of `sequence` whose keys any sequence with the same tokens would compute alike."""
        return sequence.num_tokens if self.rows_are_uniform else sequence.num_prompt

    def _alike(self, sequence: Sequence, num_found: int) -> tuple[int, int]:
        """A block that begins as that of `sequence` after the first `num_found` does, and with how many tokens."""
        if not self._newest or sequence.needs_every_row:
            return -1, 0
        block_hash, tokens = self._newest.get((sequence.owner, self._parent(sequence, num_found)), (b"", []))
        blocks = self.pool.find([block_hash])
        if not blocks:
            return -1, 0
        own = self._tokens(sequence, num_found)[: sequence.num_tokens - 1 - num_found * self.pool.block_size]
        alike = [one == other for one, other in zip(own, tokens, strict=False)]
        return blocks[0], (*alike, False).index(False)

    def _remember(self, sequence: Sequence, index: int) -> None:
        """Note the block at `index` as the last computed after those before it; a pool has as many notes as blocks."""
        place = sequence.owner, self._parent(sequence, index)
        self._newest[place] = sequence.block_hashes[index], self._tokens(sequence, index)
        self._newest.move_to_end(place)
        if len(self._newest) > self.pool.num_blocks:
            self._newest.popitem(last=False)

    def _hashes(self, sequence: Sequence, count: int) -> list[bytes]:
        """The hashes of the first `count` blocks, each of which covers those before it."""
        hashes = sequence.block_hashes
        while len(hashes) < count:
            tokens = array("I", self._tokens(sequence, len(hashes)))
            hashes.append(_digest(self._parent(sequence, len(hashes)) + tokens.tobytes()))
        return hashes[:count]

    def _parent(self, sequence: Sequence, index: int) -> bytes:
        """What the block at `index` goes on from: the hash of the one before it, which is known, for the first what all
        must share; and in the block where its adapter becomes active that adapter."""
        owner = b"" if self.is_shared else sequence.owner.encode()
        before = sequence.block_hashes[index - 1] if index else _digest(owner)
        if not sequence.digest or index != sequence.active_from // self.pool.block_size:
            return before
        return _digest(before + f"{sequence.digest} {sequence.active_from}".encode())

    def _tokens(self, sequence: Sequence, index: int) -> list[int]:
        """The tokens of the block at `index`."""
        return sequence.tokens(index * self.pool.block_size, self.pool.block_size)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
