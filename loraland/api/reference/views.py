"""The page of the API: every address and parameter, generated, with calls to copy."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from loraland.api.reference.document import document
from loraland.api.reference.examples import EXAMPLES
from loraland.api.reference.operations import operations


def reference(request: HttpRequest) -> HttpResponse:
    """What this site's API takes, beside examples at this site's own address."""
    site = f"{request.scheme}://{request.get_host()}"
    examples = [(example, example.curl(site)) for example in EXAMPLES]
    context = {"site": site, "operations": operations(document()), "examples": examples}
    return render(request, "api/reference.html", context)
