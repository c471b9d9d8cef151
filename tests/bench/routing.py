"""How often `auto` finds the adapter of a row: `python -m tests.bench.routing --data DATASETS`.

`--freeze` makes the weights of the n-grams anew, `--cards` the embeddings of the shipped adapters; both change what is
in the repository. Without them each test row of each task is set before the embeddings of all cards, or of others.
"""

from __future__ import annotations

import argparse
import os
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from inference.tasks.card import CARD, write_embedding
from inference.tasks.data import Row, read_split
from inference.tasks.embedding import EMBEDDER, Embedding, bare, of_table
from inference.tasks.ngrams import BUCKETS, buckets
from inference.tasks.recipe import Recipe, load_recipe, tasks
from inference.tasks.template import fill
from inference.tasks.vectors import FROZEN, MOST_TEXTS, embedding_of, seen

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "loraland.settings")

from loraland.catalogue.routing.choice import Choice, choose
from loraland.catalogue.routing.index import Candidate, Index

BASE = "base"
ADAPTERS = Path(__file__).parents[2] / "adapters"
SIBLINGS = (
    {"hellaswag", "hellaswag_processed"},
    {"snli", "glue_wnli"},
    {"glue_mrpc", "glue_qqp", "glue_stsb"},
    {"reuters", "ag_news_headline", "conllpp"},
    {"tweet_emotion", "covid", "jigsaw", "glue_sst2"},
    {"arc_combined", "mmlu"},
)
"""Tasks whose inputs are of one kind: a choice among them is told apart from other errors."""

Written = Callable[[Recipe, Row], str]


@dataclass(frozen=True)
class Task:
    recipe: Recipe
    train: Sequence[Row]
    test: Sequence[Row]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a folder for each task")
    parser.add_argument("--freeze", action="store_true", help="make the n-grams' weights anew")
    parser.add_argument("--cards", action="store_true", help="write the embeddings into the shipped cards")
    parser.add_argument("--texts", type=int, metavar="N", help="vectors of N training rows, 0: of the card's examples")
    parser.add_argument("--words", type=int, metavar="M", help="beside M times each text the card's words")
    parser.add_argument("--apart", action="store_true", help="weights of 16 tasks, rows of the other 16")
    parser.add_argument("--many", type=int, metavar="N", help="how long a choice among so many takes, and nothing else")
    options = parser.parse_args()
    known = [task_of(name, options.data) for name in tasks()]
    if options.freeze:
        freeze(known)
    elif options.cards:
        write_cards(known)
    elif options.apart:
        print(apart(known))
    elif options.many:
        print(timed(known, options.many))
    else:
        report(known, shipped(known) if options.texts is None else made_of(known, options.texts, options.words))


def task_of(name: str, data: Path) -> Task:
    recipe = load_recipe(name)
    split = read_split(data, name, recipe.field_names)
    return Task(recipe, split.train, split.test)


def bare_text(recipe: Recipe, row: Row) -> str:
    return bare(row.inputs, recipe.field_names)


def whole_prompt(recipe: Recipe, row: Row) -> str:
    return fill(recipe.template, row.inputs)


def freeze(known: Sequence[Task]) -> None:
    """Write how much each bucket weighs, by the share of the tasks' training texts that have it, and their middle."""
    present = [np.array([_present(text) for text in _texts(task, bare_text)]) for task in known]
    weights, middle = _statistics(present)
    np.savez(FROZEN, weights=weights.astype(np.float32), middle=middle.astype(np.float32))


def _statistics(present: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    share = np.mean([texts.mean(axis=0) for texts in present], axis=0)
    weights = np.sqrt(np.log(1 / (share + 1 / MOST_TEXTS)).clip(0))
    return weights, np.mean([unit(texts * weights).mean(axis=0) for texts in present], axis=0)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True).clip(1e-9)


def _present(text: str) -> np.ndarray:
    found = np.zeros(BUCKETS)
    found[buckets(text)] = 1
    return found


def _texts(task: Task, written: Written, most: int = MOST_TEXTS) -> list[str]:
    return [written(task.recipe, row) for row in drawn(task.train, most)]


def drawn(rows: Sequence[Row], most: int) -> Iterable[Row]:
    places = np.random.default_rng(1).permutation(len(rows))[:most]
    return [rows[place] for place in places]


def write_cards(known: Sequence[Task]) -> None:
    for task in known:
        embedding = embedding_of([bare_text(task.recipe, row) for row in task.train])
        assert embedding is not None
        write_embedding(ADAPTERS / task.recipe.task / CARD, embedding.table())


def report(known: Sequence[Task], index: Index) -> None:
    print(ranked(index, known))
    for what, written in {"whole prompts": whole_prompt, "as callers send them": as_sent}.items():
        chosen = [[choose(index, [BASE], written(task.recipe, row)) for row in task.test] for task in known]
        print(told(what, known, chosen))


def shipped(known: Sequence[Task]) -> Index:
    """The index of the shipped adapters, as a site that serves them all has it."""
    return _index(known, [of_table(_card(task)["embedding"]) for task in known])


def made_of(known: Sequence[Task], num: int, times: int | None = None) -> Index:
    """The same with vectors of `num` training rows of each task, or of the examples on its card; with `times` of so
    many times each of these and of the card's words."""
    examples = [
        _texts(task, bare_text, num)
        if num
        else [bare(each["inputs"], task.recipe.field_names) for each in _card(task)["example"]]
        for task in known
    ]
    if times is not None:
        words = [" ".join((task.recipe.name, task.recipe.summary, task.recipe.description)) for task in known]
        examples = [texts * times + [told] for texts, told in zip(examples, words, strict=True)]
    return _index(known, list(map(embedding_of, examples)))


