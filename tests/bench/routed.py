"""What answers of `auto` are worth beside those of each row's own adapter: `python -m tests.bench.routed --data DIR`.

Some test rows of each task are sent as callers send them. Where another adapter than the row's own is chosen, or the
base, that one's answer is scored as if it were the row's own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from inference.config import read_config
from inference.fetch import find_model
from inference.model.torch_environment import prepare_torch
from inference.tasks.baseline import tallies
from inference.tasks.card import CARD
from inference.tasks.metrics import score
from inference.tasks.recipe import tasks
from inference.tasks.template import fill
from inference.wire.protocol import AdapterRef, Delta, Generate, Message, Sampling
from tests.bench.routing import ADAPTERS, BASE, Task, as_sent, drawn, percent, shipped, task_of

prepare_torch()

import torch  # noqa: E402

from inference.engine.engine import Engine  # noqa: E402
from inference.training.scoring import put_into_store  # noqa: E402
from loraland.catalogue.routing.choice import choose  # noqa: E402

DRAWS = 2000


@dataclass(frozen=True)
class Asked:
    """A row, and what `auto` makes of it: the slug of the adapter that it chose, or nothing for the base."""

    task: Task
    place: int
    slug: str
    own: str
    """The prompt of the row's own adapter."""
    other: str = ""
    """The prompt of the adapter that was chosen, or the text for the base, where that is not its own."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a folder for each task")
    parser.add_argument("--rows", type=int, default=40, help="of each task, drawn by a seed")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every answer there, as JSON lines")
    options = parser.parse_args()
    known = [task_of(name, options.data) for name in tasks()]
    asked = choices(known, options.rows)
    began = perf_counter()
    own, routed = answered(asked)
    if options.out:
        lines = [
            json.dumps([each.task.recipe.task, each.slug, a, b]) for each, a, b in zip(asked, own, routed, strict=True)
        ]
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(report(known, asked, own, routed), f"{perf_counter() - began:.0f} s", sep="\n")


def choices(known: Sequence[Task], rows: int) -> list[Asked]:
    index, templates = shipped(known), {task.recipe.task: task.recipe.template for task in known}
    asked = []
    for task in known:
        places = drawn(range(len(task.test)), rows)
        for place in places:
            row = task.test[place]
            choice = choose(index, [BASE], text := as_sent(task.recipe, row))
            slug, own = choice.chosen.candidate.slug if choice.chosen else "", fill(task.recipe.template, row.inputs)
            other = fill(templates[slug], choice.inputs) if slug else text
            asked.append(Asked(task, place, slug, own, "" if other == own else other))
    return asked


def answered(asked: Sequence[Asked]) -> tuple[list[str], list[str]]:
    """The answers of each row's own adapter and of `auto`, all in mixed batches of one engine."""
    with tempfile.TemporaryDirectory(prefix="loraland-routed-") as folder:
        config = read_config()
        config = dataclasses.replace(config, base_model=str(find_model(config)), var_dir=Path(folder))
        config.adapters_dir.mkdir()
        refs = {slug: AdapterRef(put_into_store(ADAPTERS / slug, config.adapters_dir)) for slug in tasks()}
        engine = Engine(config)
        torch.set_num_threads(1 if engine.machine.runner.decoder.has_own_threads else torch.get_num_threads())
        wanted = {}
        for number, each in enumerate(asked):
            sampling = Sampling(max_tokens=each.task.recipe.max_answer)
            wanted[f"own {number}"] = (refs[each.task.recipe.task], each.own, sampling)
            if each.other:
                wanted[f"auto {number}"] = (refs.get(each.slug), each.other, sampling)
        texts = run(engine, wanted)
        engine.close()
    own = [texts[f"own {number}"].strip() for number in range(len(asked))]
    return own, [texts.get(f"auto {number}", own[number]).strip() for number in range(len(asked))]


def run(engine: Engine, wanted: dict[str, tuple[AdapterRef | None, str, Sampling]]) -> dict[str, str]:
    waiting, texts = list(wanted.items()), dict.fromkeys(wanted, "")
    while waiting or engine.has_work:
        while waiting and engine.capacity:
            id, (adapter, text, sampling) = waiting.pop()
            said = {"prompt": text} if adapter else {"messages": (Message("user", text),)}
            engine.add(Generate(id, adapter, sampling=sampling, **said))
        for event in engine.step():
            if isinstance(event, Delta):
                texts[event.id] += event.text
    return texts


def report(known: Sequence[Task], asked: Sequence[Asked], own: Sequence[str], routed: Sequence[str]) -> str:
    """The means over tasks, as scores are of different kinds, with intervals over rows within tasks and over tasks."""
    random, lines, pairs = np.random.default_rng(5), [], []
    for task in known:
        places = [number for number, each in enumerate(asked) if each.task is task]
        rows = [task.test[asked[number].place] for number in places]
        both = [tallies([texts[number] for number in places], rows, task.recipe) for texts in (own, routed)]
        pairs.append(both)
        base = tomllib.loads((ADAPTERS / task.recipe.task / CARD).read_text(encoding="utf-8"))["score"]["base"]
        hits = [asked[number].slug == task.recipe.task for number in places]
        figures = f"{100 * score(both[0]):5.1f} {100 * score(both[1]):5.1f} {100 * base:5.1f}"
        lines.append(f"  {task.recipe.task:<20}{figures}   right {percent(hits)}")
    means = [float(np.mean([score(both[which]) for both in pairs])) for which in (0, 1)]
    head = f"own {100 * means[0]:.1f}, auto {100 * means[1]:.1f}"
    within = [_lost(pairs, random, range(len(pairs))) for _ in range(DRAWS)]
    over = [_lost(pairs, random, random.integers(0, len(pairs), len(pairs))) for _ in range(DRAWS)]
    told = [f"{low:.1f} to {high:.1f}" for low, high in (np.percentile(x, [2.5, 97.5]) for x in (within, over))]
    return "\n".join([f"{head}; auto - own, 95 %: {told[0]} (rows), {told[1]} (rows and tasks)", *lines])


def _lost(pairs: Sequence[list], random: np.random.Generator, which: Sequence[int]) -> float:
    """The difference of the two means, in points, over rows that are drawn anew within each task of `which`."""
    found = []
    for task in which:
        own, routed = pairs[task]
        rows = random.integers(0, len(own), len(own))
        found.append(score([routed[row] for row in rows]) - score([own[row] for row in rows]))
    return 100 * float(np.mean(found))


if __name__ == "__main__":
    main()
