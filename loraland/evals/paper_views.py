"""The paper beside our own measurements."""

from __future__ import annotations

from collections import Counter

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.cache import patch_vary_headers
from django.views.decorators.http import require_safe

from loraland.evals import claims, forecast, leaderboard, paper_explorer
from loraland.evals import complexity as heuristics
from loraland.evals.regression import chance
from loraland.paper import averages
from loraland.paper.table import MODELS, table, tasks


@require_safe
def paper(request: HttpRequest) -> HttpResponse:
    """Table 12 as the address asks for it, and what follows from it; htmx gets the table alone."""
    query = paper_explorer.Query.of(request.GET)
    measured = leaderboard.entries(tasks())
    context = {
        "query": query,
        "lines": paper_explorer.lines(query, measured),
        "matrix": paper_explorer.matrix(query),
        "asked": tasks().get(query.task),
        "models": MODELS,
        "values": paper_explorer.VALUES,
        "caption": paper_explorer.VALUES[query.value].capitalize(),
        "ours": next((entry for entry in measured if entry.facts.paper_task == query.task != ""), None),
    }
    if request.headers.get("HX-Target") == "table":
        response = render(request, "evals/paper_table.html", context)
        response["HX-Replace-Url"] = reverse("paper") + query.address
    else:
        page = {
            "tasks": table(),
            "headline": averages.headline(),
            "summaries": averages.summaries(),
            "printed": averages.PRINTED_TOTAL,
            "printed_lift": averages.PRINTED_LIFT,
            "printed_over_gpt4": averages.PRINTED_OVER_GPT4,
            "astray": [summary for summary in averages.summaries() if not summary.tuned_follows],
            "same_tasks": sum(bool(entry.facts.paper_task) for entry in measured),
        }
        response = render(request, "evals/paper.html", context | page)
    patch_vary_headers(response, ["HX-Target"])
    return response


@require_safe
def complexity(request: HttpRequest) -> HttpResponse:
    """Whether the look of a data set tells what fine-tuning on it gains: the paper's second part, on our tasks."""
    tasks = sorted(forecast.known(), key=lambda task: -task.gain)
    model = forecast.forecaster(tasks)
    context = {
        "measures": [label for label, _ in heuristics.MEASURES.values()],
        "lines": heuristics.lines(tasks),
        "tasks": tasks,
        "fewest": forecast.FEWEST,
        "chance": chance(len(tasks)),
        "paper_chance": chance(len(table())),
        "model": model,
        "guesses": list(zip(tasks, model.held_out, strict=True)) if model else [],
    }
    return render(request, "evals/complexity.html", context)


@require_safe
def blends(request: HttpRequest) -> HttpResponse:
    """What papers claim of blends and routing, and what was measured of it."""
    cards = claims.cards()
    words = Counter(card.word for card in cards)
    tally = [(word, words[word]) for word in (*claims.VERDICTS.values(), "Not run yet") if words[word]]
    return render(request, "evals/claims.html", {"cards": cards, "tally": tally})
