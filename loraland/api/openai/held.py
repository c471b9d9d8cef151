"""The tokens of one choice that wait for their text: a stop string that may have begun, a part of a character.

Joined, the bytes of the tokens that are told are the text that is told. A token within a stop string is none of
the answer; one that begins before it is told whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from inference.wire.protocol import Reason, TokenLogprob


class HeldTokens:
    """What has come of a choice's tokens and was not told yet."""

    def __init__(self) -> None:
        self._held: list[TokenLogprob] = []

    def push(self, tokens: Sequence[TokenLogprob], end: int) -> list[TokenLogprob]:
        """Those that begin in the first `end` characters of the answer, which are told now."""
        self._held += tokens
        told = [token for token in self._held if token.offset < end]
        self._held = self._held[len(told) :]
        return told

    def rest(self, reason: Reason) -> list[TokenLogprob]:
        """Those that are left at the answer's end. Of one that ended by itself only a control token can be of it; one
        that was cut may end within a character.
        """
        held, self._held = self._held, []
        return [token for token in held if token.is_special or reason != "done"]


def all_told(tokens: Sequence[TokenLogprob], length: int, reason: Reason) -> list[TokenLogprob]:
    """The tokens of a whole answer of `length` characters."""
    held = HeldTokens()
    return [*held.push(tokens, length), *held.rest(reason)]
