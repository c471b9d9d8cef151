"""Data sets of the hub as files; local folders stand for repositories of the hub."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from inference.tasks import fetch as fetching
from inference.tasks.data import DataError, read_split
from inference.tasks.fetch import Unreachable, fetch, main
from inference.tasks.recipe import Recipe, load_recipe

RECIPE = load_recipe("tweet_emotion")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of 40 tweets to learn from and 10 to be tested on, and the same as parquet beside it."""
    datasets = pytest.importorskip("datasets", reason="the extra `hub` is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "repository"
    folder.mkdir()
    for name, count in (("train", 40), ("test", 10)):
        rows = [{"text": f"{name} tweet {n}", "label": n % 4} for n in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        datasets.Dataset.from_list(rows).to_parquet(tmp_path / "parquet" / f"{name}.parquet")
    return folder


def recipe_of(repository: Path, **changes: Any) -> Recipe:
    assert RECIPE.hub
    return replace(RECIPE, hub=replace(RECIPE.hub, id=str(repository), configs=(), **{"train": ("train",), **changes}))


def test_a_data_set_of_the_hub_becomes_the_files_that_training_reads(repository: Path, tmp_path: Path) -> None:
    place = fetch(recipe_of(repository), tmp_path / "fetched")
    split = read_split(place.parent, "tweet_emotion", ["tweet"])
    assert (len(split.train) + len(split.validation), len(split.test)) == (40, 10)
    assert {row.target for row in split.test} == {"anger", "joy", "optimism", "sadness"}
    assert sorted(path.name for path in place.iterdir()) == ["test.jsonl", "train.jsonl"]


def test_files_of_a_repository_can_be_named_instead_of_splits(repository: Path, tmp_path: Path) -> None:
    files = {"train": ("parquet/train.parquet",), "test": ("repository/test.jsonl",)}
    place = fetch(recipe_of(tmp_path, **files), tmp_path / "fetched")
    whole = fetch(recipe_of(repository), tmp_path / "again")
    assert (place / "train.jsonl").read_text() == (whole / "train.jsonl").read_text()


def test_what_is_there_is_not_fetched_again(repository: Path, tmp_path: Path) -> None:
    place = fetch(recipe_of(repository), tmp_path)
    (repository / "train.jsonl").unlink()
    assert fetch(recipe_of(repository), tmp_path) == place


def test_an_interrupted_fetch_leaves_nothing_that_looks_whole(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(fetching, "json", None)
        with pytest.raises(AttributeError):
            fetch(recipe_of(repository), tmp_path)
    assert not (tmp_path / "tweet_emotion").exists()
    assert (fetch(recipe_of(repository), tmp_path) / "test.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"target": "emotion"}, "has no column 'emotion'; it has text, label"),
        ({"test": ("validation",)}, "cannot be fetched: .*validation"),
        ({"inputs": {"tweet": ""}}, "has no rows that can be used"),
    ],
)
def test_a_data_set_that_is_not_as_the_recipe_says_ends_with_a_sentence(
    repository: Path, tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        fetch(recipe_of(repository, **changes), tmp_path)


def test_a_task_without_a_data_set_on_the_hub_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="legal: no data set of the hub maps to it plainly; give the rows with --data"):
        fetch(load_recipe("legal"), tmp_path)


def test_without_the_extra_the_sentence_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(Unreachable, match=r"need an extra: pip install 'loraland\[hub\]'"):
        fetch(RECIPE, tmp_path)


@pytest.mark.parametrize("error", [ConnectionError, httpx.ConnectError])
def test_a_hub_that_does_not_answer_ends_the_command_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: type[Exception]
) -> None:
    asked: list[str] = []

    class Library:
        @staticmethod
        def load_dataset(name: str, *_: object, **__: object) -> object:
            asked.append(name)
            raise error("no route\nand many more lines")

    monkeypatch.setattr(fetching, "_library", lambda: Library)
    assert main(["boolq", "snli", "--to", str(tmp_path)]) == 1
    assert asked == ["google/boolq"]
    assert capsys.readouterr().err.endswith(
        "error: the hub cannot be reached, so google/boolq cannot be fetched: no route\n"
    )


def test_the_command_prints_the_tasks_that_stand_and_tells_of_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train", "test"):
        (tmp_path / "boolq").mkdir(exist_ok=True)
        (tmp_path / "boolq" / f"{name}.jsonl").touch()
    assert main(["legal", "boolq", "--to", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert out == "boolq\n"
    assert "legal: no data set of the hub" in err
    assert main(["legal", "--to", str(tmp_path)]) == 1
    assert "none of the data sets could be fetched" in capsys.readouterr().err
