"""`python -m inference.training --blend FILE`: train the gate of a blend, as the command line asks for it."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from inference.config import EngineConfig
from inference.tasks.gate_recipe import GateRecipe, read_gate_recipe
from inference.tasks.recipe import RecipeError
from inference.training.gate_parts import PartRefused
from inference.training.gate_run import GateJob, train_gate
from inference.training.loop import Step
from inference.training.run import Job

SHIPPED = Path("adapters")


def train_blend(options: argparse.Namespace, jobs: list[Job], config: EngineConfig) -> None:
    """Train the gate that `options` ask for on the rows of `jobs`, and print a line of JSON with what it is worth."""
    for name, neutral in {"qlora": False, "together": 1, "again": False}.items():
        if getattr(options, name) != neutral:
            raise ValueError(f"--{name} is of adapters and no gate's; leave it out beside --blend")
    if "{task}" in options.out:
        raise RecipeError(
            f"--out {options.out} is a folder for each task, and --blend trains one gate; name one folder"
        )
    recipe = _with_options(read_gate_recipe(options.blend), options)
    job = GateJob(
        gate=recipe,
        parts=tuple(folder_of(part, options.blend.parent) for part in recipe.parts),
        tasks=tuple((each.recipe, each.data) for each in jobs),
        out=Path(options.out),
        base=jobs[0].base,
        base_name=jobs[0].base_name,
        device=jobs[0].device,
        max_rank=config.max_rank,
    )
    with tqdm(total=recipe.schedule.steps, unit="step") as bar:
        trained = train_gate(job, _shown(bar), measured_on=None if options.score == "none" else options.score)
    print(json.dumps(trained.told()), flush=True)


def folder_of(part: str, beside: Path) -> Path:
    """The folder of a part: as it is named, beside the recipe, or that of a shipped adapter."""
    places = [Path(part), beside / part, SHIPPED / part]
    for place in places:
        if place.is_dir():
            return place
    looked = ", ".join(map(str, dict.fromkeys(places)))
    raise PartRefused(f"the part {part!r} is no folder, and no shipped adapter; looked for {looked}")


def _with_options(recipe: GateRecipe, options: argparse.Namespace) -> GateRecipe:
    changes = {name: value for name in ("steps", "seed") if (value := getattr(options, name)) is not None}
    return dataclasses.replace(recipe, schedule=dataclasses.replace(recipe.schedule, **changes))


def _shown(bar: tqdm[object]) -> Callable[[Step], None]:
    def show(step: Step) -> None:
        bar.set_postfix(loss=f"{step.loss:.3f}", refresh=False)
        bar.update(step.number - bar.n)

    return show
