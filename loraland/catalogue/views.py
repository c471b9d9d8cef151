"""The catalogue's pages: all adapters, one adapter, and what the workers hold just now."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.cache import get_conditional_response, patch_vary_headers
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from loraland import bases
from loraland.bases import BASE
from loraland.catalogue import blends, embeddings, listing, snippets
from loraland.catalogue.categories import category_of
from loraland.catalogue.cluster import cluster_view
from loraland.catalogue.composition import recorded_name
from loraland.catalogue.finder import Facets
from loraland.catalogue.gate_words import gating_of
from loraland.catalogue.listed import ADAPTERS, BLENDS
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.residency import residency
from loraland.catalogue.score import score_of
from loraland.catalogue.windows import MORE, RESULTS, WINDOW
from loraland.edge.insiders import ais_insider
from loraland.refusal import refused_is_not_found

_SHOWN: Final = ("published", "listed", "ready", "retired")
"""States of the versions that an adapter's page lists."""
_TRAINING: Final = {
    "steps": "steps",
    "batch": "rows a step",
    "learning_rate": "learning rate",
    "max_length": "tokens a row at most",
    "seed": "seed",
    "nola_basis": "random bases",
    "invocation": "invocation",
    "minutes": "minutes",
    "loss_before": "loss before, in nats a token",
    "loss_after": "loss after",
    "loss_low": "its change, 95 % from",
    "loss_high": "to",
    "loss_rows": "rows that it is of",
}


@require_safe
def catalogue(request: HttpRequest) -> HttpResponse:
    """A window of the published adapters, filtered and sorted by the address; htmx gets the results alone, or what
    follows those that it has."""
    facets, part = listing.facets(), request.headers.get("HX-Target", "")
    query = listing.Query.of(request.GET, facets)
    shown = listing.cards(query, request.GET.get("after", ""))
    context: dict[str, Any] = {"cards": shown, "total": facets.total, "query": query}
    context["more"] = query.beyond(shown.next) if shown.next else ""
    context["offers"] = [] if shown.next else listing.offers(query)
    if part == MORE:
        response = render(request, "catalogue/window.html", context)
    else:
        context["num_found"] = query.rows.count() if query.is_filtered else facets.total
        context["num_blends"] = facets.own.get(BLENDS, 0)
        response = _whole(request, context, facets) if part != RESULTS else _results(request, context)
    patch_vary_headers(response, ["HX-Target"])
    return response


def _whole(request: HttpRequest, context: dict[str, Any], facets: Facets) -> HttpResponse:
    page = {
        "categories": facets.counted_categories,
        "counted_bases": facets.counted_bases if len(bases.served()) > 1 else [],
        "num_plain": facets.own.get(ADAPTERS, 0),
        "counted_kinds": listing.count_by_kind(facets),
        "orders": listing.ORDERS,
        "best": listing.best(),
        "bases": bases.served(),
    }
    return render(request, "catalogue/catalogue.html", context | page)


def _results(request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
    response = render(request, "catalogue/results.html", context | {"is_part": True})
    response["HX-Replace-Url"] = reverse("catalogue") + context["query"].address
    return response


@require_safe
def adapter(request: HttpRequest, slug: str) -> HttpResponse:
    """One published adapter: what it is worth, examples to try, how it was made, how to call it."""
    with refused_is_not_found():
        version = AdapterVersion.objects.shown().named(slug)
    shown = version.adapter
    origin = f"{request.scheme}://{request.get_host()}"
    parts = blends.parts_of(version)
    context = {
        "adapter": shown,
        "version": version,
        "category": category_of(shown.category),
        "gating": gating_of(version),
        "parts": parts,
        "unnamed": _unnamed(version, parts),
        "blends": blends.shown_blends_with(shown)[:WINDOW],
        "score": score_of(version.score),
        "embedding": embeddings.of(version),
        "training": [(label, version.training[key]) for key, label in _TRAINING.items() if key in version.training],
        "versions": shown.versions.seen_by(request.user).filter(status__in=_SHOWN).exclude(digest="")[:WINDOW],
        "curl": snippets.curl(version, origin),
        "python": snippets.python(version, origin),
    }
    return render(request, "catalogue/adapter.html", context)


def _unnamed(version: AdapterVersion, parts: Sequence[AdapterVersion]) -> str:
    """By what anybody may ask for the same blend without its name; empty where its gate is trained, or a part has no
    name any more."""
    can_be_named = version.gate and not version.gate["digest"] and all(part.adapter.published_id for part in parts)
    return recorded_name(version.components) if can_be_named else ""


@require_safe
async def lamp(request: HttpRequest) -> HttpResponseBase:
    """What the workers of a base hold just now, as a part of a page, which asks again and again and names what it has
    shown already; of the default base unless the address names another."""
    if (base := bases.spoken(request.GET.get("base", BASE))) is None:
        raise Http404(f"There is no such base; there is {bases.names()}.")
    held = await residency(base)
    is_shown = request.GET.get("shown") == held.key
    content = render_to_string("catalogue/lamp.html", {"residency": held, "is_shown": is_shown})
    etag = f'"{sha256(content.encode()).hexdigest()[:16]}"'
    response = HttpResponse(content, headers={"ETag": etag, "Cache-Control": "private, no-cache"})
    return get_conditional_response(request, etag=etag, response=response) or response


@require_safe
@never_cache
async def workers(request: HttpRequest) -> HttpResponse:
    """The same as a page; insiders see every worker by itself, and the cluster where there is one."""
    found = [(base, await residency(base)) for base in bases.served()]
    context: dict[str, Any] = {"bases": found}
    if await ais_insider(request):
        context["workers"] = [(base, worker) for base, held in found for worker in held.heartbeats]
        context["cluster"] = await cluster_view(found)
    return await sync_to_async(render)(request, "catalogue/workers.html", context)
