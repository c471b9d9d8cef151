"""The leaderboard, the runs behind one of its rows, and the answers in a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final
from uuid import UUID

from django.core.paginator import Paginator
from django.db.models import F
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils.cache import patch_vary_headers
from django.views.decorators.http import require_safe

from inference.tasks.verdict import VERDICTS
from loraland.catalogue.finder import Facets
from loraland.catalogue.windows import MORE, RESULTS, all_windows
from loraland.evals import leaderboard, tables
from loraland.evals.counting import answers_to_show, shown_of
from loraland.evals.models import FEWEST_ROWS, Run, RunQuerySet, Sample, Standing
from loraland.evals.task_facts import facts_of
from loraland.long_answers import long_answer

SAMPLES_A_PAGE: Final = 25
AT_ONCE: Final = 200
"""Entries that are read at once for a whole table."""
ENTRIES: Final = 25
"""What the page of a task shows of what was measured on it; the rest is found on the leaderboard."""
PARTS: Final = {RESULTS: "evals/results.html", MORE: "evals/rows.html"}
"""What htmx asks for, and with what it is drawn."""
SHARES: Final = {"": "all", "missed": "not full marks", "right": "full marks"}
"""Which samples of a run are shown."""


@require_safe
def board(request: HttpRequest) -> HttpResponse:
    """A window of the entries, filtered and sorted by the address; htmx gets the results alone, or what follows those
    that it has."""
    facets, part = leaderboard.facets(), request.headers.get("HX-Target", "")
    query = leaderboard.Query.of(request.GET, facets)
    shown = leaderboard.board(query, request.GET.get("after", ""))
    context: dict[str, Any] = {"entries": shown.entries, "total": facets.total, "query": query}
    context["more"] = query.beyond(shown.next) if shown.next else ""
    context["has_reference"] = query.rows.filter(reference__isnull=False).exists()
    context["bases"] = sorted(facets.names[key] for key in facets.bases)
    if part != MORE:
        context["num_found"] = query.rows.count() if query.is_filtered else facets.total
    response = _board_part(request, context, part) if part in PARTS else _whole_board(request, context, facets)
    patch_vary_headers(response, ["HX-Target"])
    return response


def _board_part(request: HttpRequest, context: dict[str, Any], part: str) -> HttpResponse:
    response = render(request, PARTS[part], context | {"is_part": True})
    if part == RESULTS:
        response["HX-Replace-Url"] = reverse("leaderboard") + context["query"].address
    return response


def _whole_board(request: HttpRequest, context: dict[str, Any], facets: Facets) -> HttpResponse:
    every = Standing.objects.of_today()
    page = {
        "categories": facets.counted_categories,
        "verdicts": VERDICTS,
        "fewest_rows": FEWEST_ROWS,
        "average_all": leaderboard.average(every),
        "average_clear": leaderboard.average(every.filter(is_clear=True)),
        "counted_bases": facets.counted_bases if len(context["bases"]) > 1 else [],
    }
    return render(request, "evals/leaderboard.html", context | page)


@require_safe
def board_csv(request: HttpRequest) -> HttpResponseBase:
    """The entries that the address asks for, for a spreadsheet."""
    headers = {"Content-Disposition": 'attachment; filename="leaderboard.csv"'}
    return long_answer(request, tables.as_csv(_asked(request)), "text/csv; charset=utf-8", headers)


@require_safe
def board_json(request: HttpRequest) -> HttpResponseBase:
    """The entries that the address asks for, for a program."""
    return long_answer(request, tables.as_json(_asked(request)), "application/json")


@require_safe
def task(request: HttpRequest, task: str) -> HttpResponse:
    """One task: how it is scored, and the runs over its rows that count: of very many the largest gains."""
    found = leaderboard.entries([task], ENTRIES)
    if not found:
        raise Http404(f"Nothing was measured on {task!r}.")
    runs = shown_of(task, [entry.compared for entry in found])
    context = {
        "facts": facts_of(task),
        "entries": found,
        "tests": [run for run in runs if run.split == Run.Split.TEST],
        "validation": sorted((run for run in runs if run.split != Run.Split.TEST), key=lambda run: -(run.score or 0)),
        "answers": answers_to_show(runs),
        "more": leaderboard.count([task]) - len(found),
    }
    return render(request, "evals/task.html", context)


@require_safe
def run(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The answers of one run, a page at a time; beside those of an adapter what the base said to the same rows."""
    shown = get_object_or_404(_readable(request), pk=pk)
    samples = shown.samples.all()
    if (share := request.GET.get("show", "")) == "missed":
        samples = samples.filter(earned__lt=F("possible"))
    elif share == "right":
        samples = samples.filter(earned__gte=F("possible"))
    page = Paginator(samples, SAMPLES_A_PAGE).get_page(request.GET.get("page"))
    context = {"run": shown, "facts": facts_of(shown.task), "samples": page, "share": share, "shares": SHARES}
    context |= {"kept": shown.samples.count(), "base_answers": _of_the_base(shown, page.object_list)}
    context["instead"] = answers_to_show([shown]).get(shown.pk)
    return render(request, "evals/run.html", context)


def _of_the_base(shown: Run, samples: Iterable[Sample]) -> dict[int, Sample]:
    """What the base that an adapter's run is compared with answered to the rows of `samples`, by their numbers."""
    of_base = Sample.objects.filter(run__pk=shown.gains.get("base", {}).get("run"))
    return {sample.index: sample for sample in of_base.filter(index__in=[sample.index for sample in samples])}


def _readable(request: HttpRequest) -> RunQuerySet:
    """The runs that may be read: staff see those of drafts too."""
    user = getattr(request, "user", None)
    return Run.objects.finished() if user is not None and user.is_staff else Run.objects.public()


def _asked(request: HttpRequest) -> Iterator[list[leaderboard.Entry]]:
    """All entries that the address asks for, some at a time."""
    query = leaderboard.Query.of(request.GET, leaderboard.facets())
    for found in all_windows(lambda place: leaderboard.plain(query, place, AT_ONCE)):
        yield found.entries
