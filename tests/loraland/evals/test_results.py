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

from loraland.catalogue.card import read_card
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.submission import digest_in
from loraland.evals.models import Run, RunQuerySet
from loraland.evals.readme import ReadmeError, put, table
from loraland.evals.results import read_file

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
    (tmp_path / "viggo.json").write_text('{"task": "viggo", "runs": [{"id": 1}]}')
    with pytest.raises(CommandError, match=r"A run in viggo\.json cannot be read"):
        call_command("import_results", tmp_path)


def test_chosen_rows_are_exported_where_the_terms_of_the_data_allow_it(measured: Measured, tmp_path: Path) -> None:
    measured("banking77", "base", 0.0, samples=[("x", "lost_card")])
    measured("banking77", samples=[("lost_card", "lost_card")])
    measured("banking77", "base", 0.0, split="validation", samples=[("y", "another row")])
    call_command("export_results", tmp_path, "--sample", "banking77:0")
    runs = read_file(tmp_path / "banking77.json")["runs"]
    shown = {(run["subject"], run["split"]): [each["answer"] for each in run.get("samples", ())] for run in runs}
    assert shown == {("adapter", "test"): ["lost_card"], ("base", "test"): ["x"], ("base", "validation"): []}
    with pytest.raises(CommandError, match="limit its use"):
        call_command("export_results", tmp_path, "--sample", "tweet_emotion:0")
    with pytest.raises(CommandError, match="is not TASK:ROW"):
        call_command("export_results", tmp_path, "--sample", "banking77")


def test_rows_that_were_chosen_once_stay_when_results_are_exported_again(measured: Measured, tmp_path: Path) -> None:
    for subject in ("base", "adapter"):
        measured("banking77", subject, samples=[("lost_card", "lost_card"), ("no", "card_arrival")])
    call_command("export_results", tmp_path, "--sample", "banking77:1")
    call_command("export_results", tmp_path)
    runs = read_file(tmp_path / "banking77.json")["runs"]
    assert [[each["index"] for each in run["samples"]] for run in runs] == [[1], [1]]


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
    measured("viggo", score=0.5, low=0.4, high=0.6, metric="rouge_l", digest=digest_in(viggo))
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
    measured("viggo", score=0.5, digest=digest_in(viggo))
    call_command("export_results", tmp_path)
    call_command("export_results", tmp_path, "--cards", viggo)
    assert {run["source"] for run in read_file(tmp_path / "viggo.json")["runs"]} == {"engine"}


def test_every_shipped_adapter_has_results_of_exactly_its_weights() -> None:
    """After training, run `manage.py export_results --cards adapters/*` and `manage.py write_readme`."""
    shipped = {path.parent.name: digest_in(path.parent) for path in site_settings.DEMO_ADAPTERS_DIR.glob("*/card.toml")}
    files = [read_file(path) for path in site_settings.RESULTS_DIR.glob("*.json")]
    runs = [run for file in files for run in file.get("runs", ())]
    assert shipped.items() <= {run["adapter"]: run["digest"] for run in runs if run["subject"] == "adapter"}.items()


def test_the_table_in_the_readme_is_the_one_that_the_results_make() -> None:
    text = (site_settings.REPO_DIR / "README.md").read_text()
    assert put(text, table(site_settings.RESULTS_DIR)) == text


def test_the_table_shows_gains_from_the_largest_and_says_where_there_is_none(tmp_path: Path) -> None:
    for task, tuned, verdict in (("gsm8k", 0.03, "no clear gain"), ("dbpedia", 0.9, "gain")):
        base = {"id": "b", "subject": "base", "score": 0.02, "gains": {}}
        run = {"id": "a", "subject": "adapter", "adapter": task, "metric": "accuracy", "score": tuned, "n": 300}
        run |= {"low": None, "high": None, "verdict": verdict, "gains": {"base": {"run": "b"}}}
        (tmp_path / f"{task}.json").write_text(json.dumps({"task": task, "runs": [base, run]}))
    lines = table(tmp_path).splitlines()
    assert lines[2] == "| Encyclopedia topics (`dbpedia`) | accuracy | 2.0 | **90.0** | +88.0 | 300 | clear gain |"
    assert lines[3].endswith("| +1.0 | 300 | no clear gain |")
    assert lines[-1] == "1 clear gains, +88.0 points on average; all 2 measured: +44.5."


def test_a_readme_without_a_place_for_the_table_is_refused() -> None:
    with pytest.raises(ReadmeError, match="has no <!-- results -->"):
        put("# A project\n", "table")
