"""From logits to the next token, one row at a time, so that no row's arithmetic can see another row.

The noise of a draw is a function of the row's seed and the index of the token alone: a counter-based
generator (Philox) keyed by the seed, with the index as its counter. Whoever computes token 17 of an answer,
in whatever batch, before or after a takeover, draws the same numbers. The draw is an exponential race
(argmax of p / e with e ~ Exp(1), which picks token i with probability p_i).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from inference.protocol import Sampling

MAX_LOGPROBS: Final = 20
_NUMBERS: Final = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "max_tokens",
    "min_tokens",
)
_WHOLE: Final = ("top_k", "max_tokens", "min_tokens", "seed", "logprobs")
NUCLEUS_GUESS: Final = 512
"""How many tokens a nucleus mostly has at most."""


@dataclass(frozen=True)
class Draw:
    """What one row needs: how to choose, the noise's `seed`, and the tokens it has seen.

    `barred` are token ids that may not be chosen now (the ends of an answer before `min_tokens`).
    """

    sampling: Sampling
    seed: int
    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    barred: tuple[int, ...] = ()


@dataclass(frozen=True)
class Choice:
    """A chosen token. `logprob` and `top` (token id, logprob), of the untouched logits, where they were asked for.

    `is_finite` is False when the row's logits held a NaN or an infinity; the token then means nothing.
    """

    token_id: int
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()
    is_finite: bool = True


def refusal(sampling: Sampling) -> str | None:
    """The sentence that says what is wrong with `sampling`, or None."""
    for name in _NUMBERS:
        value = getattr(sampling, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return f"{name} is {value!r}; it must be a finite number."
    for name in _WHOLE:
        value = getattr(sampling, name)
        if isinstance(value, bool) or not isinstance(value, int | None):
            return f"{name} is {value!r}; it must be a whole number."
    return _out_of_range(sampling)


def _out_of_range(sampling: Sampling) -> str | None:
    rules = (
        ("temperature", sampling.temperature >= 0, "0 (greedy) or more"),
        ("top_k", sampling.top_k >= 0, "0 (off) or more"),
        ("top_p", 0 < sampling.top_p <= 1, "above 0 and at most 1"),
        ("min_p", 0 <= sampling.min_p <= 1, "between 0 and 1"),
        ("repetition_penalty", sampling.repetition_penalty > 0, "above 0"),
        ("max_tokens", sampling.max_tokens >= 1, "1 or more"),
        ("min_tokens", 0 <= sampling.min_tokens <= sampling.max_tokens, "between 0 and max_tokens"),
        ("logprobs", 0 <= (sampling.logprobs or 0) <= MAX_LOGPROBS, f"between 0 and {MAX_LOGPROBS}"),
        ("stop", _are_strings(sampling.stop), "a list of strings that are not empty"),
    )
    for name, is_right, wanted in rules:
        if not is_right:
            return f"{name} is {getattr(sampling, name)!r}; it must be {wanted}."
    return None


def _are_strings(values: object) -> bool:
    return isinstance(values, tuple | list) and all(isinstance(each, str) and each for each in values)


def derived_seed(request_id: str) -> int:
    """The seed of a request that came without one, so that it can be told and used again (53 bits: exact in JSON)."""
    return int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8], "big") >> 11


def sample(logits: Tensor, draws: tuple[Draw, ...]) -> list[Choice]:
    """Choose a token for each row of `logits` [rows, vocab] float32, whose row i belongs to ``draws[i]``."""
    best, token_ids = logits.max(dim=-1)
    is_finite = (torch.isfinite(best) & torch.isfinite(logits.sum(dim=-1))).tolist()
    greedy = token_ids.tolist()
    return [_choose(logits[row], draw, greedy[row], is_finite[row]) for row, draw in enumerate(draws)]


def _choose(logits: Tensor, draw: Draw, greedy: int, is_finite: bool) -> Choice:
    """Choose for one row of logits [vocab]; `greedy` is its untouched argmax."""
    if not is_finite:
        return Choice(greedy, is_finite=False)
    changed = _penalise(logits, draw)
    if draw.sampling.temperature > 0:
        token = _race(_restrict(changed / draw.sampling.temperature, draw.sampling), draw.seed, len(draw.output_ids))
    else:
        token = greedy if changed is logits else int(changed.argmax())
    if draw.sampling.logprobs is None:
        return Choice(token)
    return _with_logprobs(logits, token, draw.sampling.logprobs)


def _penalise(logits: Tensor, draw: Draw) -> Tensor:
    """Apply the penalties and the barred tokens; returns `logits` itself where there are none.

    The repetition penalty looks at prompt and answer, as in CTRL (Keskar et al. 2019) and transformers;
    presence and frequency look at the answer alone, as in OpenAI's API.
    """
    sampling = draw.sampling
    counts = sampling.presence_penalty != 0 or sampling.frequency_penalty != 0
    if sampling.repetition_penalty == 1 and not draw.barred and not counts:
        return logits
    changed = logits.clone()
    if sampling.repetition_penalty != 1:
        seen = _ids(np.unique(np.array(draw.prompt_ids + draw.output_ids, dtype=np.int64)), logits)
        values = changed[seen]
        penalty = sampling.repetition_penalty
        changed[seen] = torch.where(values > 0, values / penalty, values * penalty)
    if counts and draw.output_ids:
        unique, times = np.unique(np.array(draw.output_ids, dtype=np.int64), return_counts=True)
        cost = sampling.presence_penalty + sampling.frequency_penalty * torch.from_numpy(times.astype(np.float32))
        changed[_ids(unique, logits)] -= cost.to(logits.device)
    if draw.barred:
        changed[list(draw.barred)] = -math.inf
    return changed


def _ids(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like.device)


def _restrict(logits: Tensor, sampling: Sampling) -> Tensor:
    """Set the logits outside top-k, top-p (nucleus) and min-p to -inf, in this order; [vocab] to [vocab]."""
    if 0 < sampling.top_k < logits.numel():
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[-1], -math.inf)
    if sampling.top_p < 1:
        probabilities = logits.softmax(-1)
        logits = logits.masked_fill(probabilities < _least_of_nucleus(probabilities, sampling.top_p), -math.inf)
    if sampling.min_p > 0:
        logits = logits.masked_fill(logits < logits.max() + math.log(sampling.min_p), -math.inf)
    return logits


def _least_of_nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """The least probability among the fewest tokens that together reach `top_p` (Holtzman et al. 2020).

    Sorting a whole vocabulary takes milliseconds and is done only where the likeliest tokens do not suffice.
    """
    ordered = probabilities.topk(min(NUCLEUS_GUESS, probabilities.numel())).values
    if ordered.sum() < top_p:
        ordered = probabilities.sort(descending=True).values
    before = ordered.cumsum(-1) - ordered
    return ordered[before < top_p][-1]


def _race(logits: Tensor, seed: int, index: int) -> int:
    """Draw a token from softmax(logits) with the noise of (`seed`, `index`)."""
    noise = torch.from_numpy(_uniform(seed, index, logits.numel())).to(logits.device)
    return int((logits.softmax(-1) / -torch.log1p(-noise)).argmax())


def _uniform(seed: int, index: int, count: int) -> np.ndarray:
    """`count` float32 in (0, 1): the same for the same seed and index, and unrelated for any other."""
    counter = np.array([0, index, 0, 0], dtype=np.uint64)
    key = np.array([seed % 2**64, 0], dtype=np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key, counter=counter))
    return np.maximum(generator.random(count, dtype=np.float32), np.float32(2**-25))


def _with_logprobs(logits: Tensor, token: int, count: int) -> Choice:
    logprobs = logits.log_softmax(-1)
    values, ids = logprobs.topk(count) if count else (logprobs[:0], logprobs[:0])
    top = tuple(zip((int(each) for each in ids.tolist()), values.tolist(), strict=True))
    return Choice(token, float(logprobs[token]), top)
