"""An answer token by token, as LoRAX tells it: texts that, joined, are the answer, and with it the reason for its end.

LoRAX keeps the stop string that ends an answer in its text. Here a worker holds it back, and the tokens bring it.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass, replace
from typing import Literal

from inference.wire.protocol import Delta, Finished, TokenLogprob

Reason = Literal["length", "eos_token", "stop_sequence"]


@dataclass(frozen=True)
class Spelled:
    """A token and the text that it adds: none where it begins a character that the next one ends."""

    token: TokenLogprob
    text: str


@dataclass(frozen=True)
class Ending:
    """How an answer ended: its last tokens are those that were still held, cut to its text. `is_whole` says that its
    tokens spell the text: of an answer that was read from its row they are gone."""

    text: str
    reason: Reason
    last: list[Spelled]
    is_whole: bool = True


class Spelling:
    """Takes an answer's deltas and gives its tokens, but for the latest, of which only the end tells the text."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._told = ""
        self._written = ""
        self._held: list[Spelled] = []

    def push(self, delta: Delta) -> list[Spelled]:
        """The tokens that are known to go on before `delta`'s last one."""
        self._told += delta.text
        for token in delta.logprobs:
            spelled = Spelled(token, "" if token.is_special else self._decoder.decode(token.data))
            self._written += spelled.text
            self._held.append(spelled)
        ready, self._held = self._held[:-1], self._held[-1:]
        return ready

    def end(self, finished: Finished) -> Ending:
        stop = self.stop_of(finished)
        text = self._told + stop
        over = len(self._written) - len(text)
        last = [replace(each, text=each.text[: len(each.text) - over]) if over > 0 else each for each in self._held]
        reason: Reason = "stop_sequence" if stop else "eos_token" if finished.reason == "done" else "length"
        return Ending(text, reason, last, self._written.startswith(text))

    def stop_of(self, finished: Finished) -> str:
        """The stop string that ended the answer: what was written of it was not told. Empty where none did."""
        if finished.reason != "done":
            return ""
        rest = self._written[len(self._told) :]
        return min(filter(rest.startswith, self._stops), key=len, default="")
