"""Answers in LoRAX's shape, and in TGI's where that tells more: whole, or an event a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inference.wire.protocol import Alternative, Delta, Prompted, Stats, TokenLogprob
from loraland.api.errors import ApiError
from loraland.api.lorax import errors
from loraland.api.lorax.asked import GenerateRequest
from loraland.api.lorax.spelling import Ending, Spelled, Spelling
from loraland.api.shape import Answer, Body, Head, Usage
from loraland.bases import BASE


class Generated:
    """The answers to one call. `is_list` wraps the whole body in a list, as the Inference API did."""

    done = ""
    names_events = False

    def __init__(self, asked: GenerateRequest, is_list: bool = False) -> None:
        self._asked, self._parameters, self._is_list = asked, asked.parameters, is_list
        self._spelling = Spelling(self._parameters.stops)
        self._num_told = 0
        self._stats: list[Stats] = []

    # whole

    def whole(self, head: Head, answers: Sequence[Answer], usage: Usage) -> Any:
        self._stats = [answer.finished.stats for answer in answers]
        first, *others = sorted(answers, key=mean_logprob, reverse=True)
        told = self._sequence(first)
        body: Body = {"generated_text": told.pop("generated_text")}
        if self._parameters.details or self._parameters.decoder_input_details:
            more = {"best_of_sequences": [self._sequence(other) for other in others]} if others else {}
            body["details"] = {"prompt_tokens": first.finished.stats.prompt_tokens} | told | more
        return [body] if self._is_list else body

    def _sequence(self, answer: Answer) -> Body:
        spelling = Spelling(self._parameters.stops)
        spelled = spelling.push(Delta("", answer.text, answer.token_ids, answer.logprobs))
        ending = spelling.end(answer.finished)
        spelled += ending.last
        top = {"top_tokens": [self._top(each.token) for each in spelled]} if self._parameters.top_n_tokens else {}
        return {
            "generated_text": self._prompt + ending.text,
            "finish_reason": ending.reason,
            "generated_tokens": answer.finished.stats.completion_tokens,
            "seed": self._seed(answer.finished.stats),
            "prefill": _prefill(answer.prompted),
            "tokens": list(map(self._token, spelled)),
            **top,
        }

    # streamed

    def opening(self, head: Head, index: int) -> list[Body]:
        return []

    def prompted(self, head: Head, index: int, prompted: Prompted) -> list[Body]:
        return []

    def chunk(self, head: Head, index: int, delta: Delta, at: int) -> list[Body]:
        return [self._event(spelled) for spelled in self._spelling.push(delta)]

    def closing(self, head: Head, answer: Answer) -> list[Body]:
        """The last token with the whole text; an answer whose tokens are gone has none."""
        ending = self._spelling.end(answer.finished)
        if not (ending.last and ending.is_whole):
            sentence = "The tokens of this answer are gone; ask for it again."
            return [errors.body(ApiError(500, "lost", sentence))]
        return [self._event(ending.last[0]) | self._conclusion(ending, answer.finished.stats)]

    def tally(self, head: Head, usage: Usage) -> list[Body]:
        return []

    def failure(self, error: ApiError) -> Body:
        return dict(errors.body(error, was_accepted=True))

    def _event(self, spelled: Spelled) -> Body:
        self._num_told += 1
        top = {"top_tokens": self._top(spelled.token)} if self._parameters.top_n_tokens else {}
        event: Body = {"index": self._num_told, "token": self._token(spelled), **top}
        return event | {"generated_text": None, "details": None}

    def _conclusion(self, ending: Ending, stats: Stats) -> Body:
        details = {
            "finish_reason": ending.reason,
            "prompt_tokens": stats.prompt_tokens,
            "input_length": stats.prompt_tokens,
            "generated_tokens": stats.completion_tokens,
            "seed": self._seed(stats),
        }
        return {"generated_text": self._prompt + ending.text, "details": details if self._parameters.details else None}

    # both

    @property
    def headers(self) -> dict[str, str]:
        """What LoRAX tells of an answer in headers, the times in milliseconds. A stream's begin before its end."""
        name = self._asked.answered_by
        adapter = {} if name.partition(":")[0] == BASE else {"x-adapter-id": name}
        return {"x-model-id": self._asked.base.name} | adapter | (_costs(self._stats) if self._stats else {})

    @property
    def _prompt(self) -> str:
        return self._asked.inputs if self._parameters.return_full_text else ""

    def _seed(self, stats: Stats) -> int | None:
        return stats.seed if self._parameters.samples else None

    def _token(self, spelled: Spelled) -> Body:
        token = spelled.token
        told: Body = {
            "id": token.token_id,
            "text": token.token if token.is_special else spelled.text,
            "logprob": token.logprob,
            "special": token.is_special,
        }
        if most := self._parameters.return_k_alternatives:
            told["alternative_tokens"] = list(map(_scored, token.top[:most]))
        return told

    def _top(self, token: TokenLogprob) -> list[Body]:
        return [_scored(other) | {"special": other.is_special} for other in token.top[: self._parameters.top_n_tokens]]


def mean_logprob(answer: Answer) -> float:
    """How likely an answer was, token by token: by this LoRAX chooses the best."""
    return sum(token.logprob for token in answer.logprobs) / max(len(answer.logprobs), 1)


def _scored(token: Alternative) -> Body:
    return {"id": token.token_id, "text": token.token, "logprob": token.logprob}


def _prefill(tokens: Sequence[TokenLogprob]) -> list[Body]:
    """The prompt's tokens. Of the first nobody can say how likely it was."""
    return [_scored(token) | ({} if place else {"logprob": None}) for place, token in enumerate(tokens)]


def _costs(stats: list[Stats]) -> dict[str, str]:
    prompt, answer = stats[0].prompt_tokens, sum(each.completion_tokens for each in stats)
    total = max(each.total_ms for each in stats)
    queue = min(each.queue_ms for each in stats)
    numbers = {
        "x-prompt-tokens": prompt,
        "x-generated-tokens": answer,
        "x-total-tokens": prompt + answer,
        "x-total-time": total,
        "x-queue-time": queue,
        "x-inference-time": total - queue,
        "x-time-per-token": (total - queue) / max(answer, 1),
    }
    return {name: str(round(number)) for name, number in numbers.items()}
