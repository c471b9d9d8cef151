"""`python -m tests.bench.tokens FILE`: the many answers of every shipped adapter, for another commit to match.

Writes `FILE` where there is none, else compares with it and exits 1 with the first answers that differ. Prompts are the
cards' examples, and test rows of `--data` where that is given; every third is sampled with a seed, the others greedy.
Engine settings (`DECODER`, `DTYPE`, …) come from the environment, as a worker's do.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from inference.config import read_config
from inference.model.torch_environment import prepare_torch
from inference.wire.protocol import AdapterRef, Delta, Failed, Generate, Sampling
from tests.bench.site import REPO
from tests.bench.tasks import read_tasks

prepare_torch()

from inference.engine.engine import Engine  # noqa: E402 - loads torch
from inference.training.scoring import put_into_store  # noqa: E402

AT_ONCE = 16


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as store:
        engine = Engine(replace(read_config(), var_dir=Path(store), base_model=str(options.model)))
        about = f"{engine.machine.fingerprint[:12]} {engine.machine.self_check}"
        answers = answer_all(engine, list(requests(Path(store), options.data, options.count, options.length)))
        engine.close()
    if not options.file.exists():
        options.file.write_text(json.dumps(answers, indent=0))
        sys.exit(f"wrote {len(answers)} answers of {about}")
    sys.exit(_difference(json.loads(options.file.read_text()), answers, about))


def requests(store: Path, data: Path | None, count: int, length: int) -> Iterator[Generate]:
    """`count` requests, each of another adapter than the one before; the first of every round is the base's."""
    tasks = read_tasks(data, -(-count // 32))
    refs = {task.slug: put_into_store(REPO / "adapters" / task.slug, store / "adapters") for task in tasks}
    rounds = range(max(len(task.rows) for task in tasks))
    asks = [(task, row[turn]) for turn in rounds for task in tasks if len(row := task.rows) > turn]
    for number, (task, inputs) in enumerate(asks[:count]):
        warm = Sampling(temperature=0.8, top_p=0.95, seed=number, max_tokens=length)
        sampling = warm if number % 3 == 2 else Sampling(max_tokens=length)
        ref = None if number % 33 == 32 else AdapterRef(refs[task.slug])
        yield Generate(f"{task.slug}-{number}", ref, prompt=task.fill(inputs), sampling=sampling)


def answer_all(engine: Engine, asks: list[Generate]) -> dict[str, list[int]]:
    """The token ids of every answer by the request's id, `AT_ONCE` at a time."""
    waiting, answers = deque(asks), {ask.id: list[int]() for ask in asks}
    live = set[str]()
    while waiting or engine.has_work:
        while waiting and len(live) < AT_ONCE:
            live.add(waiting[0].id)
            engine.add(waiting.popleft())
        for event in engine.step():
            if isinstance(event, Failed):
                raise RuntimeError(f"{event.id}: {event.error}")
            if isinstance(event, Delta):
                answers[event.id] += event.token_ids
            elif hasattr(event, "reason"):
                live.discard(event.id)
    return answers


def _difference(before: dict[str, list[int]], now: dict[str, list[int]], about: str) -> int:
    others = [id for id in before if before[id] != now.get(id)]
    for id in others[:5]:
        print(f"{id}: was {before[id]}, is {now.get(id)}")
    tokens = sum(map(len, before.values()))
    print(f"{len(before) - len(others)} of {len(before)} answers ({tokens} tokens) are those of {about}")
    return 1 if others or not before else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--data", type=Path, help="a directory of <adapter>/test.jsonl")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--length", type=int, default=32, help="the most tokens of an answer")
    parser.add_argument("--model", type=Path, default=REPO / "var" / "models" / "SmolLM2-135M-Instruct")
    return parser.parse_args()


if __name__ == "__main__":
    main()
