"""Measurements as files: what a fresh clone shows, and the README's table."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as site_settings
from django.core.management import CommandError, call_command

from inference.tasks.metrics import SCORING
from loraland.catalogue import store
from loraland.catalogue.card import read_card
from loraland.catalogue.models import AdapterVersion
from loraland.evals.models import Run, RunQuerySet, Sample
from loraland.evals.readme import PLACES, ReadmeError, put, table
from loraland.evals.results import RUN_FIELDS, read_file

Measured = Callable[..., Run]


def test_exported_runs_come_back_as_they_were_and_the_catalogue_shows_them(
    measured: Measured, publish: Callable[..., AdapterVersion], tmp_path: Path
) -> None:
    version = publish("dbpedia", digest="a", score={"tuned": 0.5, "n": 20})
    base = measured("dbpedia", "base", 0.2, prompt="four examples")
    run = measured(
        "dbpedia", score=0.9, low=0.8, high=0.95, gains={"base": {"run": str(base.pk), "low": 0.6, "high": 0.8}}
    )
    call_command("export_results", tmp_path)
    RunQuerySet._raw_delete(Run.objects.all(), "default")
    call_command("import_results", tmp_path)
    back = Run.objects.get(pk=run.pk)
    for name in ("task", "adapter", "digest", "score", "low", "high", "n", "gains", "verdict", "is_finished"):
        assert getattr(back, name) == getattr(run, name)
    version.refresh_from_db()
    assert (version.score["base"], version.score["tuned"], version.score["n"]) == (0.2, 0.9, 100)
    assert back.finished == run.finished.replace(microsecond=0)


@pytest.mark.django_db
def test_importing_twice_changes_nothing() -> None:
    call_command("import_results")
    count = Run.objects.count()
    call_command("import_results")
    assert Run.objects.count() == count > 0


@pytest.mark.django_db
def test_a_broken_file_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "viggo.json").write_text('{"task": "another"}')
    with pytest.raises(CommandError, match=r"viggo\.json must be an object whose task is 'viggo'"):
        call_command("import_results", tmp_path)


RUN = {"id": "0d8f5cbe-7f1c-4d2c-9d51-3f2a4bb7e001", "finished": "2026-01-01T00:00:00+00:00"}


@pytest.mark.django_db
@pytest.mark.parametrize(
    "runs",
    [
        '[{"id": 1}]',
        "[3]",
        "3",
        '{"a": 1}',
        "[" * 90 + "]" * 90,
        json.dumps([{**RUN, **dict.fromkeys(RUN_FIELDS, "x")}]),
        json.dumps([{**RUN, **dict.fromkeys(RUN_FIELDS), "samples": 3}]),
        json.dumps([{**RUN, "finished": 3}]),
        json.dumps([{**RUN, **dict.fromkeys(RUN_FIELDS, 1), "samples": [{"id": "x"}]}]),
    ],
)
def test_a_broken_run_is_refused_with_the_name_of_its_file(runs: str, tmp_path: Path) -> None:
    (tmp_path / "viggo.json").write_text(f'{{"task": "viggo", "runs": {runs}}}')
    with pytest.raises(CommandError, match=r"viggo\.json could not be read"):
        call_command("import_results", tmp_path)
    assert not Run.objects.exists()


@pytest.mark.django_db
def test_a_file_nested_without_end_is_not_json(tmp_path: Path) -> None:
    (tmp_path / "viggo.json").write_text("[" * 100_000)
    with pytest.raises(CommandError, match=r"viggo\.json is not JSON"):
        call_command("import_results", tmp_path)


def test_drawn_rows_are_exported_where_the_terms_of_the_data_allow_it(measured: Measured, tmp_path: Path) -> None:
    for task in ("banking77", "tweet_emotion"):
        for subject in ("base", "adapter"):
            measured(task, subject, samples=[("kept", "here")])
            measured(task, subject, split="drawn", n=1, samples=[("yes", "yes")])
    call_command("export_results", tmp_path)
    shown = {task: read_file(tmp_path / f"{task}.json")["runs"] for task in ("banking77", "tweet_emotion")}
    told = {
        task: [(run["subject"], run["split"]) for run in runs if run.get("samples")] for task, runs in shown.items()
    }
    assert told == {"banking77": [("adapter", "drawn"), ("base", "drawn")], "tweet_emotion": []}
    assert {run["split"] for run in shown["tweet_emotion"]} == {"test"}
    RunQuerySet._raw_delete(Sample.objects.all(), "default")
    RunQuerySet._raw_delete(Run.objects.all(), "default")
    call_command("import_results", tmp_path)
    assert [run.samples.get().answer for run in Run.objects.drawn()] == ["yes", "yes"]


def test_a_constant_answer_is_told_where_it_is_a_label_or_the_rows_may_be_given_on(
    measured: Measured, tmp_path: Path
) -> None:
    for task in ("tweet_emotion", "webnlg", "viggo"):
        measured(task, "base")
        measured(task, "adapter")
        measured(task, "constant", answer="joy")
    call_command("export_results", tmp_path)
    told = {
        path.stem: [run["answer"] for run in read_file(path)["runs"] if "answer" in run]
        for path in tmp_path.glob("*.json")
    }
    assert told == {"tweet_emotion": ["joy"], "webnlg": [], "viggo": ["joy"]}


def test_runs_that_are_known_take_up_the_constant_answer_that_came_later(measured: Measured, tmp_path: Path) -> None:
    measured("tweet_emotion", "base")
    measured("tweet_emotion")
    run = measured("tweet_emotion", "constant", answer="joy")
    call_command("export_results", tmp_path)
    Run.objects.filter(pk=run.pk).update(answer="")
    call_command("import_results", tmp_path)
    assert Run.objects.get(pk=run.pk).answer == "joy"


@pytest.fixture
def viggo(settings: Any, tmp_path: Path) -> Path:
    """A copy of a shipped adapter, in place of them all."""
    copy = tmp_path / "adapters" / "viggo"
    shutil.copytree(site_settings.DEMO_ADAPTERS_DIR / "viggo", copy)
    settings.DEMO_ADAPTERS_DIR = copy.parent
    return copy


def test_a_card_says_what_was_measured_here_once_that_is_exported(
    measured: Measured, viggo: Path, tmp_path: Path
) -> None:
    before = read_card(viggo / "card.toml")
    measured("viggo", "base", 0.25, metric="rouge_l", prompt="plain instruction")
    measured("viggo", score=0.5, low=0.4, high=0.6, metric="rouge_l", digest=store.digest_in(viggo))
    call_command("export_results", tmp_path / "results")
    after = read_card(viggo / "card.toml")
    assert (after.score["base"], after.score["tuned"], after.score["base_prompt"]) == (0.25, 0.5, "plain instruction")
    assert replace(after, score={}) == replace(before, score={})


def test_cards_stand_in_only_for_weights_that_were_never_measured(
    measured: Measured, viggo: Path, tmp_path: Path
) -> None:
    call_command("export_results", tmp_path, "--cards", viggo)
    assert [run["source"] for run in read_file(tmp_path / "viggo.json")["runs"]] == ["training", "training"]
    measured("viggo", "base", 0.25)
    measured("viggo", score=0.5, digest=store.digest_in(viggo))
    call_command("export_results", tmp_path)
    call_command("export_results", tmp_path, "--cards", viggo)
    assert {run["source"] for run in read_file(tmp_path / "viggo.json")["runs"]} == {"engine"}


def test_every_shipped_adapter_has_results_of_exactly_its_weights() -> None:
    """After training, run `manage.py export_results --cards adapters/*` and `manage.py write_readme`."""
    shipped = {
        path.parent.name: store.digest_in(path.parent) for path in site_settings.DEMO_ADAPTERS_DIR.glob("*/card.toml")
    }
    files = [read_file(path) for path in site_settings.RESULTS_DIR.glob("*.json")]
    runs = [run for file in files for run in file.get("runs", ())]
    assert shipped.items() <= {run["adapter"]: run["digest"] for run in runs if run["subject"] == "adapter"}.items()


@pytest.mark.parametrize(("name", "most"), PLACES.items())
def test_the_table_in_a_document_is_the_one_that_the_results_make(name: str, most: int) -> None:
    text = (site_settings.REPO_DIR / name).read_text()
    assert put(text, table(site_settings.RESULTS_DIR, most)) == text


def test_a_short_table_goes_evenly_down_the_list_and_averages_all_of_it(tmp_path: Path) -> None:
    for number, task in enumerate(("gsm8k", "mmlu", "boolq", "snli", "dbpedia")):
        write_runs(tmp_path, task, tuned=0.1 + number / 10, verdict="gain", rows=300)
    lines = table(tmp_path, 3).splitlines()
    assert [line.split("`")[1] for line in lines[2:-2]] == ["dbpedia", "boolq", "gsm8k"]
    assert lines[-1] == "5 clear gains, +28.0 points on average; all 5 measured: +28.0."


def test_the_table_shows_gains_from_the_largest_and_says_where_there_is_none(tmp_path: Path) -> None:
    for task, tuned, verdict, rows in (("gsm8k", 0.03, "no clear gain", 300), ("dbpedia", 0.9, "gain", 100)):
        write_runs(tmp_path, task, tuned=tuned, verdict=verdict, rows=rows)
    lines = table(tmp_path, 32).splitlines()
    assert lines[2] == "| Encyclopedia topics (`dbpedia`) | accuracy | 2.0 | **90.0** | +88.0 | 100 | clear gain |"
    assert lines[3].endswith("| +1.0 | 300 | no clear gain |")
    assert lines[-1] == "1 clear gains, +88.0 points on average; all 2 measured: +44.5."


def test_a_gain_over_too_few_rows_is_in_the_table_and_not_in_the_averages(tmp_path: Path) -> None:
    write_runs(tmp_path, "dbpedia", tuned=0.9, verdict="gain", rows=300)
    write_runs(tmp_path, "viggo", tuned=0.3, verdict="no clear gain", rows=16)
    lines = table(tmp_path, 32).splitlines()
    assert "| 16 | no clear gain |" in lines[3]
    assert lines[-1] == "1 clear gains, +88.0 points on average; all 1 measured: +88.0."


def write_runs(directory: Path, task: str, *, tuned: float, verdict: str, rows: int) -> None:
    base = {"id": "b", "subject": "base", "score": 0.02, "gains": {}}
    run = {"id": "a", "subject": "adapter", "split": "test", "adapter": task, "metric": "accuracy", "score": tuned}
    run |= {
        "n": rows,
        "scoring": SCORING,
        "low": None,
        "high": None,
        "verdict": verdict,
        "gains": {"base": {"run": "b"}},
    }
    (directory / f"{task}.json").write_text(json.dumps({"task": task, "runs": [base, run]}))


def test_a_document_without_a_place_for_the_table_is_refused() -> None:
    with pytest.raises(ReadmeError, match="has no <!-- results -->"):
        put("# A project\n", "table")
