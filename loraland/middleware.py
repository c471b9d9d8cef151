"""Django's middleware for programs, without the changes of thread: it looks at nothing but the request's headers."""

from __future__ import annotations

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.middleware.common import CommonMiddleware
from django.middleware.security import SecurityMiddleware
from django.utils.deprecation import MiddlewareMixin


class OnTheLoop(MiddlewareMixin):
    """Takes the steps of a synchronous middleware on the event loop, where Django takes each in a thread."""

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.process_request(request) or await self.get_response(request)  # type: ignore[attr-defined,misc]
        return self.process_response(request, response)  # type: ignore[attr-defined,no-any-return]


class Security(OnTheLoop, SecurityMiddleware):
    pass


class Common(OnTheLoop, CommonMiddleware):
    pass
