"""What a request is told that ended in an exception which nobody answered."""

from __future__ import annotations

import sys

from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.views.defaults import server_error

from loraland import outage
from loraland.api.errors import of_outage


def broken(request: HttpRequest) -> HttpResponse:
    """503 and when to come back while the store fails, whichever middleware or view met it; else 500.

    The page is made without the database: it knows no user.
    """
    error = sys.exc_info()[1]
    if error is None or not outage.is_outage(error):
        return server_error(request)
    outage.note(error, request.path[:200])
    if request.path.startswith("/v1/"):
        return of_outage().response()
    headers = {"Retry-After": str(outage.RETRY_SECONDS), "Cache-Control": "no-store"}
    return HttpResponse(render_to_string("503.html", {"sentence": outage.SENTENCE}), status=503, headers=headers)
