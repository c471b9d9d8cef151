"""Django's middleware as it is needed here: for pages compressed, for programs without the changes of thread; and
what a page answers that cannot be had just now."""

from __future__ import annotations

from typing import Final

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.middleware.common import CommonMiddleware
from django.middleware.gzip import GZipMiddleware
from django.middleware.security import SecurityMiddleware
from django.utils.deprecation import MiddlewareMixin
from redis.exceptions import RedisError

from loraland.api.failing import ApiError
from loraland.broken import not_now
from loraland.edge.hashing import Busy

RETRY_SECONDS: Final = 5
NOT_NOW: Final[dict[type[Exception], str]] = {
    Busy: "Too many people are signing in at once. Try again in a few seconds.",
    RedisError: "What counts attempts cannot be reached. Try again in a moment.",
}
"""What a page may be kept from by others, and what it says then."""

COMPRESSED: Final = frozenset({"text/html", "text/csv", "text/plain", "application/json"})


class OnTheLoop(MiddlewareMixin):
    """Takes the steps of a synchronous middleware on the event loop, where Django takes each in a thread.

    For those alone that look at nothing but a request's headers.
    """

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.process_request(request) or await self.get_response(request)  # type: ignore[attr-defined,misc]
        return self.process_response(request, response)  # type: ignore[attr-defined,no-any-return]


class Compress(GZipMiddleware):
    """Compresses pages and tables. A stream goes on piece by piece: compressed, its pieces would wait for one another.

    Django masks the token of forms anew in each page and adds bytes by chance, so that its length tells no secret.
    """

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        is_text = response.get("Content-Type", "").partition(";")[0] in COMPRESSED
        if response.streaming or not is_text:
            return response
        return super().process_response(request, response)


class Security(OnTheLoop, SecurityMiddleware):
    pass


class Common(OnTheLoop, CommonMiddleware):
    pass


class OneShape(OnTheLoop):
    """Tells a program in the one shape of errors that an address does not take its method."""

    def process_request(self, request: HttpRequest) -> None:
        return None

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        if response.status_code != 405 or response.get("Content-Type", "").startswith("application/json"):
            return response
        allowed = ", ".join(sorted(response.get("Allow", "").replace(" ", "").split(",")))
        sentence = f"{request.path[:200]} takes {allowed.replace(', ', ' and ')}, not {request.method}."
        refusal = ApiError(405, "method_not_allowed", sentence).response()
        refusal["Allow"] = allowed
        return refusal


class NotNow(MiddlewareMixin):
    """Answers 503 with a sentence where a page failed for a reason that passes."""

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        sentence = next((sentence for kind, sentence in NOT_NOW.items() if isinstance(error, kind)), None)
        return not_now(sentence, RETRY_SECONDS, request) if sentence else None
