"""Answers of plain completions, which may begin with their prompt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from inference.wire.protocol import Delta, Prompted, TokenLogprob
from loraland.api.openai.bodies import FINISH_REASONS, OpenAI, conclusion
from loraland.api.openai.held import HeldTokens, all_told
from loraland.api.openai.prompts import Echo, logprobs_of, prompt_logprobs
from loraland.api.shape import Answer, Body, Head, Usage


class Plain(OpenAI):
    """``text_completion``, whole and in chunks.

    `echoed` has for each choice the text of its prompt, None for one that is known by its tokens alone; without it
    prompts are not told.
    """

    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def __init__(
        self,
        with_logprobs: bool,
        echoed: Sequence[str | None] | None = None,
        num_prompt_logprobs: int | None = None,
    ) -> None:
        self._with_logprobs = with_logprobs
        self._num_prompt_logprobs = num_prompt_logprobs
        self._echoed = echoed
        self._echoes: dict[int, Echo] = {}
        self._held: defaultdict[int, HeldTokens] = defaultdict(HeldTokens)

    def whole(self, head: Head, answers: Sequence[Answer], usage: Usage) -> Body:
        return self._whole(head, [self._ended(answer) for answer in answers], answers, usage)

    def opening(self, head: Head, index: int) -> list[Body]:
        return []

    def prompted(self, head: Head, index: int, prompted: Prompted) -> list[Body]:
        if (echo := self._echo(index)) is None:
            return []
        text, logprobs = echo.push(prompted.tokens)
        return [self._chunk(head, _choice(index, text, logprobs if self._with_logprobs else None))]

    def chunk(self, head: Head, index: int, delta: Delta, at: int) -> list[Body]:
        rest = self._rest(head, index)
        tokens = self._held[index].push(delta.logprobs, at + len(delta.text))
        if not (delta.text or tokens):
            return rest
        logprobs = self._logprobs(tokens, self._begin(index))
        return [*rest, self._chunk(head, _choice(index, delta.text, logprobs))]

    def closing(self, head: Head, answer: Answer) -> list[Body]:
        rest = self._rest(head, answer.index)
        if tokens := self._held[answer.index].rest(answer.finished.reason):
            logprobs = self._logprobs(tokens, self._begin(answer.index))
            rest.append(self._chunk(head, _choice(answer.index, "", logprobs)))
        choice = _choice(answer.index, "", reason=FINISH_REASONS[answer.finished.reason])
        return [*rest, self._chunk(head, choice) | conclusion(head, [answer])]

    def _ended(self, answer: Answer) -> Body:
        tokens = all_told(answer.logprobs, len(answer.text), answer.finished.reason)
        text, logprobs = "", self._logprobs(tokens, 0)
        if echo := self._echo(answer.asked):
            text, of_prompt = echo.push(answer.prompted)
            text += echo.rest()
            if self._with_logprobs:
                of_answer = logprobs_of(tokens, [len(text) + token.offset for token in tokens])
                logprobs = {name: of_prompt[name] + of_answer[name] for name in of_prompt}
        choice = _choice(answer.index, text + answer.text, logprobs, FINISH_REASONS[answer.finished.reason])
        if self._num_prompt_logprobs is not None:
            choice["prompt_logprobs"] = prompt_logprobs(answer.prompted, self._num_prompt_logprobs)
        return choice

    def _echo(self, index: int) -> Echo | None:
        if self._echoed is None:
            return None
        return self._echoes.setdefault(index, Echo(self._echoed[index]))

    def _begin(self, index: int) -> int:
        """Where the answer begins in the text that is told."""
        echo = self._echo(index)
        return echo.at if echo else 0

    def _rest(self, head: Head, index: int) -> list[Body]:
        """What of a prompt is told before its answer and was not yet."""
        echo = self._echo(index)
        text = echo.rest() if echo else ""
        return [self._chunk(head, _choice(index, text))] if text else []

    def _logprobs(self, tokens: Sequence[TokenLogprob], at: int) -> Body | None:
        """Of tokens of an answer that begins at `at`."""
        return logprobs_of(tokens, [at + token.offset for token in tokens]) if self._with_logprobs else None


def _choice(index: int, text: str, logprobs: Any = None, reason: str | None = None) -> Body:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
