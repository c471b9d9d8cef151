"""From logits to the next token, for many rows together, so that no row's arithmetic can see another row.

The argmax is taken of all rows at once, and rows that ask for more are looked at one by one, on the host. A draw
takes the token at which the running sum of probabilities passes a number between 0 and 1, which is a hash of the
row's seed and the index of the token. Whoever computes token 17 of an answer, in whatever batch, before or after a
takeover, draws the same number; so a token that was guessed can be compared with the one that is drawn.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from torch import Tensor

from inference.decoders.contract import argmax_rows
from inference.reading import shown
from inference.structured.guide import Mask
from inference.wire.protocol import Sampling

MAX_LOGPROBS: Final = 20
MAX_BIAS: Final = 100
_NUMBERS: Final = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "max_tokens",
    "min_tokens",
)
_MOST: Final = 1e300
"""Numbers within it are finite, whole ones of any length too."""
_WHOLE: Final = ("top_k", "max_tokens", "min_tokens", "seed", "logprobs", "prompt_logprobs")
Row = np.ndarray
"""Float32 [vocab]."""
Argmax = Callable[[Tensor], tuple[list[int], list[bool]]]
_LARGE: Final = 1e30
_CHUNK: Final = 256
"""Probabilities that are summed up, or looked through, as one."""


@dataclass(frozen=True, slots=True)
class RowSampling:
    """How the next token of one row is sampled: the request's own terms, the `seed`, and the tokens it has seen.

    `draft` are tokens that are supposed to follow `output_ids`. `barred` are token ids that may not be chosen now
    (the ends of an answer before `min_tokens`); `mask` are those that may.
    """

    sampling: Sampling
    seed: int
    prompt_ids: Sequence[int]
    output_ids: Sequence[int]
    barred: tuple[int, ...] = ()
    draft: tuple[int, ...] = ()
    mask: Mask | None = None

    @property
    def index(self) -> int:
        """Which token of the answer this is, counted from 0."""
        return len(self.output_ids) + len(self.draft)

    @property
    def has_penalties(self) -> bool:
        sampling = self.sampling
        return bool(sampling.repetition_penalty != 1 or sampling.presence_penalty or sampling.frequency_penalty)

    @property
    def is_plain(self) -> bool:
        """Whether the logits are taken as they are, but for a mask."""
        return not (self.has_penalties or self.barred or self.sampling.logit_bias)

    def takes(self, argmax: int) -> bool:
        """Whether the token is `argmax`, the one with the largest logit, and nothing else is asked for."""
        is_greedy = self.sampling.temperature == 0 and self.sampling.logprobs is None
        is_changed = self.has_penalties or self.sampling.logit_bias or self.mask
        return is_greedy and not is_changed and argmax not in self.barred


@dataclass(frozen=True, slots=True)
class SampledToken:
    """The next token of a row. `logprob` and `top` (token id, logprob) are of the untouched logits, where asked for.

    `rank` is its place among all tokens, from 1, where a given token is scored. The token means nothing when
    `is_finite` is False, as the row's logits held a NaN or an infinity, or `is_allowed` is, as its mask left none.
    `weights` are what a blend's gate made of the row, for each part and beyond (`inference.decoders.coefficients`).
    """

    token_id: int
    is_finite: bool = True
    is_allowed: bool = True
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()
    rank: int = 0
    weights: tuple[float, ...] = ()

    @property
    def counts(self) -> bool:
        return self.is_finite and self.is_allowed


def refusal(sampling: Sampling) -> str | None:
    """The sentence that says what is wrong with `sampling`, or None."""
    for name in _NUMBERS:
        value = getattr(sampling, name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not -_MOST <= value <= _MOST:
            return f"{name} is {shown(value)}; it must be a finite number."
    for name in _WHOLE:
        value = getattr(sampling, name)
        if isinstance(value, bool) or not isinstance(value, int | None):
            return f"{name} is {value!r}; it must be a whole number."
    return _out_of_range(sampling) or _bias_refusal(sampling)


def _out_of_range(sampling: Sampling) -> str | None:
    stop = sampling.stop
    least = 1 if sampling.prompt_logprobs is None else 0
    are_strings = isinstance(stop, tuple | list) and all(isinstance(string, str) and string for string in stop)
    rules = (
        ("temperature", sampling.temperature >= 0, "0 (greedy) or more"),
        ("top_k", sampling.top_k >= 0, "0 (off) or more"),
        ("top_p", 0 < sampling.top_p <= 1, "above 0 and at most 1"),
        ("min_p", 0 <= sampling.min_p <= 1, "between 0 and 1"),
        ("typical_p", 0 < sampling.typical_p <= 1, "above 0 and at most 1"),
        ("repetition_penalty", sampling.repetition_penalty > 0, "above 0"),
        ("max_tokens", sampling.max_tokens >= least, "1 or more, or 0 with prompt_logprobs"),
        ("min_tokens", 0 <= sampling.min_tokens <= sampling.max_tokens, "between 0 and max_tokens"),
        ("logprobs", 0 <= (sampling.logprobs or 0) <= MAX_LOGPROBS, f"between 0 and {MAX_LOGPROBS}"),
        ("prompt_logprobs", 0 <= (sampling.prompt_logprobs or 0) <= MAX_LOGPROBS, f"between 0 and {MAX_LOGPROBS}"),
        ("stop", are_strings, "a list of strings that are not empty"),
    )
    for name, is_right, wanted in rules:
        if not is_right:
            return f"{name} is {getattr(sampling, name)!r}; it must be {wanted}."
    return None


def _bias_refusal(sampling: Sampling) -> str | None:
    for token_id, bias in sampling.logit_bias:
        is_number = isinstance(bias, int | float) and abs(bias) <= MAX_BIAS
        if not isinstance(token_id, int) or token_id < 0 or not is_number:
            return f"logit_bias has {token_id!r}: {bias!r}; it must be a token id and a number from -100 to 100."
    return None


def derived_seed(request_id: str) -> int:
    """The seed of a request that came without one, so that it can be told and used again (53 bits: exact in JSON)."""
    return int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8], "big") >> 11


def sample(logits: Tensor, samplings: Sequence[RowSampling], argmax: Argmax = argmax_rows) -> list[SampledToken]:
    """A token for each row of `logits` [rows, vocab] float32, whose row i is sampled as ``samplings[i]`` says.

    `argmax` is the decoder's way to the argmax of each row and to whether it is finite.
    """
    token_ids, are_finite = argmax(logits)
    tokens = [SampledToken(*row) for row in zip(token_ids, are_finite, strict=True)]
    special = [row for row, how in enumerate(samplings) if are_finite[row] and not how.takes(token_ids[row])]
    if special:
        # One row after the other: what a row needs stays in the processor's cache, and is a matter of that row alone.
        for row, scores in zip(special, logits[special].cpu().numpy(), strict=True):
            tokens[row] = _sample_row(scores, samplings[row], token_ids[row])
    return tokens


def accept(tokens: Sequence[SampledToken], draft: Sequence[int]) -> tuple[SampledToken, ...]:
    """The tokens that count: each stands on a drafted token which must be the one that was sampled before it."""
    count = 0
    while count < len(draft) and tokens[count].token_id == draft[count] and tokens[count].counts:
        count += 1
    return tuple(tokens[: count + 1])


def score(logits: Tensor, token_ids: Sequence[int], count: int) -> list[SampledToken]:
    """How likely each of `token_ids` was in its row of `logits` [rows, vocab] float32, beside the `count` likeliest."""
    return [_scored(*row, count) for row in zip(logits.cpu().numpy(), token_ids, strict=True)]


def _scored(scores: Row, token_id: int, count: int) -> SampledToken:
    if not np.isfinite(scores).all():
        return SampledToken(token_id, is_finite=False)
    return replace(_with_logprobs(scores, token_id, count), rank=1 + int((scores > scores[token_id]).sum()))


def _sample_row(scores: Row, how: RowSampling, argmax: int) -> SampledToken:
    """The token of one row [vocab], whose largest is at `argmax`."""
    changed = scores if how.is_plain else _penalised(scores, how)
    if how.mask is not None:
        changed = np.where(how.mask.allowed(len(scores)), changed, np.float32(-math.inf))
        if not np.isfinite(changed.max()):
            return SampledToken(argmax, is_allowed=False)
    if how.sampling.temperature:
        token_id = _draw(changed, how)
    else:
        token_id = argmax if changed is scores else int(changed.argmax())
    if how.sampling.logprobs is None:
        return SampledToken(token_id)
    return _with_logprobs(scores, token_id, how.sampling.logprobs)


def _penalised(scores: Row, how: RowSampling) -> Row:
    """`scores` with the penalties and the bias, and without the barred tokens.

    The repetition penalty looks at prompt and answer, as in CTRL (Keskar et al. 2019) and transformers;
    presence and frequency look at the answer alone, as in OpenAI's API.
    """
    scores, sampling = scores.copy(), how.sampling
    output_ids = [*how.output_ids, *how.draft]
    if sampling.repetition_penalty != 1:
        seen = np.array([*how.prompt_ids, *output_ids])
        values, penalty = scores[seen], _clamped(sampling.repetition_penalty)
        scores[seen] = np.where(values > 0, values / penalty, values * penalty)
    if output_ids and (sampling.presence_penalty or sampling.frequency_penalty):
        unique, times = np.unique(output_ids, return_counts=True)
        cost = sampling.presence_penalty + sampling.frequency_penalty * times
        scores[unique] -= np.clip(cost, -_LARGE, _LARGE)
    for token_id, bias in sampling.logit_bias:
        scores[token_id] += np.float32(bias)
    np.clip(scores, -_LARGE, _LARGE, out=scores)
    scores[list(how.barred)] = -math.inf
    return scores


def _clamped(value: float) -> np.float32:
    """`value`, or what is so large or small that it does the same, in numbers that do not overflow."""
    return np.float32(min(max(value, 1 / _LARGE), _LARGE))


def _draw(scores: Row, how: RowSampling) -> int:
    """Draw one token of softmax(`scores` / temperature) with the noise of the row's seed and index."""
    sampling, uniform = how.sampling, _uniform(how.seed, how.index)
    weights = np.exp((scores - scores.max()) / _clamped(sampling.temperature))
    if not (sampling.top_k or sampling.top_p < 1 or sampling.min_p or sampling.typical_p < 1):
        return _inverse_cdf(weights, uniform)
    kept = np.flatnonzero(weights >= _threshold(weights, sampling))
    if sampling.typical_p < 1:
        kept = kept[_typical(weights[kept], sampling.typical_p)]
    return int(kept[_inverse_cdf(weights[kept], uniform)])


