"""Errors in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``, whatever went wrong."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from django.core.exceptions import RequestDataTooBig
from django.http import Http404, HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError, ValidationError, ValidationErrorContext

from inference.wire.contract import WireError
from inference.wire.failures import meaning_of
from inference.wire.protocol import Failed
from loraland import outage
from loraland.api.failing import ApiError as ApiError
from loraland.api.parsing import read_json
from loraland.api.wrong_values import explain
from loraland.refusal import Refused, status_of

logger = logging.getLogger(__name__)

PATH: Final = "/v1/"
"""Where programs ask, and are told errors in the shape of this module."""
UNAVAILABLE: Final = "The answering service cannot be reached; try again in a moment."


def of_failure(failure: Failed) -> ApiError:
    """The error that tells why an accepted request has no answer."""
    status, passes = status_of(failure.code), meaning_of(failure.code).passes
    code = "context_length_exceeded" if meaning_of(failure.code).fault == "text" else failure.code
    return ApiError(status, code, failure.error, retry_after=failure.retry_after or (5 if passes else None))


def of_refusal(refusal: Refused) -> ApiError:
    if meaning_of(refusal.code).fault == "text":
        return ApiError(400, "context_length_exceeded", refusal.sentence, refusal.param)
    return ApiError(refusal.status, refusal.code, refusal.sentence, refusal.param, refusal.retry_after)


def of_outage() -> ApiError:
    """The error that tells of a database or a disk that cannot do its work now."""
    return ApiError(503, "unavailable", outage.SENTENCE, retry_after=outage.RETRY_SECONDS)


class Misfit(Exception):
    """A body or a query that is not what an address takes: what pydantic found, and in what."""

    def __init__(self, errors: Sequence[Mapping[str, Any]], given: Any) -> None:
        super().__init__("a request is not what its address takes")
        self.errors = errors
        self.given = given


class Api(NinjaAPI):
    """Tells every exception in OpenAI's shape, and what is wrong with a body in our own words."""

    def validation_error_from_error_contexts(
        self, error_contexts: list[ValidationErrorContext[Any]]
    ) -> ValidationError:
        """The same with the values at fault, which Ninja leaves out."""
        return ValidationError([error for each in error_contexts for error in _errors(each)])


def _errors(context: ValidationErrorContext[Any]) -> list[dict[str, Any]]:
    errors = context.pydantic_validation_error.errors(include_url=False)
    source, flat = context.model.__ninja_param_source__, context.model.__ninja_flatten_map_reverse__
    return [dict(error) | {"loc": (source, *flat.get(error["loc"], error["loc"]))} for error in errors]


def misfit(error: ValidationError, request: HttpRequest) -> Misfit:
    """What Ninja found in `request`. It puts the source first, and before a body's own names what our view calls it."""
    source = error.errors[0]["loc"][0]
    errors = [each for each in error.errors if each["loc"][0] == source]
    if source == "body":
        given = read_json(request.body) if request.body else None
        return Misfit([each | {"loc": each["loc"][2:]} for each in errors], given)
    return Misfit([each | {"loc": each["loc"][1:]} for each in errors], request.GET.dict())


def of_misfit(error: Misfit) -> ApiError:
    found = explain(error.errors, error.given)
    return ApiError(400, found.code, found.sentence, found.param)


def of_http_error(error: HttpError) -> ApiError:
    """What Ninja says; of a body that could not be read, what its reader said."""
    cause = error.__cause__
    return cause if isinstance(cause, ApiError) else ApiError(error.status_code, "invalid_request", str(error))


SHAPES: Final[dict[type[Exception], Any]] = {
    ApiError: lambda error: error,
    Refused: of_refusal,
    Misfit: of_misfit,
    AuthenticationError: lambda error: ApiError(
        401, "invalid_api_key", "No valid API key was given; send it as 'Authorization: Bearer ll_…'."
    ),
    RequestDataTooBig: lambda error: ApiError(413, "request_too_large", "The request's body is too large."),
    HttpError: of_http_error,
    Http404: lambda error: ApiError(404, "not_found", "There is nothing at this address."),
    WireError: lambda error: ApiError(503, "unavailable", UNAVAILABLE, retry_after=5),
}
"""How each kind of exception is told."""


def install(api: NinjaAPI) -> None:
    """Let `api` answer every exception in OpenAI's shape."""
    for kind in (*SHAPES, ValidationError, Exception):
        api.add_exception_handler(kind, _answered)


def _answered(request: HttpRequest, error: Any) -> HttpResponse:
    return told(misfit(error, request) if isinstance(error, ValidationError) else error, request.path)


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
