"""Answers in OpenAI's shapes: whole or in chunks, of a chat or of a plain completion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

from inference.wire.protocol import Alternative, Finished, Stats, TokenLogprob

FINISH_REASONS: Final = {"done": "stop", "length": "length", "stopped": "stop"}


@dataclass(frozen=True)
class Head:
    """What every piece of one answer repeats; `created` is in seconds since 1970."""

    generation: str
    model: str
    created: int
    digest: str
    components: Sequence[dict[str, Any]] = ()
    """The versions that were added up, with their digests and weights."""

    def piece(self, prefix: str, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"{prefix}-{self.generation}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


class Shape(Protocol):
    """How one kind of completion is written down."""

    def whole(self, head: Head, text: str, logprobs: Sequence[TokenLogprob], finished: Finished) -> dict[str, Any]: ...

    def opening(self, head: Head) -> dict[str, Any] | None:
        """The chunk before the first text, if there is one."""

    def chunk(self, head: Head, text: str, logprobs: Sequence[TokenLogprob], at: int) -> dict[str, Any]:
        """A piece of the text that begins at its character `at`."""

    def closing(self, head: Head, finished: Finished) -> dict[str, Any]:
        """The chunk that tells why the text ends."""

    def tally(self, head: Head, stats: Stats) -> dict[str, Any]:
        """The chunk without choices that carries the usage."""


class Chat:
    """``chat.completion`` and its chunks."""

    def __init__(self, with_logprobs: bool) -> None:
        self._with_logprobs = with_logprobs

    def whole(self, head: Head, text: str, logprobs: Sequence[TokenLogprob], finished: Finished) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": self._logprobs(logprobs)}
        choice["finish_reason"] = FINISH_REASONS[finished.reason]
        return head.piece("chatcmpl", "chat.completion", [choice]) | conclusion(head, finished, usage=True)

    def opening(self, head: Head) -> dict[str, Any] | None:
        return self._chunk(head, {"role": "assistant", "content": "", "refusal": None}, None, None)

    def chunk(self, head: Head, text: str, logprobs: Sequence[TokenLogprob], at: int) -> dict[str, Any]:
        return self._chunk(head, {"content": text}, self._logprobs(logprobs), None)

    def closing(self, head: Head, finished: Finished) -> dict[str, Any]:
        return self._chunk(head, {}, None, FINISH_REASONS[finished.reason]) | conclusion(head, finished, usage=False)

    def tally(self, head: Head, stats: Stats) -> dict[str, Any]:
        return head.piece("chatcmpl", "chat.completion.chunk", []) | {"usage": _usage(stats)}

    def _chunk(self, head: Head, delta: dict[str, Any], logprobs: Any, reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return head.piece("chatcmpl", "chat.completion.chunk", [choice]) | {"system_fingerprint": None}

    def _logprobs(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self._with_logprobs:
            return None
        content = [_token(token) | {"top_logprobs": [_token(other) for other in token.top]} for token in logprobs]
        return {"content": content, "refusal": None}


class Plain:
    """``text_completion``, whole and in chunks."""

    def __init__(self, with_logprobs: bool) -> None:
        self._with_logprobs = with_logprobs

    def whole(self, head: Head, text: str, logprobs: Sequence[TokenLogprob], finished: Finished) -> dict[str, Any]:
        piece = self._piece(head, text, self._logprobs(logprobs, 0), FINISH_REASONS[finished.reason])
        return piece | conclusion(head, finished, usage=True)

    def opening(self, head: Head) -> dict[str, Any] | None:
        return None

    def chunk(self, head: Head, text: str, logprobs: Sequence[TokenLogprob], at: int) -> dict[str, Any]:
        return self._piece(head, text, self._logprobs(logprobs, at), None)

    def closing(self, head: Head, finished: Finished) -> dict[str, Any]:
        piece = self._piece(head, "", None, FINISH_REASONS[finished.reason])
        return piece | conclusion(head, finished, usage=False)

    def tally(self, head: Head, stats: Stats) -> dict[str, Any]:
        return head.piece("cmpl", "text_completion", []) | {"usage": _usage(stats)}

    def _piece(self, head: Head, text: str, logprobs: Any, reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": reason}
        return head.piece("cmpl", "text_completion", [choice]) | {"system_fingerprint": None}

    def _logprobs(self, logprobs: Sequence[TokenLogprob], at: int) -> dict[str, Any] | None:
        if not self._with_logprobs:
            return None
        offsets = []
        for token in logprobs:
            offsets.append(at)
            at += len(token.token)
        return {
            "tokens": [named(token) for token in logprobs],
            "token_logprobs": [token.logprob for token in logprobs],
            "top_logprobs": [{named(one): one.logprob for one in (*token.top, token)} for token in logprobs],
            "text_offset": offsets,
        }


def conclusion(head: Head, finished: Finished, usage: bool) -> dict[str, Any]:
    """What is known at the end: the numerics' fingerprint, our own numbers, and the usage if it goes with them."""
    stats = finished.stats
    about = asdict(stats) | {"digest": head.digest, "generation": head.generation, "reason": finished.reason}
    del about["logit_delta"]
    if head.components:
        about["components"] = list(head.components)
    known = {"system_fingerprint": stats.fingerprint or None, "loraland": about}
    return known | {"usage": _usage(stats)} if usage else known


def _usage(stats: Stats) -> dict[str, Any]:
    return {
        "prompt_tokens": stats.prompt_tokens,
        "completion_tokens": stats.completion_tokens,
        "total_tokens": stats.prompt_tokens + stats.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": stats.cached_tokens},
    }


def named(token: Alternative) -> str:
    """A token as completions name it: its text, or where that is not all of it its bytes, as ``bytes:\\xf0\\x9f``."""
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.data) if token.hex else token.token


def _token(token: Alternative) -> dict[str, Any]:
    """A token as chats tell it. Bytes of an answer's tokens, joined, are its text; a control token stands for none."""
    data = None if token.is_special else list(token.data)
    return {"token": token.token, "logprob": token.logprob, "bytes": data}
