"""WhiteNoise in one colour: the same middleware, without a thread for every request that it passes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.contrib.staticfiles.storage import ManifestFilesMixin
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from whitenoise.middleware import WhiteNoiseMiddleware

Passed = HttpResponseBase | Awaitable[HttpResponseBase]


class StaticFiles(WhiteNoiseMiddleware):  # type: ignore[misc]
    """Serves static files, and hands every other request on in the way, sync or async, in which it came.

    WhiteNoise itself is synchronous only: in the middle of an asynchronous chain it holds a thread until the
    answer ends, and answers take minutes here.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Passed]) -> None:
        super().__init__(get_response)
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        if iscoroutinefunction(self):
            return self._acall(request)
        return super().__call__(request)

    def add_file_to_dictionary(self, url: str, path: str, stat_cache: Any = None) -> None:
        """Serve every file but the list of them all, which is for the templates."""
        if not url.endswith(f"/{ManifestFilesMixin.manifest_name}"):
            super().add_file_to_dictionary(url, path, stat_cache)

    async def _acall(self, request: HttpRequest) -> HttpResponseBase:
        if request.path_info.startswith(self.static_prefix):
            found = await sync_to_async(self._read, thread_sensitive=False)(request)
            if found is not None:
                return found
        passed: HttpResponseBase = await self.get_response(request)
        return passed

    def _read(self, request: HttpRequest) -> HttpResponse | None:
        """The file as a whole: an asynchronous server would read a synchronous stream to its end anyway."""
        path = request.path_info
        file = self.find_file(path) if self.autorefresh else self.files.get(path)
        if file is None:
            return None
        with closing(self.serve(file, request)) as served:
            return HttpResponse(b"".join(served), status=served.status_code, headers=dict(served.items()))
