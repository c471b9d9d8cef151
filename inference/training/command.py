"""The command line of `python -m inference.training`: train the adapters of one or more tasks and score them."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from inference.bases import DEFAULT_BASE_MODEL, base_name
from inference.config import EngineConfig, read_config
from inference.fetch import FetchError, find_model
from inference.tasks.card import CARD, has_score
from inference.tasks.data import DataError
from inference.tasks.fetch import datasets_dir, fetch
from inference.tasks.recipe import Recipe, RecipeError, check_numbers, load_recipe, tasks
from inference.training import qlora
from inference.training.any_base import train
from inference.training.gate_command import train_blend
from inference.training.loop import Step
from inference.training.own import proposed, recipe_in
from inference.training.run import Job
from inference.training.scoring import score_jobs


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what the command line asks for; 0 when all of it stands, 1 with a sentence when something is wrong."""
    options = _parser().parse_args(arguments)
    try:
        jobs = [_job(task, options) for task in (tasks() if options.task == ["all"] else options.task)]
        if options.blend:
            train_blend(options, jobs, _config(options))
            return 0
        if options.together < 1:
            raise ValueError(f"--together {options.together} trains nothing; it is a number of adapters from 1 on")
        if options.qlora and options.together > 1:
            raise ValueError("--qlora trains one adapter at a time; leave out --together")
        missing = [job for job in jobs if options.again or not (job.out / CARD).exists()]
        for start in range(0, len(missing), options.together):
            _train(missing[start : start + options.together], options.qlora)
        unscored = [job for job in jobs if job in missing or not has_score(job.out / CARD)]
        if unscored and options.score != "none":
            for job, measured in score_jobs(unscored, options.score):
                print(measured.as_line(job.recipe.task), flush=True)
    except (FetchError, OSError, FloatingPointError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _train(jobs: Sequence[Job], with_qlora: bool) -> None:
    """Train `jobs` together, or the only one by QLoRA, under one progress bar, which shows the newest loss of each."""
    newest: dict[str, Step] = {}
    with tqdm(total=sum(job.recipe.schedule.steps for job in jobs), unit="step") as bar:

        def show(step: Step) -> None:
            newest[step.task] = step
            bar.set_postfix({task: f"{step.loss:.3f}" for task, step in newest.items()}, refresh=False)
            # The first may be far from step 1, where a checkpoint was gone on from.
            bar.update(sum(step.number for step in newest.values()) - bar.n)

        if with_qlora:
            qlora.train_qlora(jobs[0], show)
        else:
            train(jobs, show)


def _recipe(task: str, options: argparse.Namespace) -> Recipe:
    """The task's own recipe, the one that is given, or for rows of one's own the one that they propose."""
    if options.recipe is not None:
        return recipe_in(options.recipe, task)
    if task in tasks() or options.data is None:
        return load_recipe(task)
    recipe = proposed(task, options.data, find_model(_config(options)))
    print(
        f"{task} has no recipe; its rows propose: {recipe.metric}, {recipe.schedule.max_length} tokens a row.",
        file=sys.stderr,
    )
    return recipe


def _config(options: argparse.Namespace) -> EngineConfig:
    return read_config(base=options.base)


def _job(task: str, options: argparse.Namespace) -> Job:
    if options.data and not options.data.is_dir():
        raise DataError(f"--data {options.data} is not a folder; name one with train.jsonl and test.jsonl")
    recipe = _recipe(task, options)
    changes = {name: value for name in ("steps", "seed") if (value := getattr(options, name)) is not None}
    if changes:
        recipe = dataclasses.replace(recipe, schedule=dataclasses.replace(recipe.schedule, **changes))
        check_numbers(task, "training", recipe.schedule)
    if options.qlora:
        recipe = qlora.with_qlora(recipe)
    if (len(options.task) > 1 or options.task == ["all"]) and "{task}" not in options.out and not options.blend:
        raise RecipeError(f"--out {options.out} is one folder for several adapters; write {options.out}/{{task}}")
    config = _config(options)
    return Job(
        recipe=recipe,
        data=options.data or fetch(recipe, datasets_dir()),
        out=Path(options.out.replace("{task}", task)),
        base=find_model(config),
        base_name=base_name(config.base_model),
        device=_device(options.device),
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise OSError("--device cuda needs a GPU that torch can see; leave it out to train on the CPU")
    return torch.device(name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m inference.training",
        description="Train the adapters of one or more tasks and score them.",
        epilog="With --serve alone it trains what the site queues, until it is stopped.",
    )
    parser.add_argument("--task", nargs="+", required=True, metavar="NAME", help="tasks, or: all that have a recipe")
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="in TOML; else the task's, or one of its rows")
    parser.add_argument("--blend", type=Path, metavar="FILE", help="in TOML: train the gate of a blend, no adapter")
    parser.add_argument("--data", type=Path, metavar="DIR", help="one data set, or a folder of them; else from the hub")
    parser.add_argument("--out", required=True, metavar="DIR", help="where it goes; {task} stands for the task")
    parser.add_argument("--base", help=f"a directory or a name; otherwise BASE_MODEL, or {DEFAULT_BASE_MODEL}")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--together", type=int, default=1, metavar="N", help="train so many in one pass over the base")
    parser.add_argument("--qlora", action="store_true", help="for a base of billions of weights: in NF4, on a GPU")
    parser.add_argument("--score", default="test", choices=["test", "validation", "none"], help="the rows to score on")
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--seed", type=int, help="instead of the recipe's")
    parser.add_argument("--again", action="store_true", help="train adapters that are there already, too")
    return parser