def _threshold(weights: Row, sampling: Sampling) -> float:
    """The least that top-k, top-p (nucleus, Holtzman et al. 2020) and min-p leave of `weights`, whose largest is 1."""
    likely = np.sort(weights[_likely(weights)])[::-1]
    total = weights.sum(dtype=np.float64)
    share = 0.0 if sampling.top_k or sampling.top_p == 1 else sampling.top_p
    if len(likely) < sampling.top_k or likely.sum(dtype=np.float64) < share * total:
        likely = np.sort(weights)[::-1]
    if sampling.top_k:
        likely = likely[: sampling.top_k]
        total = likely.sum(dtype=np.float64)
    before = likely.cumsum(dtype=np.float64) - likely
    least = likely[before < sampling.top_p * total][-1] if sampling.top_k or sampling.top_p < 1 else 0.0
    return max(float(least), sampling.min_p)


def _typical(weights: Row, mass: float) -> np.ndarray:
    """The places of the `weights` that surprise most nearly as much as all do on average (Meister et al. 2023), up to
    the share `mass` of them, in their order."""
    shares = weights.astype(np.float64) / weights.sum(dtype=np.float64)
    surprises = -np.log(np.maximum(shares, np.finfo(np.float64).tiny))
    order = np.argsort(np.abs(surprises - (shares * surprises).sum()), kind="stable")
    before = shares[order].cumsum() - shares[order]
    return np.sort(order[before < mass])


