"""The recipe of a task of one's own: read from a file, or proposed from its rows as the site's form proposes it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from inference.model.tokenizer import Tokenizer
from inference.tasks import proposal
from inference.tasks.data import place_of, read_rows
from inference.tasks.recipe import ExampleInput, Field, Lora, Recipe, RecipeError, Schedule, Source, parse_recipe
from inference.tasks.template import label_of

LORA: Final = Lora(
    rank=1,
    lora_alpha=2,
    target_modules=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
)
STEPS: Final = 250


def recipe_in(path: Path, task: str) -> Recipe:
    """The recipe in the TOML file at `path`. Raises `RecipeError`."""
    try:
        return parse_recipe(task, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"--recipe {path} cannot be read: {error}") from error


def proposed(task: str, data: Path, base: Path) -> Recipe:
    """A recipe for the rows of `task` in `data`, with lengths in tokens of the base in `base`. Raises `DataError`."""
    tokenizer, place = Tokenizer(base), place_of(data, task)
    train = read_rows(place / "train.jsonl")
    test = read_rows(place / "test.jsonl", list(train[0].inputs))

    def count(text: str) -> int:
        return len(tokenizer.encode_text(text))

    found, rows = proposal.propose(train, test, count), (*train, *test)
    return Recipe(
        task=task,
        name=label_of(task),
        category=found.category,
        summary="",
        description="",
        template=found.template,
        instruction=found.instruction,
        metric=found.metric,
        max_answer=proposal.max_answer(rows, count),
        fields=tuple(Field(name, label_of(name)) for name in train[0].inputs),
        dataset=Source(task, place.name, ""),
        labels=proposal.labels_of(rows) if found.metric == "accuracy" else (),
        many_lines=any("\n" in row.target.strip() for row in rows),
        examples=tuple(_example(row) for row in found.examples),
        lora=LORA,
        schedule=Schedule(steps=STEPS, learning_rate=2e-3, max_length=found.max_length),
        license="",
        author="",
    )


def _example(row: dict[str, object]) -> ExampleInput:
    return ExampleInput(**row)  # type: ignore[arg-type]
