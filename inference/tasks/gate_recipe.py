"""What decides how a blend's gate is trained, read from one TOML file: tables ``[blend]`` and ``[training]``."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from inference.reading import shown
from inference.tasks.card import TEXTS
from inference.tasks.recipe import RecipeError, Schedule, check_numbers
from inference.tasks.recipe_text import toml_value

TrainedKind = Literal["flow", "ramole"]

SCHEDULES: Final[dict[TrainedKind, Schedule]] = {
    "flow": Schedule(steps=250, batch=4, learning_rate=1e-3, warmup=0.2),
    "ramole": Schedule(steps=300, batch=16, learning_rate=1e-3, warmup=0.05),
}
"""What is not said under [training]. LoRA-Flow's is its paper's: 200 examples, five times, by four."""
_KEYS: Final[dict[str, type | tuple[type, ...]]] = {
    "kind": str,
    "parts": list,
    "start": str,
    "name": str,
    "summary": str,
    "temperature": (int, float),
    "top_k": int,
    "g": int,
    "nearest": int,
    "dropout": (int, float),
}
GATE_LIMITS: Final[dict[str, tuple[float, float]]] = {
    "temperature": (0.01, 100),
    "top_k": (0, 32),
    "g": (1, 32),
    "nearest": (0, 32),
    "dropout": (0, 0.95),
}
OF_ONE: Final[dict[TrainedKind, tuple[str, ...]]] = {
    "flow": ("start",),
    "ramole": ("g", "nearest", "dropout", "top_k"),
}
"""What is said of one kind alone."""


@dataclass(frozen=True)
class GateRecipe:
    """A gate over `parts`, each a folder or a shipped adapter's name. A flow gate begins at the part `start` alone.

    A router has `g` keys; of each row the `nearest` parts may answer, all with 0, of which each is dropped with the
    probability `dropout` while it learns.
    """

    kind: TrainedKind
    parts: tuple[str, ...]
    start: str = ""
    name: str = ""
    summary: str = ""
    temperature: float = 1.0
    top_k: int = 0
    g: int = 8
    nearest: int = 0
    dropout: float = 0.5
    schedule: Schedule = field(default_factory=Schedule)


def read_gate_recipe(path: Path) -> GateRecipe:
    """The recipe in the file at `path`. Raises `RecipeError` with a sentence."""
    try:
        return parse_gate_recipe(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"--blend {path} cannot be read: {error}") from error


def parse_gate_recipe(text: str) -> GateRecipe:
    """The recipe in `text`, which is TOML. Raises `RecipeError` with a sentence."""
    try:
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise RecipeError(f"the recipe of a blend is not TOML: {error}") from error
    if unknown := sorted(tables.keys() - {"blend", "training"}):
        raise RecipeError(f"the recipe of a blend has {unknown[0]!r}; its tables are [blend] and [training]")
    blend, training = tables.get("blend"), tables.get("training", {})
    if not isinstance(blend, dict) or not isinstance(training, dict):
        raise RecipeError("the recipe of a blend needs a table [blend] with kind and parts, and may have [training]")
    _check_blend(blend)
    kind, parts = blend["kind"], tuple(blend["parts"])
    schedule = _schedule(SCHEDULES[kind], training)
    return GateRecipe(**{**blend, "parts": parts, "start": blend.get("start", parts[0])}, schedule=schedule)


def gate_recipe_text(recipe: GateRecipe) -> str:
    """The text of a file that is read back as `recipe`."""
    foreign = {key for kind, keys in OF_ONE.items() if kind != recipe.kind for key in keys}
    blend = {key: getattr(recipe, key) for key in _KEYS if key not in foreign}
    tables = {"blend": blend, "training": vars(recipe.schedule)}
    return "\n".join(
        line
        for name, table in tables.items()
        for line in (f"[{name}]", *(f"{key} = {toml_value(value)}" for key, value in table.items()))
    )


def _schedule(default: Schedule, training: dict[str, Any]) -> Schedule:
    if unknown := sorted(training.keys() - vars(default).keys()):
        raise RecipeError(f"[training] has an unknown key {unknown[0]!r}; known are {', '.join(vars(default))}")
    schedule = replace(default, **training)
    check_numbers("the blend", "training", schedule)
    return schedule


def _check_blend(blend: dict[str, Any]) -> None:
    for key, value in blend.items():
        if key not in _KEYS:
            raise RecipeError(f"[blend] has an unknown key {key!r}; known are {', '.join(_KEYS)}")
        if not isinstance(value, _KEYS[key]) or isinstance(value, bool):
            raise RecipeError(f"{key} in [blend] is {value!r}; write it as in docs/blends.md")
        if isinstance(value, str) and (len(value) > (most := TEXTS.get(key, len(value))) or "\0" in value):
            raise RecipeError(
                f"{key} in [blend] is {shown(value)}; write at most {most} characters, none of them a NUL"
            )
        low, high = GATE_LIMITS.get(key, (-math.inf, math.inf))
        if isinstance(value, int | float) and not low <= value <= high:
            raise RecipeError(f"{key} in [blend] is {value!r}; it must be from {low:g} to {high:g}")
    _check_kind(blend)
    _check_parts(blend)


def _check_kind(blend: dict[str, Any]) -> None:
    kind = blend.get("kind")
    if kind == "arrow":
        raise RecipeError("Arrow has nothing to train: its weights follow from the parts; name the model arrow(a+b)")
    if kind not in SCHEDULES:
        raise RecipeError(f"kind in [blend] is {kind!r}; flow (LoRA-Flow) and ramole (RAMoLE) are trained")
    for other, keys in OF_ONE.items():
        if other != kind and (foreign := [key for key in keys if key in blend]):
            raise RecipeError(f"{foreign[0]} in [blend] is of the kind {other} alone, and the kind is {kind}")


def _check_parts(blend: dict[str, Any]) -> None:
    parts = blend.get("parts", [])
    if len(parts) < 2 or not all(isinstance(part, str) and part for part in parts):
        raise RecipeError(f"parts in [blend] is {parts!r}; name two adapters or more, by folder or name")
    if len(set(parts)) < len(parts):
        raise RecipeError(f"parts in [blend] names {max(parts, key=parts.count)} twice; name each once")
    if (start := blend.get("start", parts[0])) not in parts:
        raise RecipeError(f"start in [blend] is {start!r}, which is none of the parts {', '.join(parts)}")