def _likely(weights: Row) -> np.ndarray:
    """The ids of the largest of `weights`, some hundreds of a large vocabulary, which is mostly enough."""
    largest = np.maximum.reduceat(weights, np.arange(0, len(weights), _CHUNK))
    quarter = len(largest) // 4
    return np.flatnonzero(weights >= np.partition(largest, quarter)[quarter])


def _inverse_cdf(weights: Row, uniform: float) -> int:
    """The index at which the running sum of `weights` passes `uniform` times their sum; one of weight 0 never does."""
    running = np.add.reduceat(weights, np.arange(0, len(weights), _CHUNK), dtype=np.float64).cumsum()
    target = uniform * running[-1]
    chunk = int(running.searchsorted(target, side="right"))
    start, before = chunk * _CHUNK, running[chunk - 1] if chunk else 0.0
    inner = weights[start : start + _CHUNK].cumsum(dtype=np.float64)
    # Two orders of summation may differ in a last bit: the sum that the chunk has passed is passed within it.
    return start + int(inner.searchsorted(min(target - before, np.nextafter(inner[-1], 0)), side="right"))


def _uniform(seed: int, index: int) -> float:
    """A number between 0 and 1: the same for the same seed and index, and unrelated for any other."""
    digest = hashlib.sha256(f"{seed % 2**64} {index}".encode()).digest()
    return (int.from_bytes(digest[:6], "big") + 0.5) / 2**48


def _with_logprobs(scores: Row, token_id: int, count: int) -> SampledToken:
    """`token_id`, and the `count` likeliest tokens, with natural logarithms of their probabilities."""
    offset = scores.max() + np.log(np.exp(scores - scores.max()).sum(dtype=np.float64))
    ids = _likely(scores)
    if len(ids) < count:
        ids = np.arange(len(scores))
    top = ids[np.argsort(-scores[ids], kind="stable")[:count]]
    pairs = zip(top.tolist(), (scores[top] - offset).tolist(), strict=True)
    return SampledToken(token_id, logprob=float(scores[token_id] - offset), top=tuple(pairs))
