"""Every recipe that is shipped, and the recipes that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference.tasks.recipe import RECIPES, RecipeError, load_recipe, tasks
from inference.tasks.template import fill


@pytest.mark.parametrize("task", tasks())
def test_a_shipped_recipe_has_examples_that_fill_its_template(task: str) -> None:
    recipe = load_recipe(task)
    assert 3 <= len(recipe.examples) <= 5
    for example in recipe.examples:
        assert example.expected == example.expected.strip()
        assert fill(recipe.template, example.inputs)
        assert not recipe.labels or example.expected in recipe.labels


def test_an_unknown_task_is_refused_with_the_names_of_the_known() -> None:
    with pytest.raises(RecipeError, match=r"no recipe for the task 'cooking'.*tweet_emotion"):
        load_recipe("cooking")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('metric = "accuracy"', 'metric = "bleu"', "the metric is 'bleu'; known are accuracy"),
        ("{tweet}", "{text}", "the template names the fields text, the form tweet"),
        ('Emotion:"""', 'Emotion: """', "ends in white space"),
        ("steps =", "strides =", "cannot be read: .*strides"),
        ("[prompt]", "[prompts]", "cannot be read: it has no 'template'"),
        ("steps = ", "steps = -", r"steps in \[training\] is -\d+; it must be a whole number from 1 to 1000000"),
        ("learning_rate = ", 'learning_rate = "fast" #', "learning_rate in .* is 'fast'; it must be a number from"),
        ("rank = ", "rank = 0.", r"rank in \[lora\] is 0\.\d+; it must be a whole number from 1 to 512"),
        ("[lora]", "[lora", "cannot be read: "),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(tmp_path: Path, old: str, new: str, problem: str) -> None:
    text = (RECIPES / "tweet_emotion.toml").read_text()
    assert old in text
    (tmp_path / "tweet_emotion.toml").write_text(text.replace(old, new))
    with pytest.raises(RecipeError, match=problem):
        load_recipe("tweet_emotion", tmp_path)
