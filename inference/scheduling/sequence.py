"""One request as the scheduler sees it: tokens, how many of them are in the cache, and where.

It knows neither text nor tensors. A sequence that was preempted, and one taken over from another worker,
are the same thing here: output tokens that are known but not computed yet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from inference.wire.protocol import QueueClass


class State(Enum):
    """Where a sequence is. Once it has been added only the scheduler moves it."""

    LOADING = "loading"
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(eq=False)
class Sequence:
    """The tokens of one request: those of the prompt, then those generated so far.

    `num_computed` counts the tokens whose keys and values lie in the blocks of `block_table`. `digest` is
    empty for the base, and `slot` is -1 while no device slot is held. Positions before `active_from` are the base's,
    those from there on the adapter's. `arrival` orders sequences by age.
    `tenant` is who has turns, `owner` who asked: the tenant itself unless several share its turns. Those of one
    `group` and owner have the same prompt. `is_scored` until it is known how likely each token of the prompt was,
    beside `num_alternatives` others; of one that `is_pooled` the mean of the prompt's hidden states is wanted.
    `num_cached_tokens` of the prompt were known from others of its owner, which is final once `is_counted`. The
    prefix cache notes in `block_hashes`, `num_registered` and `num_noted` what the first blocks hold, how many of
    them others can find, and how many the owner is known to have read.
    The counts from `num_passed` on belong to those who decide whose turn it is: how many rode past it to a slot,
    how often it was displaced, of how many generated tokens its tenant has been charged (None: not even of the
    prompt), and how often slots had changed hands when it came.
    """

    id: str
    prompt_ids: tuple[int, ...]
    max_tokens: int
    digest: str = ""
    active_from: int = 0
    output_ids: list[int] = field(default_factory=list)
    is_probe: bool = False
    is_scored: bool = False
    num_alternatives: int = 0
    is_pooled: bool = False
    tenant: str = ""
    owner: str = ""
    group: str = ""
    queue_class: QueueClass = "chat"
    state: State = State.WAITING
    arrival: int = -1
    num_computed: int = 0
    block_table: tuple[int, ...] = ()
    slot: int = -1
    num_passed: int = 0
    num_cached_tokens: int = 0
    num_registered: int = 0
    num_noted: int = 0
    is_counted: bool = False
    block_hashes: list[bytes] = field(default_factory=list)
    num_displaced: int = 0
    num_charged: int | None = None
    first_turn: int = 0

    def __post_init__(self) -> None:
        self.owner = self.owner or self.tenant

    @property
    def is_chat(self) -> bool:
        """Whether somebody waits for it at a page."""
        return self.queue_class == "chat"

    @property
    def is_ready(self) -> bool:
        """Whether it could start."""
        return self.state is State.WAITING

    @property
    def needs_every_row(self) -> bool:
        """Whether something is told of each token of the prompt, so that all of it must be read."""
        return self.is_scored or self.is_pooled

    @property
    def num_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.prompt_ids)

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompt and of the answer so far."""
        return len(self.prompt_ids) + len(self.output_ids)

    @property
    def is_prefilling(self) -> bool:
        """Whether some of the prompt is not in the cache yet."""
        return self.num_computed < len(self.prompt_ids)

    def tokens(self, start: int, length: int) -> list[int]:
        """The token ids at positions [start, start + length)."""
        end, split = start + length, self.num_prompt
        if start >= split:
            return self.output_ids[start - split : end - split]
        return [*self.prompt_ids[start:end], *self.output_ids[: max(0, end - split)]]

    def check(self) -> None:
        """Assert what holds for a live sequence between two steps."""
        assert self.num_prompt > 0, "a sequence starts with at least one token"
        assert 0 <= self.num_computed < self.num_tokens, "the newest token is never in the cache"
        assert len(self.output_ids) <= self.max_tokens, "no more tokens than were asked for"
        if self.state is not State.RUNNING:
            assert not self.block_table, "only runners hold blocks"
            assert self.slot == -1, "only runners hold a slot"
            assert self.num_computed == 0, "what is computed lies in blocks"
