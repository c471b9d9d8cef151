"""Answers in OpenAI's shapes, whole or in chunks: those of a chat, and what plain completions share with them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from inference.wire.protocol import Alternative, Delta, Prompted, TokenLogprob
from loraland.api.errors import ApiError
from loraland.api.openai.calls import ChatCalls
from loraland.api.openai.held import HeldTokens, all_told
from loraland.api.openai.prompts import prompt_logprobs
from loraland.api.shape import DONE, Answer, Body, Head, Usage

FINISH_REASONS: Final = {"done": "stop", "length": "length", "stopped": "stop"}


class OpenAI:
    """What both kinds have in common. `prefix` begins the answer's id."""

    done = DONE
    names_events = False
    prefix: str
    kind: str
    chunk_kind: str

    def failure(self, error: ApiError) -> Body:
        return error.body()

    def prompted(self, head: Head, index: int, prompted: Prompted) -> list[Body]:
        return []

    def tally(self, head: Head, usage: Usage) -> list[Body]:
        return [self._piece(head, self.chunk_kind, []) | {"usage": _usage(usage)}]

    def _whole(self, head: Head, choices: list[Body], answers: Sequence[Answer], usage: Usage) -> Body:
        piece = self._piece(head, self.kind, choices)
        return piece | conclusion(head, answers) | {"usage": _usage(usage)}

    def _chunk(self, head: Head, choice: Body) -> Body:
        return self._piece(head, self.chunk_kind, [choice]) | {"system_fingerprint": None}

    def _piece(self, head: Head, kind: str, choices: list[Body]) -> Body:
        return {
            "id": f"{self.prefix}-{head.generation}",
            "object": kind,
            "created": head.created,
            "model": head.model,
            "choices": choices,
        }


class Chat(OpenAI):
    """``chat.completion`` and its chunks."""

    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(
        self, with_logprobs: bool, num_prompt_logprobs: int | None = None, calls: ChatCalls | None = None
    ) -> None:
        self._with_logprobs = with_logprobs
        self._num_prompt_logprobs = num_prompt_logprobs
        self._calls = calls
        self._held: defaultdict[int, HeldTokens] = defaultdict(HeldTokens)

    def whole(self, head: Head, answers: Sequence[Answer], usage: Usage) -> Body:
        body = self._whole(head, [self._choice(head, answer) for answer in answers], answers, usage)
        if self._num_prompt_logprobs is None:
            return body
        return body | {"prompt_logprobs": prompt_logprobs(answers[0].prompted, self._num_prompt_logprobs)}

    def opening(self, head: Head, index: int) -> list[Body]:
        return [self._delta(head, index, {"role": "assistant", "content": "", "refusal": None})]

    def chunk(self, head: Head, index: int, delta: Delta, at: int) -> list[Body]:
        tokens = self._held[index].push(delta.logprobs, at + len(delta.text))
        if not (delta.text or tokens):
            return []
        deltas = [{"content": delta.text}]
        if self._calls:
            deltas = self._calls.deltas(head.generation, index, delta.text)
        return self._deltas(head, index, deltas, tokens)

    def closing(self, head: Head, answer: Answer) -> list[Body]:
        rest = self._held[answer.index].rest(answer.finished.reason)
        deltas = self._calls.last_deltas(head.generation, answer.index) if self._calls else []
        last = self._delta(head, answer.index, {}, reason=self._reason(answer)) | conclusion(head, [answer])
        return [*self._deltas(head, answer.index, deltas, rest), last]

    def _choice(self, head: Head, answer: Answer) -> Body:
        message: Body = {"role": "assistant", "content": answer.text, "refusal": None}
        if self._calls:
            message = self._calls.message(head.generation, answer.index, answer.text)
        return {
            "index": answer.index,
            "message": message,
            "logprobs": self._logprobs(all_told(answer.logprobs, len(answer.text), answer.finished.reason)),
            "finish_reason": self._reason(answer),
        }

    def _reason(self, answer: Answer) -> str:
        reason = FINISH_REASONS[answer.finished.reason]
        return self._calls.reason(answer.index, reason) if self._calls else reason

    def _deltas(self, head: Head, index: int, deltas: list[Body], tokens: Sequence[TokenLogprob]) -> list[Body]:
        """A chunk for each of `deltas`, the tokens with the first."""
        told = deltas or ([{"content": ""}] if tokens and self._with_logprobs else [])
        return [
            self._delta(head, index, delta, self._logprobs(() if number else tokens))
            for number, delta in enumerate(told)
        ]

    def _delta(self, head: Head, index: int, delta: Body, logprobs: Any = None, reason: str | None = None) -> Body:
        return self._chunk(head, {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason})

    def _logprobs(self, logprobs: Sequence[TokenLogprob]) -> Body | None:
        if not self._with_logprobs:
            return None
        return {"content": told_tokens(logprobs), "refusal": None}


def told_tokens(tokens: Sequence[TokenLogprob]) -> list[Body]:
    """How likely `tokens` were, each with the likeliest in its place."""
    return [_token(token) | {"top_logprobs": [_token(other) for other in token.top]} for token in tokens]


def conclusion(head: Head, answers: Sequence[Answer]) -> Body:
    """What is known at the end beside the usage: the numerics' fingerprint, and our own numbers. Of a call with
    several choices, a whole answer has them choice by choice.
    """
    fingerprints = {answer.finished.stats.fingerprint for answer in answers}
    known = {"system_fingerprint": (fingerprints.pop() or None) if len(fingerprints) == 1 else None}
    abouts = [_about(head, answer) for answer in answers]
    shared = dict(head.told) | ({"components": list(head.components)} if head.components else {})
    if not head.is_many:
        return known | {"loraland": abouts[0] | shared}
    if len(abouts) == 1:
        return known | {"loraland": abouts[0] | shared | {"index": answers[0].index}}
    choices = [about | {"index": answer.index} for about, answer in zip(abouts, answers, strict=True)]
    return known | {"loraland": {"digest": head.digest} | shared | {"choices": choices}}


def _about(head: Head, answer: Answer) -> Body:
    about = asdict(answer.finished.stats)
    about["dropped_turns"] += len(head.told.get("unused_messages", ()))
    del about["logit_delta"]
    if not about["defaults"]:
        del about["defaults"]
    if about["invoked_at"] is None:
        del about["invoked_at"]
    elif answer.finished.stats.is_uninvoked:
        about["invoked_at"] = None
    return about | {"digest": head.digest, "generation": answer.generation, "reason": answer.finished.reason}


def _usage(usage: Usage) -> Body:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _token(token: Alternative) -> Body:
    """A token as chats tell it. Bytes of an answer's tokens, joined, are its text; a control token stands for none."""
    data = b"" if token.is_special else token.data
    return {"token": token.token, "logprob": token.logprob, "bytes": list(data)}
