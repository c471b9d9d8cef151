"""Which tokens an answer may go on with: one `Guide` an answer, its masks filled while the pass is computed.

The state of a guide is a function of the tokens of its answer alone, so that a worker which takes an answer over, and
one that computes it again, allow the same. Masks never touch the rows of others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final, Protocol

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from inference.structured.grammar import LIMITS, ConstraintRefused, grammar_of
from inference.wire.protocol import Constraint

KEPT: Final = 64
"""Compiled constraints that are kept for the next who asks."""


class Vocabulary(Protocol):
    """What is asked of a tokenizer."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def eos_ids(self) -> frozenset[int]: ...
    def token_bytes(self, token_id: int) -> bytes: ...
    def encode_text(self, text: str) -> list[int]: ...


class Mask:
    """The tokens that one row may take: bool [vocab], filled by another thread."""

    def __init__(self, filled: Future[list[np.ndarray]], place: int, vocab_size: int) -> None:
        self._filled, self._place, self._vocab_size = filled, place, vocab_size

    def allowed(self, width: int) -> np.ndarray:
        """Bool [width], waiting for it; what lies beyond the tokenizer's tokens is never allowed."""
        filled = self._filled.result()
        if self._place >= len(filled):  # behind a drafted token that cannot be accepted: nobody looks at the row
            return np.ones(width, dtype=bool)
        bits = np.unpackbits(filled[self._place].view(np.uint8), bitorder="little").view(bool)
        allowed = np.zeros(width, dtype=bool)
        size = min(width, self._vocab_size)
        allowed[:size] = bits[:size]
        return allowed


class Guide:
    """Follows one answer through its grammar."""

    def __init__(self, matcher: LLMatcher, vocab_size: int, fill: Callable[..., Future[list[np.ndarray]]]) -> None:
        self._matcher, self._vocab_size, self._fill = matcher, vocab_size, fill

    @property
    def is_complete(self) -> bool:
        """Whether it is whole and nothing may follow."""
        return bool(self._matcher.is_stopped() and not self._matcher.is_error())

    def take(self, token_id: int) -> bool:
        """Take the next token of the answer; whether it is the last."""
        self.advance([token_id])
        return self.is_complete

    def advance(self, token_ids: Sequence[int]) -> bool:
        """Take tokens of the answer; False for one that the grammar does not allow."""
        return bool(self._matcher.consume_tokens(list(token_ids)))

    def masks(self, draft: Sequence[int] = ()) -> list[Mask]:
        """The masks of the next token, and of those that follow each token of `draft`. Do not advance before they are
        used."""
        filled = self._fill(self._masks, tuple(draft))
        return [Mask(filled, place, self._vocab_size) for place in range(len(draft) + 1)]

    def _masks(self, draft: tuple[int, ...]) -> list[np.ndarray]:
        masks, num_taken = [self._mask()], 0
        for token_id in draft:
            if self._matcher.is_stopped() or not self._matcher.validate_tokens([token_id]):
                break
            self._matcher.consume_token(token_id)
            num_taken += 1
            masks.append(self._mask())
        if num_taken:
            self._matcher.rollback(num_taken)
        return masks

    def _mask(self) -> np.ndarray:
        """One bit a token, in words of 32."""
        mask = np.zeros(-(-self._vocab_size // 32), dtype=np.uint32)
        if not self._matcher.is_stopped():
            self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        return mask


class Guides:
    """Compiles constraints in a thread of its own, and makes guides of them."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._tokenizer: LLTokenizer | None = None
        self._compiling = ThreadPoolExecutor(1, thread_name_prefix="grammar")
        self._filling = ThreadPoolExecutor(1, thread_name_prefix="masks")
        self._compiled = OrderedDict[Constraint, Future[LLMatcher]]()

    def want(self, constraint: Constraint) -> bool:
        """Ask for a constraint to be compiled; True when it is."""
        if constraint not in self._compiled:
            self._compiled[constraint] = self._compiling.submit(self._compile, constraint)
        self._compiled.move_to_end(constraint)
        while len(self._compiled) > KEPT and next(iter(self._compiled.values())).done():
            self._compiled.popitem(last=False)
        return self._compiled[constraint].done()

    def wait(self, seconds: float) -> None:
        """Wait for the next constraint that is being compiled, if there is one."""
        wait([one for one in self._compiled.values() if not one.done()], seconds, return_when="FIRST_COMPLETED")

    def guide(self, constraint: Constraint) -> Guide:
        """A guide at the beginning of its answer. Raises `ConstraintRefused`."""
        self.want(constraint)
        matcher = self._compiled[constraint].result().deep_copy()
        return Guide(matcher, self._vocabulary.vocab_size, self._filling.submit)

    def close(self) -> None:
        """End the threads."""
        self._compiling.shutdown(cancel_futures=True)
        self._filling.shutdown(cancel_futures=True)

    def _compile(self, constraint: Constraint) -> LLMatcher:
        matcher = LLMatcher(self._known_tokenizer(), grammar_of(constraint), log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise ConstraintRefused(f"The constraint cannot be used: {matcher.get_error()[:300]}.")
        return matcher

    def _known_tokenizer(self) -> LLTokenizer:
        if self._tokenizer is None:
            wrapper = TokenizerWrapper(_Tokens(self._vocabulary))
            self._tokenizer = LLTokenizer(wrapper, n_vocab=len(wrapper.tokens), eos_token=_ends(self._vocabulary))
        return self._tokenizer


def _ends(vocabulary: Vocabulary) -> list[int]:
    """The tokens that end an answer and stand for no text; for a base that has none one that no row can take."""
    return sorted(id for id in vocabulary.eos_ids if not vocabulary.token_bytes(id)) or [vocabulary.vocab_size]


class _Tokens:
    """The tokens of a vocabulary as llguidance reads them: control tokens stand for no bytes of an answer."""

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        count = max(vocabulary.vocab_size, *(end + 1 for end in _ends(vocabulary)))
        known = [vocabulary.token_bytes(id) if id < vocabulary.vocab_size else b"" for id in range(count)]
        self.tokens = [data or f"<control {id}>".encode() for id, data in enumerate(known)]
        self.special_token_ids = [id for id, data in enumerate(known) if not data]
        self.eos_token_id = _ends(vocabulary)[0]

    def __call__(self, text: str | bytes) -> list[int]:
        return self._vocabulary.encode_text(text if isinstance(text, str) else text.decode("utf-8", errors="replace"))
