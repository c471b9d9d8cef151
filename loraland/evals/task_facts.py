"""What a task is called and where its rows come from: read from its recipe, where there is one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

from inference.tasks.recipe import Recipe, RecipeError, load_recipe
from loraland.catalogue.categories import Category, category_of
from loraland.catalogue.template import label_of
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


@cache
def facts_of(task: str) -> TaskFacts:
    """The facts of `task`. Without a recipe its licence is unknown, so its rows count as restricted."""
    recipe = recipe_of(task)
    if recipe is None:
        return TaskFacts(task, label_of(task), category_of(""))
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


@cache
def recipe_of(task: str) -> Recipe | None:
    try:
        return load_recipe(task)
    except RecipeError:
        return None
