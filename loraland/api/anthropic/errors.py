"""Errors in Anthropic's shape: ``{"type": "error", "error": {"type", "message"}}``."""

from __future__ import annotations

from typing import Any, Final, TypeVar
from uuid import uuid4

from django.http import HttpResponse, JsonResponse
from django.http.response import HttpResponseBase

from loraland.api import errors
from loraland.api.failing import ApiError

Response = TypeVar("Response", bound=HttpResponseBase)
TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def told(error: Exception, path: str) -> HttpResponse:
    """What a program is told that asked at `path` and met `error`."""
    found = errors.api_error(error, path)
    found.request_id = found.request_id or uuid4().hex
    response = JsonResponse(body(found), status=found.status)
    for name, value in found.response().items():
        if name not in ("Content-Type", "Content-Length"):
            response[name] = value
    return identified(response, found.request_id)


def identified(response: Response, id: str) -> Response:
    """`response` with the id by which Anthropic's clients name it; it is that of the answer, if one had begun."""
    response["Request-Id"] = response["X-Request-Id"] = id
    return response


def body(error: ApiError) -> dict[str, Any]:
    kind = TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    told = {"type": kind, "message": error.message}
    return {"type": "error", "error": told, "request_id": error.request_id or None}
