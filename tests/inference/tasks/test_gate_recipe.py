"""The recipe of a blend's gate, read or refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference.tasks.gate_recipe import parse_gate_recipe, read_gate_recipe
from inference.tasks.recipe import RecipeError

FLOW = '[blend]\nkind = "flow"\nparts = ["a", "b"]\n'
ROUTER = '[blend]\nkind = "ramole"\nparts = ["a", "b", "c"]\n'


def test_what_is_said_is_taken_and_the_rest_is_the_kinds() -> None:
    router = parse_gate_recipe(ROUTER + "g = 4\nnearest = 3\ntop_k = 2\ndropout = 0\n[training]\nsteps = 9\n")
    assert (router.parts, router.g, router.nearest, router.top_k, router.dropout) == (("a", "b", "c"), 4, 3, 2, 0)
    assert (router.schedule.steps, router.schedule.batch) == (9, 16)
    flow = parse_gate_recipe(FLOW + 'start = "b"\ntemperature = 1.1\n')
    assert (flow.start, flow.temperature, flow.schedule.steps) == ("b", 1.1, 250)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[blend", "is not TOML"),
        ("[lora]\nrank = 8", "has 'lora'; its tables are"),
        ("blend = 3", "needs a table"),
        ('[blend]\nparts = ["a", "b"]', "kind in .* is None; flow"),
        ('[blend]\nkind = "arrow"\nparts = ["a", "b"]', "Arrow has nothing to train"),
        ('[blend]\nkind = "flow"\nparts = ["a"]', "name two adapters or more"),
        ('[blend]\nkind = "flow"\nparts = ["a", "b", "a"]', "names a twice"),
        (FLOW + 'start = "c"', "start in .* is 'c', which is none of the parts a, b"),
        (FLOW + "g = 8", "g in .* is of the kind ramole alone"),
        (ROUTER + 'start = "a"', "start in .* is of the kind flow alone"),
        (FLOW + "temperature = 0", "it must be from 0.01 to 100"),
        (ROUTER + "g = true", "g in .* is True"),
        (FLOW + "heads = 3", "unknown key 'heads'"),
        (FLOW + f'name = "{"n" * 121}"', "write at most 120 characters"),
        (FLOW + 'summary = "a\\u0000b"', "none of them a NUL"),
        ("a = " + "[" * 5000, "is not TOML"),
        (FLOW + "[training]\nepochs = 3", "unknown key 'epochs'"),
        (FLOW + "[training]\nsteps = 0", "steps in .* is 0; it must be a whole number"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(text: str, named: str) -> None:
    with pytest.raises(RecipeError, match=named):
        parse_gate_recipe(text)


def test_one_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        read_gate_recipe(tmp_path / "none.toml")
