"""Several adapters in one pass against one after the other, in time, memory and losses.

python -m tests.bench.together --data DATASETS --tasks banking77 glue_cola glue_sst2 snips_slots --steps 20
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from inference.bases import DEFAULT_BASE_MODEL
from inference.tasks.recipe import load_recipe
from inference.training.loop import Step
from inference.training.run import Job, train_jobs
from tests.bench.site import REPO


def main() -> None:
    options = _options()
    if options.measure:
        print(json.dumps(_measure(options)))
        return
    alone = [_told([task], options) for task in options.tasks]
    together = _told(options.tasks, options)
    worst = max(
        abs(loss - other)
        for program in alone
        for task, losses in program["losses"].items()
        for loss, other in zip(losses, together["losses"][task], strict=True)
    )
    print(f"one after the other: {sum(program['seconds'] for program in alone):.1f} s, {alone[0]['mb']:.0f} MB")
    print(f"each in a process, all at once: {sum(program['mb'] for program in alone):.0f} MB")
    print(f"in one pass: {together['seconds']:.1f} s, {together['mb']:.0f} MB")
    print(f"losses differ by {worst:.4f} nats at most")


def _told(tasks: list[str], options: argparse.Namespace) -> dict:
    """What a process of its own measures, so that nobody inherits another's memory."""
    command = [sys.executable, "-m", "tests.bench.together", "--measure", "--tasks", *tasks]
    command += ["--data", str(options.data), "--steps", str(options.steps), "--models", str(options.models)]
    return json.loads(subprocess.run(command, cwd=REPO, check=True, capture_output=True, text=True).stdout)


def _measure(options: argparse.Namespace) -> dict:
    """Seconds from the second step to the last, the most memory that was resident, and the losses by task."""
    losses: dict[str, list[float]] = {task: [] for task in options.tasks}
    ends: list[float] = []

    def hear(step: Step) -> None:
        losses[step.task].append(step.loss)
        ends.append(time.monotonic())

    with tempfile.TemporaryDirectory() as folder:
        train_jobs([_job(task, Path(folder), options) for task in options.tasks], hear)
    seconds = ends[-1] - ends[len(options.tasks) - 1]
    return {"seconds": seconds, "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, "losses": losses}


def _job(task: str, folder: Path, options: argparse.Namespace) -> Job:
    recipe = load_recipe(task)
    recipe = replace(recipe, schedule=replace(recipe.schedule, steps=options.steps))
    return Job(recipe, options.data, folder / task, options.models / DEFAULT_BASE_MODEL, DEFAULT_BASE_MODEL)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="holds a folder for each task")
    parser.add_argument("--tasks", nargs="+", default=["banking77", "glue_cola", "glue_sst2", "snips_slots"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--models", type=Path, default=REPO / "var" / "models")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
