"""What a task is called and where its rows come from: read from its recipe, where there is one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Final

from inference.tasks.recipe import Recipe, RecipeError, load_recipe
from inference.tasks.template import label_of
from loraland.catalogue.categories import Category, category_of
from loraland.catalogue.models import Adapter
from loraland.paper import table

STAND_INS: Final = {
    "banking77": "customer_support",
    "snli": "glue_mnli",
    "ag_news_headline": "tldr_headline_gen",
    "code_alpaca": "magicoder",
}
"""Tasks of ours in place of tasks of the paper whose data we do not have. They are not compared in numbers."""


@dataclass(frozen=True)
class TaskFacts:
    """One task as pages show it. `paper_task` names the same task in the paper's Table 12, if it is there."""

    name: str
    title: str
    category: Category
    summary: str = ""
    source: str = ""
    license: str = ""
    restricted: bool = True
    paper_task: str = ""

    @property
    def stands_in_for(self) -> str:
        return STAND_INS.get(self.name, "")


def facts_of(task: str) -> TaskFacts:
    """The facts of `task`: its recipe's, or those of the adapter that was trained here for it and bears its name."""
    return facts_of_all([task])[task]


def facts_of_all(tasks: Iterable[str]) -> dict[str, TaskFacts]:
    """The same of several, by their names."""
    found = {task: _of_recipe(task) for task in tasks}
    others = [task for task, facts in found.items() if facts is None]
    named = Adapter.objects.published().filter(slug__in=others).only("slug", "name", "category", "summary")
    adapters = {adapter.slug: adapter for adapter in (named.select_related(None) if others else ())}
    return {task: facts or _of_adapter(task, adapters.get(task)) for task, facts in found.items()}


@cache
def recipe_of(task: str) -> Recipe | None:
    try:
        return load_recipe(task)
    except RecipeError:
        return None


@cache
def _of_recipe(task: str) -> TaskFacts | None:
    recipe = recipe_of(task)
    if recipe is None:
        return None
    data = recipe.dataset
    return TaskFacts(
        name=task,
        title=recipe.name,
        category=category_of(recipe.category),
        summary=recipe.summary,
        source=data.source,
        license=data.license,
        restricted=data.restricted or data.license.startswith("unknown"),
        paper_task=task if task in table.tasks() else "",
    )


def _of_adapter(task: str, adapter: Adapter | None) -> TaskFacts:
    """Without a recipe the licence of the rows is not known, so they count as restricted."""
    if adapter is None:
        return TaskFacts(task, label_of(task), category_of(""))
    return TaskFacts(task, adapter.name, category_of(adapter.category), adapter.summary)