def _index(known: Sequence[Task], embeddings: Sequence[Embedding | None]) -> Index:
    recipes = [task.recipe for task in known]
    candidates = [Candidate(each.task, each.name, "", BASE, each.template, each.field_names) for each in recipes]
    return Index(candidates, [each for each in embeddings if each])


def _card(task: Task) -> dict[str, Any]:
    return tomllib.loads((ADAPTERS / task.recipe.task / CARD).read_text(encoding="utf-8"))


def apart(known: Sequence[Task]) -> str:
    """How often a row's adapter is the nearest where weights and middle come from other tasks than the row's."""
    train = [np.array([_present(text) for text in _texts(task, bare_text)]) for task in known]
    hits: list[bool] = []
    for half in (0, 1):
        weights, middle = _statistics(train[half::2])
        tasks_of = np.array([unit(unit(texts * weights) - middle).mean(axis=0) for texts in train])
        for number in range(1 - half, len(known), 2):
            rows = np.array([_present(bare_text(known[number].recipe, row)) for row in known[number].test])
            hits += list((unit(unit(rows * weights) - middle) @ unit(tasks_of).T).argmax(axis=1) == number)
    return f"bare inputs among all 32, with weights of other tasks: first {percent(hits)}"


def as_sent(recipe: Recipe, row: Row) -> str:
    """What a caller of `auto` sends: the text alone, or each of several fields in a line that begins with its name."""
    if len(recipe.fields) == 1:
        return bare_text(recipe, row)
    return "\n".join(f"{name}: {row.inputs[name]}" for name in recipe.field_names)


def ranked(index: Index, known: Sequence[Task]) -> str:
    """How often a row's adapter is the nearest of all to its inputs alone, and among the three nearest."""
    everyone, lines = np.arange(len(index.candidates)), []
    firsts, thirds = [], []
    for task in known:
        found = [
            [each.candidate.slug for each in index.nearest(seen(bare_text(task.recipe, row)), everyone, 3)]
            for row in task.test
        ]
        firsts.append([slugs[0] == task.recipe.task for slugs in found])
        thirds.append([task.recipe.task in slugs for slugs in found])
        wrong = Counter(slugs[0] for slugs in found if slugs[0] != task.recipe.task).most_common(2)
        most = ", ".join(f"{slug} {num}" for slug, num in wrong)
        lines.append(f"  {task.recipe.task:<20}{percent(firsts[-1])} {percent(thirds[-1])}  {most}")
    first, third = (percent(list(chain(*hits))) for hits in (firsts, thirds))
    head = f"bare inputs among all 32: first {first}, among three {third}"
    return "\n".join([head, *lines])


def told(what: str, known: Sequence[Task], chosen: Sequence[Sequence[Choice]]) -> str:
    """How often the adapter of a row was chosen, a sibling of its, and the base."""
    slugs = [[each.chosen.candidate.slug if each.chosen else "" for each in choices] for choices in chosen]
    names = [task.recipe.task for task in known]
    right = [slug == name for name, row in zip(names, slugs, strict=True) for slug in row]
    near = [slug in _siblings(name) for name, row in zip(names, slugs, strict=True) for slug in row]
    base = [not slug for row in slugs for slug in row]
    return f"{what}: right {percent(right)}, right or a sibling {percent(near)}, the base {percent(base)}"


def timed(known: Sequence[Task], num: int) -> str:
    """How long choices among `num` adapters of ten bases take, all that a web process does but ask for the stamp."""
    random, few = np.random.default_rng(3), shipped(known).candidates
    numbers = random.integers(-127, 128, (num, BUCKETS), np.int8)
    names = [replace(few[place % len(few)], slug=f"a{place}", base=f"{BASE}{place % 10}") for place in range(num)]
    embeddings = [Embedding(EMBEDDER, 1, each.tobytes()) for each in numbers]
    before, begun = _resident(), perf_counter()
    index, keys = Index(names, embeddings), [f"{BASE}{place}" for place in range(10)]
    _ = index.templates, index.by_fields, index.lone
    built, held = perf_counter() - begun, _resident() - before
    texts = [as_sent(task.recipe, row) for task in known for row in drawn(task.test, 30)]
    choose(index, keys, texts[0])
    took = sorted(_seconds(lambda text=text: choose(index, keys, text)) for text in texts)
    middle, late = took[len(took) // 2], took[int(len(took) * 0.95)]
    how = f"{1000 * middle:.1f} ms in the middle, {1000 * late:.1f} ms for the slowest twentieth"
    return f"{num} adapters: a choice takes {how}; {built:.1f} s to build, {held / 2**20:.0f} MB held"


def _seconds(work: Callable[[], object]) -> float:
    begun = perf_counter()
    work()
    return perf_counter() - begun


def _resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def _siblings(name: str) -> set[str]:
    return next((kind for kind in SIBLINGS if name in kind), {name})


def percent(hits: Sequence[bool]) -> str:
    low, high = wilson(sum(hits), len(hits))
    return f"{100 * np.mean(hits):5.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def wilson(hits: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share by Wilson's score."""
    z, share = 1.96, hits / of
    middle, width = share + z * z / (2 * of), z * (share * (1 - share) / of + z * z / (4 * of * of)) ** 0.5
    return (middle - width) / (1 + z * z / of), (middle + width) / (1 + z * z / of)


if __name__ == "__main__":
    main()
