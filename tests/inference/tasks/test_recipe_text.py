"""A recipe written as text is the recipe that is read back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from inference.tasks.recipe import Recipe, load_recipe, tasks
from inference.tasks.recipe_text import recipe_text


def read_back(recipe: Recipe, folder: Path) -> Recipe:
    (folder / f"{recipe.task}.toml").write_text(recipe_text(recipe), encoding="utf-8")
    return load_recipe(recipe.task, folder)


@pytest.mark.parametrize("task", tasks())
def test_every_shipped_recipe_comes_back_as_it_was(task: str, tmp_path: Path) -> None:
    recipe = load_recipe(task)
    assert read_back(recipe, tmp_path) == recipe


def test_quotes_line_ends_and_control_characters_are_kept(tmp_path: Path) -> None:
    recipe = load_recipe("viggo")
    odd = 'Say "no" to \\this:\n\ttab, DEL \x7f, bell \x07, “ü” {representation}\nAnswer:'
    recipe = dataclasses.replace(recipe, template=odd, instruction=odd, labels=('a "b"', "c\\d"))
    assert read_back(recipe, tmp_path) == recipe
