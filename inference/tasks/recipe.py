"""A recipe: everything that decides how one adapter is trained, scored and presented, read from one TOML file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from inference.tasks.hub import Hub, HubError, parse_hub
from inference.tasks.metrics import METRICS
from inference.tasks.template import pieces, placeholders

RECIPES: Final = Path(__file__).parent / "recipes"
LIMITS: Final[dict[str, tuple[type[int] | type[float], float, float]]] = {
    "rank": (int, 1, 512),
    "lora_alpha": (int, 1, 8192),
    "nola_basis": (int, 0, 4096),
    "steps": (int, 1, 1_000_000),
    "batch": (int, 1, 4096),
    "learning_rate": (float, 1e-7, 1),
    "warmup": (float, 0, 1),
    "max_length": (int, 8, 131_072),
    "seed": (int, 0, 2**32 - 1),
}
"""The numbers of [lora] and [training]: of which kind they are, and what they may be."""


class RecipeError(ValueError):
    """A task without a recipe, or a recipe that cannot be followed."""


@dataclass(frozen=True)
class Field:
    """One input of a template: its name there, what a form calls it, and the lines a form gives it."""

    name: str
    label: str
    rows: int = 3


@dataclass(frozen=True)
class ExampleInput:
    """Inputs to try, with the answer that is expected."""

    inputs: dict[str, str]
    expected: str


@dataclass(frozen=True)
class Lora:
    """The shape of the adapter. With a `nola_basis` it is a NOLA, of which the coefficients of so many random bases
    learn; with an `invocation`, words of the prompt, an aLoRA, which changes nothing before these."""

    rank: int = 8
    lora_alpha: int = 16
    target_modules: tuple[str, ...] = ("q_proj", "v_proj")
    nola_basis: int = 0
    invocation: str | None = None


@dataclass(frozen=True)
class Schedule:
    """How the adapter is trained: `warmup` is a share of `steps`, `learning_rate` the peak of the cosine after it."""

    steps: int = 150
    batch: int = 16
    learning_rate: float = 1e-3
    warmup: float = 0.05
    max_length: int = 320
    seed: int = 1


@dataclass(frozen=True)
class Source:
    """Where the rows come from and what their licence allows; `restricted` marks research or non-commercial use."""

    name: str
    source: str
    license: str
    restricted: bool = False


@dataclass(frozen=True)
class Recipe:
    """How to make the adapter of one task.

    `template` ends where the answer begins. `instruction` is the plain request that the base is compared by.
    `labels` is empty where the answer is free text; `many_lines` says that targets may hold several lines.
    `max_answer` bounds an answer, in tokens.
    """

    task: str
    name: str
    category: str
    summary: str
    description: str
    template: str
    instruction: str
    metric: str
    max_answer: int
    fields: tuple[Field, ...]
    dataset: Source
    labels: tuple[str, ...] = ()
    many_lines: bool = False
    examples: tuple[ExampleInput, ...] = ()
    lora: Lora = field(default_factory=Lora)
    schedule: Schedule = field(default_factory=Schedule)
    hub: Hub | None = None
    license: str = "Apache-2.0"
    author: str = "LoRA Land"

    @property
    def field_names(self) -> tuple[str, ...]:
        """The names of the inputs, in the order of the form."""
        return tuple(field.name for field in self.fields)


def tasks(folder: Path = RECIPES) -> tuple[str, ...]:
    """The names of all tasks that have a recipe, in alphabetical order."""
    return tuple(sorted(path.stem for path in folder.glob("*.toml")))


def load_recipe(task: str, folder: Path = RECIPES) -> Recipe:
    """Read the recipe of `task`.

    Raises `RecipeError` for a task without a recipe and for a recipe with wrong, missing or unknown entries.
    """
    if task not in tasks(folder):
        raise RecipeError(f"there is no recipe for the task {task!r}; there are recipes for {', '.join(tasks(folder))}")
    return parse_recipe(task, (folder / f"{task}.toml").read_text(encoding="utf-8"))


def parse_recipe(task: str, text: str) -> Recipe:
    """The recipe of `task` in `text`, which is TOML. Raises `RecipeError` for wrong, missing or unknown entries."""
    try:
        recipe = _parse(task, tomllib.loads(text))
    except (tomllib.TOMLDecodeError, HubError, TypeError, AttributeError, RecursionError) as error:
        raise RecipeError(f"the recipe of {task} cannot be read: {error}") from error
    except KeyError as error:
        raise RecipeError(f"the recipe of {task} cannot be read: it has no {error}") from error
    _check(recipe)
    return recipe


def _parse(task: str, data: dict[str, Any]) -> Recipe:
    prompt = data.pop("prompt")
    lora, schedule, hub = data.pop("lora", {}), data.pop("training", {}), data.pop("hub", None)
    if "target_modules" in lora:
        lora["target_modules"] = tuple(lora["target_modules"])
    return Recipe(
        task=task,
        template=prompt["template"],
        instruction=prompt["instruction"],
        fields=tuple(Field(**entry) for entry in prompt["field"]),
        dataset=Source(**data.pop("dataset")),
        labels=tuple(data.pop("labels", ())),
        examples=tuple(ExampleInput(**entry) for entry in data.pop("example", ())),
        lora=Lora(**lora),
        schedule=Schedule(**schedule),
        hub=parse_hub(hub) if hub else None,
        **data,
    )


def _check(recipe: Recipe) -> None:
    if recipe.metric not in METRICS:
        raise RecipeError(f"{recipe.task}: the metric is {recipe.metric!r}; known are {', '.join(sorted(METRICS))}")
    if sorted(placeholders(recipe.template)) != sorted(recipe.field_names):
        raise RecipeError(
            f"{recipe.task}: the template names the fields {', '.join(placeholders(recipe.template))}, "
            f"the form {', '.join(recipe.field_names)}; they must be the same"
        )
    if recipe.template != recipe.template.rstrip():
        raise RecipeError(f"{recipe.task}: the template ends in white space; let it end with its last mark")
    check_numbers(recipe.task, "lora", recipe.lora)
    if reason := misplaced(recipe.lora, recipe.template):
        raise RecipeError(f"{recipe.task}: {reason}")
    check_numbers(recipe.task, "training", recipe.schedule)
    if recipe.hub and set(recipe.hub.inputs) != set(recipe.field_names):
        raise RecipeError(
            f"{recipe.task}: [hub] fills the fields {', '.join(recipe.hub.inputs)}, not those of the template"
        )
    for example in recipe.examples:
        if set(example.inputs) != set(recipe.field_names):
            fields = ", ".join(example.inputs)
            raise RecipeError(f"{recipe.task}: an example has the fields {fields}, not those of the template")


def misplaced(lora: Lora, template: str) -> str:
    """What is wrong with the invocation of an adapter whose prompt is `template`; empty where nothing is."""
    words = lora.invocation
    if words is None:
        return ""
    if not isinstance(words, str) or not words.strip():
        return f"invocation in [lora] is {words!r}, which invokes nothing; write words of the prompt, or leave it out"
    if not any(words in piece for piece, is_field in pieces(template) if not is_field):
        return (
            f"the prompt does not hold the invocation {words!r}, so the adapter would never be active; write these "
            "words into the prompt as they stand, outside of its fields"
        )
    if lora.nola_basis:
        return "nola_basis and invocation are both in [lora]; a NOLA is active from the start, so leave one of them out"
    return ""


def check_numbers(task: str, table: str, entries: Lora | Schedule) -> None:
    """Raises `RecipeError` for a number of `table` that is none, or beyond its `LIMITS`."""
    for name, (kind, low, high) in LIMITS.items():
        value: Any = getattr(entries, name, low)
        is_number = isinstance(value, int | kind) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:
            what = "a whole number" if kind is int else "a number"
            raise RecipeError(f"{task}: {name} in [{table}] is {value!r}; it must be {what} from {low} to {high}")
