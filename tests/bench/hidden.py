"""Another way to tell texts apart, the base's mean hidden states: `python -m tests.bench.hidden --data DIR`.

Both ways get the same few training rows of each task and the same few test rows, bare. The hidden states come from the
engine, as `/v1/embeddings` gives them; what all have in common is taken away from them as from the n-grams.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import numpy as np

from inference.config import read_config
from inference.fetch import find_model
from inference.model.torch_environment import prepare_torch
from inference.tasks.recipe import tasks
from inference.tasks.vectors import embed
from inference.wire.protocol import Embedded, Generate, Sampling
from tests.bench.routing import bare_text, drawn, percent, task_of, unit

prepare_torch()

import torch  # noqa: E402

from inference.engine.engine import Engine  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a folder for each task")
    parser.add_argument("--train", type=int, default=50, help="training rows of each task")
    parser.add_argument("--test", type=int, default=40, help="test rows of each task")
    options = parser.parse_args()
    known = [task_of(name, options.data) for name in tasks()]
    train = [[bare_text(task.recipe, row) for row in drawn(task.train, options.train)] for task in known]
    test = [[bare_text(task.recipe, row) for row in drawn(task.test, options.test)] for task in known]
    texts = [text for part in (train, test) for rows in part for text in rows]
    for name, way in {"n-grams": lambda: np.array(list(map(embed, texts))), "hidden": lambda: hidden(texts)}.items():
        began = perf_counter()
        vectors = way()
        took = perf_counter() - began
        first, third = compared(vectors, list(map(len, train)), list(map(len, test)))
        print(f"{name}: first {percent(first)}, among three {percent(third)}; {1000 * took / len(texts):.1f} ms a text")


def hidden(texts: Sequence[str]) -> np.ndarray:
    """The base's mean hidden states over each of `texts`, of length 1: [texts, width]."""
    with tempfile.TemporaryDirectory(prefix="loraland-hidden-") as folder:
        config = read_config()
        config = dataclasses.replace(config, base_model=str(find_model(config)), var_dir=Path(folder))
        config.adapters_dir.mkdir()
        engine = Engine(config)
        torch.set_num_threads(1 if engine.machine.runner.decoder.has_own_threads else torch.get_num_threads())
        waiting, found = list(enumerate(texts)), {}
        while waiting or engine.has_work:
            while waiting and engine.capacity:
                number, text = waiting.pop()
                engine.add(Generate(str(number), None, prompt=text, sampling=Sampling(max_tokens=1), is_embedding=True))
            found |= {int(event.id): event.vector for event in engine.step() if isinstance(event, Embedded)}
        engine.close()
    return unit(np.array([found[number] for number in range(len(texts))]))


def compared(vectors: np.ndarray, train: Sequence[int], test: Sequence[int]) -> tuple[list[bool], list[bool]]:
    """Whether the task of each test row is the nearest, and among the three nearest: `vectors` are of `train` rows of
    each task, then of `test` rows."""
    parts = np.split(vectors, np.cumsum([*train, *test])[:-1])
    middle = np.mean([part.mean(axis=0) for part in parts[: len(train)]], axis=0)
    of_tasks = unit(np.array([unit(part - middle).mean(axis=0) for part in parts[: len(train)]]))
    first, third = [], []
    for number, rows in enumerate(parts[len(train) :]):
        order = np.argsort(-(unit(rows - middle) @ of_tasks.T), axis=1)
        first += list(order[:, 0] == number)
        third += list((order[:, :3] == number).any(axis=1))
    return first, third


if __name__ == "__main__":
    main()
