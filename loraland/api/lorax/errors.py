"""Errors in LoRAX's shape: ``{"error": text, "error_type": word}``, which its clients and TGI's raise by the word."""

from __future__ import annotations

from typing import Final

from django.http import HttpResponse, JsonResponse

from loraland.api import errors
from loraland.api.errors import ApiError

VALIDATION: Final = "validation"
OVERLOADED: Final = "overloaded"
GENERATION: Final = "generation"
INCOMPLETE: Final = "incomplete_generation"
ADAPTERS_FAULT: Final = 422
OVERFLOW: Final = 429
STATUSES: Final = {VALIDATION: 422, OVERLOADED: 429, GENERATION: 424, INCOMPLETE: 500}
OTHER: Final = {401: "authentication", 404: "not_found", 405: "method_not_allowed"}
"""Kinds that LoRAX has no word for: its client then goes by the status."""


class Unanswered(Exception):
    """A request that was accepted and has no answer, by reason of `error`."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.message)
        self.error = error


def told(error: Exception, path: str) -> HttpResponse:
    """What a program is told that asked at `path` and met `error`."""
    if isinstance(error, Unanswered):
        return response(error.error, was_accepted=True)
    return response(errors.api_error(error, path))


def response(error: ApiError, was_accepted: bool = False) -> HttpResponse:
    kind = kind_of(error, was_accepted)
    answer = JsonResponse(body(error, was_accepted), status=STATUSES.get(kind, error.status))
    for name, value in error.response().items():
        if name not in ("Content-Type", "Content-Length"):
            answer[name] = value
    return answer


def body(error: ApiError, was_accepted: bool = False) -> dict[str, str]:
    return {"error": error.message, "error_type": kind_of(error, was_accepted)}


def kind_of(error: ApiError, was_accepted: bool = False) -> str:
    """LoRAX's word for `error`. What passes by itself is an overload before a request is accepted; one that was
    accepted and has no answer, or only a part of it, failed while it was generated.
    """
    if error.status in OTHER:
        return OTHER[error.status]
    if error.status < 500 and error.status not in (ADAPTERS_FAULT, OVERFLOW):
        return VALIDATION
    if was_accepted or error.status == ADAPTERS_FAULT:
        return GENERATION
    return INCOMPLETE if error.retry_after is None else OVERLOADED
