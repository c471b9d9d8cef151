"""The addresses of programs outside ``/v1``, where servers of language models have them, and the door before each: no
cookie counts there and no form's token is asked for, and what goes wrong is told as JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import pydantic
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.views.decorators.csrf import csrf_exempt
from ninja.errors import AuthenticationError

from loraland.api import errors
from loraland.api.addresses import shape_for
from loraland.api.authentication import KeyHolder, visitor_of
from loraland.api.parsing import read_json
from loraland.generations.visitor import Visitor

View = Callable[[HttpRequest], Coroutine[Any, Any, HttpResponseBase]]
Asked = TypeVar("Asked", bound=pydantic.BaseModel)

SAFE: Final = ("GET", "HEAD")
STRANGER: Final = Visitor(None, "", "")


def opened(*methods: str) -> Callable[[View], View]:
    """A view behind its door: other `methods` are refused, and every exception is told in the address's shape."""

    def behind(view: View) -> View:
        async def guarded(request: HttpRequest) -> HttpResponseBase:
            try:
                if request.method not in methods:
                    raise _wrong_method(request, methods)
                return await view(request)
            except Exception as error:
                response = (shape_for("POST", request.path) or errors.told)(error, request.path)
                if response.status_code == 405:
                    response["Allow"] = ", ".join(methods)
                return response

        return csrf_exempt(guarded)

    return behind


def body_of(request: HttpRequest, kind: type[Asked]) -> Asked:
    """The request's body as a `kind`. Raises `ApiError`, and `Misfit` for the first thing wrong."""
    data = read_json(request.body)
    try:
        return kind.model_validate(data)
    except pydantic.ValidationError as error:
        raise errors.Misfit([dict(each) for each in error.errors(include_url=False)], data) from error


async def caller(request: HttpRequest) -> Visitor:
    """Whose key the request shows. Raises ninja's `AuthenticationError` when there is none."""
    request.auth = await _key(request)  # type: ignore[attr-defined]
    return visitor_of(request)


async def caller_if_any(request: HttpRequest) -> Visitor:
    """Whose key the request shows, a stranger if it shows none. A key that is none is refused all the same."""
    return await caller(request) if "Authorization" in request.headers else STRANGER


async def _key(request: HttpRequest) -> Any:
    waiting = KeyHolder()(request)
    key = None if waiting is None else await waiting
    if key is None:
        raise AuthenticationError
    return key


def _wrong_method(request: HttpRequest, methods: tuple[str, ...]) -> errors.ApiError:
    sentence = f"{request.path} takes {' and '.join(methods)}, not {request.method}."
    return errors.ApiError(405, "method_not_allowed", sentence)
