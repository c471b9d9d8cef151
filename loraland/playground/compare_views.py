"""The compare pages: columns to choose, and a comparison that its address brings back."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import quote
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from inference.wire.protocol import Sampling
from loraland import bases
from loraland.bases import BASE
from loraland.catalogue import listing
from loraland.catalogue.composition import base_of
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.versions import Reader
from loraland.generations.visitor import visitor_of
from loraland.playground import comparisons, pages, picking
from loraland.playground.composer import composer_of, example_prompt
from loraland.playground.messages import MAX_COLUMNS, MIN_COLUMNS, Prompt
from loraland.playground.models import Comparison
from loraland.playground.pages import ColumnView
from loraland.playground.partner import Partner, version_in
from loraland.playground.sampling import defaults
from loraland.refusal import refused_is_not_found


@never_cache
@require_GET
def compare(request: HttpRequest) -> HttpResponse:
    """Columns as the address names them, made two at least; an example fills the fields and sends nothing."""
    names = request.GET.getlist("column") or request.GET.get("columns", "").split(",")
    competitors = _competitors([name.strip() for name in names if name.strip()], request.user)
    lead = comparisons.lead_of(competitors)
    prompt = example_prompt(lead, request.GET.get("example", ""))
    return _page(request, competitors, pages.empty_columns(competitors), defaults(lead), prompt)


@never_cache
@require_GET
def comparison(request: HttpRequest, id: UUID) -> HttpResponse:
    with refused_is_not_found():
        kept = comparisons.comparison_of(visitor_of(request), id)
    columns = comparisons.columns_of(kept)
    shown = pages.asked_columns(columns, comparisons.expected_in(kept, columns))
    prompt = Prompt(kept.text, kept.inputs)
    return _page(request, list(map(comparisons.column_partner, columns)), shown, kept.chosen, prompt, kept)


def _page(
    request: HttpRequest,
    competitors: list[Partner],
    columns: list[ColumnView],
    sampling: Sampling,
    prompt: Prompt | None,
    kept: Comparison | None = None,
) -> HttpResponse:
    lead = comparisons.lead_of(competitors)
    names = [column.name for column in columns]
    context = {
        "columns": [
            replace(column, fewer=_address(names[:at] + names[at + 1 :]), choice=_choice(names, at))
            for at, column in enumerate(columns)
        ],
        "lead": lead,
        "composer": composer_of(lead, sampling, prompt),
        "comparison": kept,
        "expected": kept.expected if kept else "",
        "picks": picking.Picks("", "", picking.Aim(tuple(names)), (), 0, ""),
        "categories": picking.categories(),
        "bases": bases.served(),
        "more": _address([*names, _next(names)]) if len(names) < MAX_COLUMNS else "",
        "fewer": len(names) > MIN_COLUMNS,
        "max_input": settings.MAX_INPUT_CHARS,
    }
    return render(request, "playground/compare.html", context)


def _competitors(names: list[str], reader: Reader) -> list[Partner]:
    with refused_is_not_found():
        chosen = [comparisons.competitor(name, reader) for name in names[:MAX_COLUMNS]]
    if not chosen and (first := listing.first()):
        chosen = [AdapterVersion.objects.shown().named(first)]
    beside = base_of(version_in(chosen[0])) if chosen else bases.default()
    return chosen + [beside] * (MIN_COLUMNS - len(chosen))


def _next(names: list[str]) -> str:
    """The first base that no column has yet, else the first adapter that none has."""
    if unseen := next((base.called for base in bases.served() if base.called not in names), ""):
        return unseen
    slugs = {name.split("@")[0] for name in names}
    return listing.first(slugs) or BASE


def _choice(names: list[str], position: int) -> str:
    return f"{_address(names)}&position={position}"


def _address(names: list[str]) -> str:
    return "?columns=" + quote(",".join(names), safe=",:@")
