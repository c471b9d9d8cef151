"""Data sets of the hub as files: ``python -m inference.tasks.fetch [TASK …]``.

Each task whose recipe has a table `[hub]` gets a folder with train.jsonl and test.jsonl. A folder is complete or
absent, and one that is there is not fetched again. Needs the extra `hub`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from urllib.parse import quote

from tqdm import tqdm

from inference.config import ConfigError, read_config
from inference.tasks.data import DataError, Row
from inference.tasks.hub import Hub
from inference.tasks.hub_rows import MAX_TRAIN, SEED, as_row, choose
from inference.tasks.recipe import Recipe, RecipeError, load_recipe, tasks

FORMATS: Final = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
LOOKED_AT: Final = 5 * MAX_TRAIN
"""So many rows of a split are read at most: some have half a million."""


class Unreachable(DataError):
    """The hub does not answer, so the next data set will not come either."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch what the command line names and print the tasks that stand; 1 with a sentence when none does."""
    options = _parser().parse_args(arguments)
    try:
        folder = options.to or datasets_dir()
        recipes = [load_recipe(task) for task in options.tasks or tasks()]
        standing = _fetch_all(recipes, folder)
    except (ConfigError, DataError, RecipeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(standing))
    return 0


def datasets_dir() -> Path:
    """Where fetched data sets lie."""
    return read_config(os.environ).var_dir / "datasets"


def fetch(recipe: Recipe, folder: Path) -> Path:
    """The folder of the rows of `recipe` below `folder`, fetched from the hub unless it is there.

    Raises `DataError` with a sentence when that cannot be done, `Unreachable` when the hub does not answer.
    """
    place = folder / recipe.task
    if (place / "test.jsonl").is_file():
        return place
    if (hub := recipe.hub) is None:
        raise DataError(f"{recipe.task}: no data set of the hub maps to it plainly; give the rows with --data")
    train, test = choose(_rows(hub, hub.train), _rows(hub, hub.test) if hub.test else None)
    if not train or not test:
        raise DataError(f"{recipe.task}: {hub.id} has no rows that can be used")
    _write(place, train=train, test=test)
    return place


def _fetch_all(recipes: Sequence[Recipe], folder: Path) -> list[str]:
    """The tasks that stand below `folder` now. Raises `DataError` when none does."""
    standing = []
    with tqdm(recipes, unit="data set") as bar:
        for recipe in bar:
            bar.set_description(recipe.task)
            try:
                fetch(recipe, folder)
            except Unreachable:
                raise
            except DataError as error:
                bar.write(str(error), file=sys.stderr)
            else:
                standing.append(recipe.task)
    if not standing:
        raise DataError("none of the data sets could be fetched")
    return standing


def _rows(hub: Hub, parts: Sequence[str]) -> Iterator[Row]:
    """The usable rows of `parts`, of each as many as `LOOKED_AT`."""
    for part in parts:
        for config in hub.configs or (None,):
            table = _table(hub, config, part)
            chosen = random.Random(SEED).sample(range(len(table)), min(len(table), LOOKED_AT))
            yield from (row for raw in table.select(chosen) if (row := as_row(raw, hub)) is not None)


def _table(hub: Hub, config: str | None, part: str) -> Any:
    """The data set's table of `part`: a split, or a file of the repository."""
    datasets = _library()
    form = FORMATS.get(Path(part).suffix)
    try:
        if form:
            return datasets.load_dataset(form, data_files=_address(hub, part), split="train")
        return datasets.load_dataset(hub.id, config, revision=hub.revision, split=part)
    except Exception as error:  # the library raises errors of several others; each ends the fetching of this data set
        # No answer came, as either of the library's clients tells it: its own, and httpx below the file system.
        if isinstance(error, ConnectionError) or any(kind.__name__ == "TransportError" for kind in type(error).__mro__):
            raise Unreachable(f"the hub cannot be reached, so {hub.id} cannot be fetched: {_told(error)}") from error
        raise DataError(f"{hub.id} cannot be fetched: {_told(error)}") from error


def _address(hub: Hub, file: str) -> str:
    if Path(hub.id).is_dir():
        return str(Path(hub.id) / file)
    return f"hf://datasets/{hub.id}@{quote(hub.revision, safe='')}/{file}"


def _library() -> ModuleType:
    try:
        return import_module("datasets")
    except ImportError as error:
        raise Unreachable("data sets of the hub need an extra: pip install 'loraland[hub]'") from error


def _told(error: Exception) -> str:
    """The first line of what it says."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _write(place: Path, **parts: Iterable[Row]) -> None:
    """A file for each of `parts` in a new folder, which appears in one piece."""
    partial = place.with_name(f".{place.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, rows in parts.items():
        lines = (json.dumps({"inputs": row.inputs, "target": row.target}, ensure_ascii=False) for row in rows)
        (partial / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    partial.rename(place)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m inference.tasks.fetch", description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="by default all that have a recipe")
    parser.add_argument("--to", type=Path, metavar="DIR", help="by default VAR_DIR/datasets")
    return parser


if __name__ == "__main__":
    sys.exit(main())
