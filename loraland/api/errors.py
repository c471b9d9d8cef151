"""Errors in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``, whatever went wrong."""

from __future__ import annotations

import logging
from typing import Any, Final

from django.core.exceptions import RequestDataTooBig
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError, ValidationError

from inference.wire.contract import WireError
from inference.wire.failures import meaning_of
from inference.wire.protocol import Failed
from loraland import outage
from loraland.refusal import Refused, status_of

logger = logging.getLogger(__name__)

PATH: Final = "/v1/"
"""Where programs ask, and are told errors in the shape of this module."""
TYPES: Final = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
UNAVAILABLE: Final = "The answering service cannot be reached; try again in a moment."


class ApiError(Exception):
    """A request that is answered with an error. `param` names the field at fault, if one is."""

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> HttpResponse:
        response = JsonResponse(self.body(), status=self.status)
        if self.status == 401:
            response["WWW-Authenticate"] = "Bearer"
        if self.retry_after is not None:
            response["Retry-After"] = str(self.retry_after)
        return response


def of_failure(failure: Failed) -> ApiError:
    """The error that tells why an accepted request has no answer."""
    status = status_of(failure.code)
    code = "context_length_exceeded" if meaning_of(failure.code).fault == "text" else failure.code
    return ApiError(status, code, failure.error, retry_after=5 if status == 503 else None)


def of_refusal(refusal: Refused) -> ApiError:
    return ApiError(refusal.status, refusal.code, refusal.sentence, refusal.param, refusal.retry_after)


def of_outage() -> ApiError:
    """The error that tells of a database or a disk that cannot do its work now."""
    return ApiError(503, "unavailable", outage.SENTENCE, retry_after=outage.RETRY_SECONDS)


def of_validation(error: ValidationError) -> ApiError:
    """The first thing that is wrong with a request's body, with the path to it as `param`."""
    first = error.errors[0]
    param = ".".join(str(part) for part in first["loc"][2:]) or None
    if first["type"] == "extra_forbidden":
        return ApiError(
            400, "unknown_parameter", f"The parameter {param!r} is not supported here; leave it out.", param
        )
    if first["type"] == "missing":
        return ApiError(400, "missing_required_parameter", f"The parameter {param or 'body'!r} is missing.", param)
    message = first["msg"].removeprefix("Value error, ")
    return ApiError(400, "invalid_value", f"{param}: {message}" if param else message, param)


SHAPES: Final[dict[type[Exception], Any]] = {
    ApiError: lambda error: error,
    Refused: of_refusal,
    ValidationError: of_validation,
    AuthenticationError: lambda error: ApiError(
        401, "invalid_api_key", "No valid API key was given; send it as 'Authorization: Bearer ll_…'."
    ),
    RequestDataTooBig: lambda error: ApiError(413, "request_too_large", "The request's body is too large."),
    HttpError: lambda error: ApiError(error.status_code, "invalid_request", str(error)),
    Http404: lambda error: ApiError(404, "not_found", "There is nothing at this address."),
    WireError: lambda error: ApiError(503, "unavailable", UNAVAILABLE, retry_after=5),
}
"""How each kind of exception is told."""


def install(api: NinjaAPI) -> None:
    """Let `api` answer every exception in OpenAI's shape."""
    for kind in (*SHAPES, Exception):
        api.add_exception_handler(kind, _answered)


def _answered(request: HttpRequest, error: Any) -> HttpResponse:
    return told(error, request.path)


def told(error: Exception, path: str) -> HttpResponse:
    """What a program is told that asked at `path` and met `error`."""
    return api_error(error, path).response()


def api_error(error: Exception, path: str) -> ApiError:
    """`error` as a program is told of it; one that nobody expected is noted with the `path` that met it."""
    if shape := next((SHAPES[kind] for kind in type(error).__mro__ if kind in SHAPES), None):
        return shape(error)  # type: ignore[no-any-return]
    if outage.is_outage(error):
        outage.note(error, path[:200])
        return of_outage()
    logger.error("Failed to answer %s", path, exc_info=error)
    return ApiError(500, "internal", "Something went wrong on our side; try again.")
