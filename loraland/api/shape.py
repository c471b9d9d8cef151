"""What is between an answer and the dialect in which a program is told it: a dialect is a `Shape`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from inference.wire.protocol import Delta, Finished, Prompted, Stats, TokenLogprob
from loraland.api.errors import ApiError

Body = dict[str, Any]
DONE: Final = "data: [DONE]\n\n"


@dataclass(frozen=True)
class Head:
    """What every piece of one call's answer repeats; `created` is in seconds since 1970.

    `generation` is the id of its first choice. With `is_many` there is more than one.
    """

    generation: str
    model: str
    created: int
    digest: str
    components: Sequence[dict[str, Any]] = ()
    """The versions that were added up, with their digests and weights."""
    is_many: bool = False
    told: Mapping[str, Any] = field(default_factory=dict)
    """What else the answer says of its question, beside its own numbers."""


@dataclass(frozen=True)
class Answer:
    """One choice that has ended: its number in the call, and the number of its prompt among the call's.

    A stream, which has told the rest already, keeps of it how it ended.
    """

    index: int
    prompt: int
    generation: str
    finished: Finished
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    prompted: tuple[TokenLogprob, ...] = ()
    """The prompt's tokens, where they were asked for."""
    asked: int = 0
    """Its number among the choices that were asked for, of which the best may be told alone."""
    vector: tuple[float, ...] = ()
    """The mean of the prompt's hidden states, where that was asked for."""


@dataclass(frozen=True)
class Usage:
    """What a call cost in tokens. A prompt counts once, however many choices answer it."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


def usage_of(answers: Iterable[Answer]) -> Usage:
    """The sum over `answers`. Of a prompt's choices the least known one tells what was known of it before."""
    by_prompt: dict[int, list[Stats]] = {}
    for answer in answers:
        by_prompt.setdefault(answer.prompt, []).append(answer.finished.stats)
    return Usage(
        sum(max(stats.prompt_tokens for stats in choices) for choices in by_prompt.values()),
        sum(stats.completion_tokens for choices in by_prompt.values() for stats in choices),
        sum(min(stats.cached_tokens for stats in choices) for choices in by_prompt.values()),
    )


class Shape(Protocol):
    """How one kind of answer is written down. It serves one call, and may remember what it has told of each choice.

    Where a piece of a stream has nothing to say, it is an empty list.
    """

    done: str
    """What ends a stream, as it stands there."""
    names_events: bool
    """Whether each event of a stream is named by the `type` in its body."""

    def whole(self, head: Head, answers: Sequence[Answer], usage: Usage) -> Any:
        """All choices in their order as one body."""

    def opening(self, head: Head, index: int) -> list[Body]:
        """What comes before the first text of a choice."""

    def prompted(self, head: Head, index: int, prompted: Prompted) -> list[Body]:
        """What the model makes of a piece of a choice's prompt, told before the first of its answer."""

    def chunk(self, head: Head, index: int, delta: Delta, at: int) -> list[Body]:
        """A piece of a choice's text that begins at its character `at`."""

    def closing(self, head: Head, answer: Answer) -> list[Body]:
        """What tells why a choice's text ends."""

    def tally(self, head: Head, usage: Usage) -> list[Body]:
        """The end of a stream that was asked for its usage."""

    def failure(self, error: ApiError) -> Body:
        """What ends a stream that cannot go on."""
