"""The reader's side of one request: tokens become deltas, deltas come to an end, and the end tells what it cost.

It knows nothing of the batch. Whether an answer is whole, and its text, are functions of its tokens alone, so
that a worker that takes it over arrives where the first one left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import torch
from torch import Tensor

from inference.engine.defaults import filled
from inference.engine.sampler import RowSampling, SampledToken, derived_seed
from inference.model.tokenizer import Detokenizer, Tokenizer
from inference.scheduling.sequence import Sequence
from inference.structured.guide import Guide
from inference.wire.contract import Resume
from inference.wire.failures import FailureCode
from inference.wire.protocol import (
    Alternative,
    Component,
    Constraint,
    Delta,
    Embedded,
    Failed,
    Finished,
    GateRef,
    Generate,
    Probe,
    Prompted,
    Reason,
    Request,
    Stats,
    TokenLogprob,
    TokenWeights,
)

PROMPT_PIECE: Final = 256
"""Tokens of a prompt that are told at once."""
WEIGHT_DIGITS: Final = 4
"""Of the weights of a blend's parts so many are told behind the point."""
Clock = Callable[[], float]
"""Seconds since the epoch."""


class StopStrings:
    """Finds the first of some strings in text that comes in pieces, and holds back what might begin one."""

    def __init__(self, strings: tuple[str, ...]) -> None:
        self._strings = strings
        self._held = ""
        self.is_found = False

    def push(self, text: str) -> str:
        """The text that may be shown once `text` has come; with a stop string in it, what lies before."""
        if not self._strings:
            return text
        text = self._held + text
        places = [place for place in map(text.find, self._strings) if place >= 0]
        if places:
            self.is_found, self._held = True, ""
            return text[: min(places)]
        keep = max((_overlap(text, string) for string in self._strings), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What is still held back, for an answer that ends without a stop string."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, string: str) -> int:
    """The length of the longest end of `text` with which `string` begins."""
    longest = min(len(text), len(string) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(string[:n])), 0)


@dataclass
class Times:
    """Seconds since the epoch; 0 is not yet. `created` is when the site took the request."""

    created: float
    admitted: float = 0.0
    first_token: float = 0.0
    loading: float = 0.0
    """Seconds, not a point in time: how long the adapter took to load."""


