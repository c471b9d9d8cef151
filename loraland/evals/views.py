"""The leaderboard, the runs behind one of its rows, and the answers in a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from uuid import UUID

from django.core.paginator import Paginator
from django.db.models import F
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils.cache import patch_vary_headers
from django.views.decorators.http import require_safe

from inference.tasks.verdict import VERDICTS
from loraland.evals import leaderboard, tables
from loraland.evals.counting import answers_to_show, counting
from loraland.evals.models import Run, RunQuerySet, Sample
from loraland.evals.task_facts import facts_of

SAMPLES_A_PAGE: Final = 25
SHARES: Final = {"": "all", "missed": "not full marks", "right": "full marks"}
"""Which samples of a run are shown."""


@require_safe
def board(request: HttpRequest) -> HttpResponse:
    """All entries, filtered and sorted by the address; htmx gets the results alone."""
    every = leaderboard.entries()
    facets = leaderboard.facets(every)
    query = leaderboard.Query.of(request.GET, facets)
    shown = leaderboard.select(every, query)
    context: dict[str, Any] = {"entries": shown, "total": len(every), "query": query}
    context["has_reference"] = any(entry.compared.reference for entry in shown)
    context["bases"] = sorted({entry.base for entry in every})
    if request.headers.get("HX-Target") == "results":
        response = render(request, "evals/results.html", context | {"is_part": True})
        response["HX-Replace-Url"] = reverse("leaderboard") + query.address
    else:
        page = {
            "categories": facets.counted_categories,
            "verdicts": VERDICTS,
            "fewest_rows": leaderboard.FEWEST_ROWS,
            "average_all": leaderboard.average(every),
            "average_clear": leaderboard.average(entry for entry in every if entry.is_clear),
            "counted_bases": facets.counted_bases if len(context["bases"]) > 1 else [],
        }
        response = render(request, "evals/leaderboard.html", context | page)
    patch_vary_headers(response, ["HX-Target"])
    return response


@require_safe
def board_csv(request: HttpRequest) -> HttpResponse:
    """The entries that the address asks for, for a spreadsheet."""
    text = tables.as_csv(_asked(request))
    headers = {"Content-Disposition": 'attachment; filename="leaderboard.csv"'}
    return HttpResponse(text, content_type="text/csv; charset=utf-8", headers=headers)


@require_safe
def board_json(request: HttpRequest) -> JsonResponse:
    """The entries that the address asks for, for a program."""
    return JsonResponse({"entries": [tables.row_of(entry) for entry in _asked(request)]})


@require_safe
def task(request: HttpRequest, task: str) -> HttpResponse:
    """One task: how it is scored, and every run over its rows that counts."""
    runs = counting(Run.objects.public().filter(task=task))
    if not runs:
        raise Http404(f"Nothing was measured on {task!r}.")
    found = [entry for entry in leaderboard.entries() if entry.facts.name == task]
    context = {
        "facts": facts_of(task),
        "entries": found,
        "tests": [run for run in runs if run.split == Run.Split.TEST],
        "validation": sorted((run for run in runs if run.split != Run.Split.TEST), key=lambda run: -(run.score or 0)),
        "answers": answers_to_show(runs),
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


def _asked(request: HttpRequest) -> list[leaderboard.Entry]:
    every = leaderboard.entries()
    return leaderboard.select(every, leaderboard.Query.of(request.GET, leaderboard.facets(every)))
