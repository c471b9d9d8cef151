"""What a request is told that ended in an exception which nobody answered."""

from __future__ import annotations

import sys

from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.views.defaults import server_error

from loraland import outage
from loraland.api import errors
from loraland.api.addresses import shape_for


def broken(request: HttpRequest) -> HttpResponse:
    """503 and when to come back while the store fails, whichever middleware or view met it; else 500."""
    error = sys.exc_info()[1]
    if error is None or not outage.is_outage(error):
        return server_error(request)
    outage.note(error, request.path[:200])
    if shape := shape_for(request.method or "", request.path):
        return shape(errors.of_outage(), request.path)
    return not_now(outage.SENTENCE, outage.RETRY_SECONDS)


def not_now(sentence: str, seconds: int, request: HttpRequest | None = None) -> HttpResponse:
    """The page of what cannot be had now: `sentence`, and in how many `seconds` to try again.

    Without a `request` it is made without the database, and knows no user.
    """
    headers = {"Retry-After": str(seconds), "Cache-Control": "no-store"}
    return HttpResponse(render_to_string("503.html", {"sentence": sentence}, request), status=503, headers=headers)