@dataclass
class Answer:
    """One request from its first token to its end. `sequence` holds the tokens."""

    request: Request
    fingerprint: str
    sequence: Sequence
    tokenizer: Tokenizer
    resume: Resume | None = None
    dropped_turns: int = 0
    invoked_at: int | None = None
    clock: Clock = time.time
    reason: Reason | None = None
    logit_delta: float | None = None
    guide: Guide | None = None
    times: Times = field(init=False)
    seed: int | None = field(init=False)

    def __post_init__(self) -> None:
        self.times = Times(self.request.created or self.clock())
        self.seed = seed_of(self.request)
        has_tools = isinstance(self.request, Generate) and bool(self.request.tools)
        self._detokenizer = Detokenizer(self.tokenizer, shows_calls=has_tools)
        self._num_decoded = 0
        self._stops = StopStrings(self._end_strings())
        self._scores: dict[int, SampledToken] = {}
        self._sums: dict[int, Tensor] = {}
        self._num_prompted = self.resume.num_prompted if self.resume else 0
        self._num_seen = self.resume.num_chars if self.resume else 0
        self._unsent = ""
        for token_id in self.resume.token_ids if self.resume else ():
            if not self.reason:
                self._unsent += self._take(token_id)

    def _end_strings(self) -> tuple[str, ...]:
        """The strings that end the answer: the caller's, and the base's as its tokens do."""
        if isinstance(self.request, Probe):
            return ()
        sampling = self.request.sampling
        return tuple(sampling.stop) + (() if sampling.ignore_eos else self.tokenizer.end_strings)

    @property
    def id(self) -> str:
        return self.request.id

    @property
    def digest(self) -> str:
        return self.request.adapter.digest if self.request.adapter else ""

    @property
    def has_begun(self) -> bool:
        """Whether a pass has read of it, here or where it was taken over from."""
        return bool(self.times.admitted or self.sequence.output_ids)

    @property
    def constraint(self) -> Constraint | None:
        """What the answer must look like, if that was asked for."""
        return self.request.sampling.constraint if isinstance(self.request, Generate) else None

    @property
    def components(self) -> tuple[Component, ...]:
        """The adapters that answer together, if it is not one alone."""
        return self.request.adapter.components if self.request.adapter else ()

    @property
    def gate(self) -> GateRef | None:
        """What weighs them, if they are not added up."""
        return self.request.adapter.gate if self.request.adapter else None

    def samplings(self, draft: tuple[int, ...] = ()) -> list[RowSampling]:
        """How the next token is sampled, and those that follow the tokens of `draft`."""
        assert isinstance(self.request, Generate)
        assert self.seed is not None
        sampling, sequence = self.request.sampling, self.sequence
        num_early = sampling.min_tokens - len(sequence.output_ids)
        barred = tuple(sorted(self.tokenizer.eos_ids)) if num_early > 0 else ()
        masks = self.guide.masks(draft) if self.guide else [None] * (len(draft) + 1)
        return [
            RowSampling(
                sampling,
                self.seed,
                sequence.prompt_ids,
                sequence.output_ids,
                barred if ahead < num_early else (),
                draft[:ahead],
                masks[ahead],
            )
            for ahead in range(len(draft) + 1)
        ]

    def follow(self, guide: Guide) -> None:
        """Keep to `guide` from here on, and say so where what there is of the answer is all of it."""
        self.guide = guide
        guide.advance(self.sequence.output_ids)
        if guide.is_complete:
            self.reason = self.reason or "done"

    def score(self, scores: Mapping[int, SampledToken]) -> bool:
        """Keep how likely tokens of the prompt were, by their positions; False when the numbers are not finite."""
        self._scores.update(scores)
        return all(token.is_finite for token in scores.values())

    def prompted(self) -> list[Prompted]:
        """What is to be told of the prompt now that it has been read, in pieces; nothing but once."""
        sequence = self.sequence
        if not sequence.is_scored:
            return []
        sequence.is_scored = False
        tokens = [self._scores.get(place, SampledToken(id)) for place, id in enumerate(sequence.prompt_ids)]
        told = [spell_token(self.tokenizer, token) for token in tokens[self._num_prompted :]]
        self._scores = {}
        pieces = range(0, len(told), PROMPT_PIECE)
        return [Prompted(self.id, tuple(told[start : start + PROMPT_PIECE])) for start in pieces]

    def pool(self, sums: Mapping[int, Tensor]) -> None:
        """Keep the sums of the hidden states of tiles, by the positions at which these start."""
        self._sums.update(sums)

    def embedded(self) -> Embedded:
        """The mean over the prompt, which has been read. Tiles are added in their order: its bits are its own."""
        tiles = [self._sums[start] for start in sorted(self._sums)]
        mean = torch.stack(tiles).sum(0) / self.sequence.num_prompt
        return Embedded(self.id, tuple(mean.tolist()))

    def push(self, tokens: tuple[SampledToken, ...]) -> Delta:
        """Append sampled tokens and tell the reader; sets `reason` with the last one and drops the rest."""
        self.times.first_token = self.times.first_token or self.clock()
        text, token_ids, logprobs = self._drain(), list[int](), list[TokenLogprob]()
        weights = list[TokenWeights]()
        for token in tokens:
            if not self.reason:
                logprobs += self._logprobs(token)
                weights += self._weights(token)
                text += self._take(token.token_id)
                token_ids.append(token.token_id)
        return Delta(self.id, text, tuple(token_ids), tuple(logprobs), tuple(weights))

    def flush(self) -> Delta | None:
        """The text that was held back, for an answer that ends here."""
        text = self._drain() + ("" if self._stops.is_found else self._unseen(self._stops.flush()))
        return Delta(self.id, text) if text else None

    def finished(self, reason: Reason) -> Finished:
        """The terminal entry of an answer that ended well."""
        return Finished(self.id, reason, self.stats())

    def failed(self, code: FailureCode, sentence: str, retry_after: int = 0) -> Failed:
        """The terminal entry of an answer that cannot go on."""
        return Failed(self.id, code, sentence, self.stats(), retry_after)

    def stats(self) -> Stats:
        """What it cost so far. A taken-over answer counts all its tokens, but only its own time per token."""
        now, times, count = self.clock(), self.times, len(self.sequence.output_ids)
        resumed = len(self.resume.token_ids) if self.resume else 0
        decoding = now - times.first_token if times.first_token else 0.0
        return Stats(
            prompt_tokens=self.sequence.num_prompt,
            completion_tokens=0 if isinstance(self.request, Probe) else count,
            queue_ms=_ms((times.admitted or now) - times.created),
            load_ms=_ms(times.loading),
            first_token_ms=_ms(times.first_token - times.created) if times.first_token and not resumed else 0.0,
            total_ms=_ms(now - times.created),
            tokens_per_second=round((count - resumed - 1) / decoding, 2) if decoding and count > resumed + 1 else 0.0,
            seed=self.seed,
            digest=self.digest,
            fingerprint=self.fingerprint,
            dropped_turns=self.dropped_turns,
            takeovers=0 if self.resume is None else 1,
            cached_tokens=self.sequence.num_cached_tokens,
            defaults=filled(self.request),
            invoked_at=self.invoked_at,
            logit_delta=self.logit_delta,
        )

    def _take(self, token_id: int) -> str:
        """Append `token_id` to the sequence; the text that may be shown now and was not shown before."""
        assert isinstance(self.request, Generate)
        assert self.reason is None, "an answer that ended takes no tokens"
        sampling, outputs = self.request.sampling, self.sequence.output_ids
        outputs.append(token_id)
        text = self._detokenizer.push(token_id)
        self._num_decoded += len(text)
        if len(outputs) >= sampling.min_tokens:
            text = self._stops.push(text)
        is_whole = self.guide is not None and self.guide.take(token_id)
        if is_whole or self._stops.is_found or (token_id in self.tokenizer.eos_ids and not sampling.ignore_eos):
            self.reason = "done"
        elif len(outputs) >= self.sequence.max_tokens:
            self.reason = "length"
        return self._unseen(text)

    def _unseen(self, text: str) -> str:
        """`text` without the part that another worker has streamed already."""
        seen = min(self._num_seen, len(text))
        self._num_seen -= seen
        return text[seen:]

    def _drain(self) -> str:
        text, self._unsent = self._unsent, ""
        return text

    def _weights(self, token: SampledToken) -> tuple[TokenWeights, ...]:
        """What a blend's gate made of the row that decided `token`; nothing for one that is no text."""
        if not token.weights or not (data := self.tokenizer.token_bytes(token.token_id)):
            return ()
        own = token.weights[: len(self.components)]
        return (TokenWeights(data.decode(errors="replace"), tuple(round(weight, WEIGHT_DIGITS) for weight in own)),)

    def _logprobs(self, token: SampledToken) -> tuple[TokenLogprob, ...]:
        assert isinstance(self.request, Generate)
        if self.request.sampling.logprobs is None:
            return ()
        return (replace(spell_token(self.tokenizer, token), offset=self._num_decoded),)


def spell_token(tokenizer: Tokenizer, token: SampledToken) -> TokenLogprob:
    """A token as the wire tells it, beside its alternatives."""
    top = tuple(spell(tokenizer, token_id, logprob) for token_id, logprob in token.top)
    return TokenLogprob(**vars(spell(tokenizer, token.token_id, token.logprob)), top=top, rank=token.rank)


def spell(tokenizer: Tokenizer, token_id: int, logprob: float) -> Alternative:
    """One token with its text, and with its bytes where these are only a part of a character."""
    text, data = tokenizer.text(token_id), tokenizer.token_bytes(token_id)
    is_special = not data
    hidden = "" if is_special or text.encode() == data else data.hex()
    return Alternative(text, token_id, logprob, hidden, is_special)


def seed_of(request: Request) -> int | None:
    """The seed of a request's noise, its own or the one derived from its id; None for a probe, which draws nothing."""
    if isinstance(request, Probe):
        return None
    given = request.sampling.seed
    return derived_seed(request.id) if given is None else given


def _ms(seconds: float) -> float:
    return round(max(0.0, seconds) * 1000, 1)
