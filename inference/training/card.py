"""The card of a shipped adapter: what it is for, how it was made and what it is worth, as TOML."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from inference.tasks.recipe import Recipe
from inference.tasks.recipe_text import toml_value

CARD: Final = "card.toml"


@dataclass(frozen=True)
class Making:
    """The circumstances of one training. `date` is written YYYY-MM-DD."""

    base: str
    train_rows: int
    minutes: float
    device: str
    date: str


def write_card(folder: Path, recipe: Recipe, making: Making) -> None:
    """Write card.toml into `folder`, in one piece: a card that is there is whole. It says nothing of a score yet."""
    partial = folder / f"{CARD}.partial"
    partial.write_text(card_text(recipe, making), encoding="utf-8")
    partial.replace(folder / CARD)


def card_text(recipe: Recipe, making: Making) -> str:
    """The text of the card."""
    sections = [
        _table("", _about(recipe, making)),
        _table("[dataset]", _dataset(recipe, making)),
        f"[prompt]\ntemplate = {_multiline(recipe.template)}",
        *(_table("[[prompt.field]]", {"name": f.name, "label": f.label, "rows": f.rows}) for f in recipe.fields),
        *(_example(each.inputs, each.expected) for each in recipe.examples),
        _table("[training]", _training(recipe, making)),
    ]
    return "\n\n".join(sections) + "\n"


def _about(recipe: Recipe, making: Making) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "category": recipe.category,
        "summary": recipe.summary,
        "description": recipe.description,
        "base": making.base,
        "license": recipe.license,
        "author": recipe.author,
    }


def _dataset(recipe: Recipe, making: Making) -> dict[str, Any]:
    source = recipe.dataset
    return {
        "name": source.name,
        "source": source.source,
        "license": source.license,
        "restricted": source.restricted,
        "train_rows": making.train_rows,
    }


def _training(recipe: Recipe, making: Making) -> dict[str, Any]:
    schedule, lora = recipe.schedule, recipe.lora
    return {
        "steps": schedule.steps,
        "batch": schedule.batch,
        "learning_rate": schedule.learning_rate,
        "rank": lora.rank,
        "lora_alpha": lora.lora_alpha,
        "target_modules": list(lora.target_modules),
        "max_length": schedule.max_length,
        "seed": schedule.seed,
        "minutes": round(making.minutes, 1),
        "device": making.device,
        "date": making.date,
    }


def _table(header: str, values: dict[str, Any]) -> str:
    lines = [f"{key} = {toml_value(value)}" for key, value in values.items()]
    return "\n".join([header, *lines] if header else lines)


def _example(inputs: dict[str, str], expected: str) -> str:
    pairs = ", ".join(f"{key} = {toml_value(value)}" for key, value in inputs.items())
    return f"[[example]]\ninputs = {{ {pairs} }}\nexpected = {toml_value(expected)}"


def _multiline(text: str) -> str:
    """A TOML string over several lines; `text` must not start with a line end."""
    lines = (toml_value(line)[1:-1] for line in text.split("\n"))
    return f'"""{chr(10).join(lines)}"""'
