"""What is told of a prompt: its text and tokens before the answer's (`echo`), and how likely each of them was."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from inference.wire.protocol import Alternative, TokenLogprob
from loraland.api.shape import Body


class Echo:
    """The prompt of one choice, told piece by piece: `given` where it is known as text, else the text of its tokens."""

    def __init__(self, given: str | None) -> None:
        self._given = given
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._has_begun = False
        self.at = 0
        """How many characters have been told."""

    def push(self, tokens: Sequence[TokenLogprob]) -> tuple[str, Body]:
        """The text of the prompt's next `tokens`, and they themselves; nothing stands before the first of all."""
        begin, text, offsets = self.at, "", []
        for token in tokens:
            offsets.append(begin + len(text))
            text += self._text(token, begin + len(text))
        told = logprobs_of(tokens, offsets)
        if tokens and not self._has_begun:
            self._has_begun = True
            told["token_logprobs"][0] = told["top_logprobs"][0] = None
        self.at += len(text)
        return (text if self._given is None else self._given[begin : self.at]), told

    def rest(self) -> str:
        """What no token has told of the text; all of it, where no tokens were asked for."""
        begin, self._has_begun = self.at, True
        text = self._decoder.decode(b"", final=True) if self._given is None else self._given[begin:]
        self.at += len(text)
        return text

    def _text(self, token: TokenLogprob, at: int) -> str:
        """A control token stands for its name where the prompt has it, and else for nothing (``<s>``)."""
        if not token.is_special:
            return self._decoder.decode(token.data)
        is_written = self._given is None or self._given.startswith(token.token, at)
        return self._decoder.decode(b"", final=True) + (token.token if is_written else "")


def logprobs_of(tokens: Sequence[TokenLogprob], offsets: list[int]) -> Body:
    """The log-probabilities of a plain completion: each token stands among its own alternatives too."""
    return {
        "tokens": [spelt(token) for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{spelt(one): one.logprob for one in (*token.top, token)} for token in tokens],
        "text_offset": offsets,
    }


def spelt(token: Alternative) -> str:
    """A token as completions name it: its text, or where that is not all of it its bytes, as ``bytes:\\xf0\\x9f``."""
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.data) if token.hex else token.token


def prompt_logprobs(tokens: Sequence[TokenLogprob], num: int) -> list[dict[str, Any] | None]:
    """As vLLM has them: null for the first token, then of each place its token and the `num` likeliest, by id."""
    return [None, *[_place(token, num) for token in tokens[1:]]] if tokens else []


def _place(token: TokenLogprob, num: int) -> dict[str, Any]:
    ranked = [(token, token.rank), *[(one, rank) for rank, one in enumerate(token.top[:num], 1)]]
    return {
        str(one.token_id): {"logprob": one.logprob, "rank": rank, "decoded_token": one.token} for one, rank in ranked
    }
