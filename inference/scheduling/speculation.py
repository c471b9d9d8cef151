"""What sequences may say next, guessed from what they have read and said: prompt lookup, without a second model.

When the newest tokens stood somewhere before, what followed there is drafted as what follows now (Saxena 2023,
"Prompt Lookup Decoding"). Drafted tokens are computed as decode rows of the same pass, and kept as far as they are
what would have been chosen, so that a guess changes how long an answer takes and never its tokens. The keys of
those that are not kept are overwritten before anybody looks at them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence, Sized
from dataclasses import replace
from typing import Final

from inference.scheduling.kv_cache import BlockPool
from inference.scheduling.plan import Plan, Work

NGRAM_SIZES: Final = (3, 2, 1)
"""How many of the newest tokens are looked for: the more the better. A wrong guess costs a fiftieth of a pass."""
FIRST_DRAFT: Final = 4
LONGEST_DRAFT: Final = 15
"""With the newest token a panel of decode rows, of which each costs as much as all."""
FIRST_PAUSE: Final = 1
LONGEST_PAUSE: Final = 8
ROWS: Final = 24
"""Rows of a pass beyond which drafts cost more than they bring: a full batch does not guess."""


class PromptLookup:
    """The guesses for one sequence. It drafts more after each success, less after each failure, and then pauses."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._followers: dict[tuple[int, ...], int] = {}
        self._length = FIRST_DRAFT
        self._pause = FIRST_PAUSE
        self._paused = 0

    def draft(self, prompt_ids: Sequence[int], output_ids: Sequence[int], most: int) -> tuple[int, ...]:
        """Up to `most` tokens that may follow the prompt and the answer so far."""
        if self._paused:
            self._paused -= 1
            return ()
        self._read(prompt_ids, output_ids)
        ends = (self._followers.get(tuple(self._tokens[-size:]), 0) for size in NGRAM_SIZES)
        start = next((end for end in ends if end), 0)
        # Past the newest token a draft goes on with its own beginning, as a loop does.
        period = len(self._tokens) - start
        return tuple(self._tokens[start + n % period] for n in range(min(self._length, most))) if start else ()

    def settle(self, num_drafted: int, num_accepted: int) -> None:
        """Learn how many of the drafted tokens were right."""
        if num_accepted == num_drafted:
            self._length, self._pause = max(self._length, min(2 * num_drafted, LONGEST_DRAFT)), FIRST_PAUSE
        elif num_accepted:
            self._length, self._pause = num_accepted + 1, FIRST_PAUSE
        elif self._length > 1:
            self._length //= 2
        else:
            self._paused, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)

    def stop(self) -> None:
        """Draft nothing any more."""
        self._length = 0

    def _read(self, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> None:
        """Note what follows each n-gram, the last time counting, for all but the newest."""
        tokens = self._tokens
        first_new = len(tokens)
        if not tokens:
            tokens += prompt_ids
        tokens += output_ids[len(tokens) - len(prompt_ids) :]
        for end in range(max(1, first_new), len(tokens)):
            for size in NGRAM_SIZES:
                if end >= size:
                    self._followers[tuple(tokens[end - size : end])] = end


class Speculation:
    """The guesses for all sequences of an engine, within the rows and blocks that a pass has left."""

    def __init__(self, pool: BlockPool, is_on: bool = True) -> None:
        self.is_on = is_on
        self.num_drafted = 0
        self.num_accepted = 0
        self._pool = pool
        self._lookups: defaultdict[str, PromptLookup] = defaultdict(PromptLookup)

    def extend(self, plan: Plan) -> Plan:
        """`plan` with drafts behind the newest tokens, the rows that are left shared evenly among those who guess."""
        num_left = ROWS - sum(work.length for work in plan.decodes)
        if not self.is_on or num_left <= 0 or not plan.decodes:
            return plan
        works = []
        for place, work in enumerate(plan.decodes):
            draft = self._draft(work, -(-num_left // (len(plan.decodes) - place)))
            num_left -= len(draft)
            works.append(replace(work, draft=draft) if draft else work)
        return replace(plan, decodes=tuple(works))

    def settle(self, plan: Plan, chosen: Mapping[str, Sized]) -> None:
        """Count as computed the drafted tokens that were chosen: all new tokens of a sequence but the last."""
        for work in plan.decodes:
            if work.draft:
                num_accepted = len(chosen[work.sequence.id]) - 1
                work.sequence.num_computed += num_accepted
                self._lookups[work.sequence.id].settle(len(work.draft), num_accepted)
                self.num_drafted += len(work.draft)
                self.num_accepted += num_accepted

    def stop(self, id: str) -> None:
        """Draft nothing for a sequence any more."""
        self._lookups[id].stop()

    def forget(self, id: str) -> None:
        """Drop what is known of a sequence."""
        self._lookups.pop(id, None)

    def _draft(self, work: Work, most: int) -> tuple[int, ...]:
        """A draft that ends before the answer's last token, in blocks that nobody else will miss."""
        sequence = work.sequence
        most = min(most, sequence.max_tokens - len(sequence.output_ids) - 1)
        if not work.is_sampled or most <= 0:
            return ()
        draft = self._lookups[sequence.id].draft(sequence.prompt_ids, sequence.output_ids, most)
        missing = self._pool.blocks_for(sequence.num_tokens + len(draft)) - len(sequence.block_table)
        if missing > 0 and self._pool.can_allocate(missing + len(self._lookups)):
            sequence.block_table += self._pool.allocate(missing)
        return draft[: len(sequence.block_table) * self._pool.block_size - sequence.num_tokens]
