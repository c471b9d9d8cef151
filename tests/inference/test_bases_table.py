"""The table of docs/bases.md is what the last run showed, and that run was of the tests and variants that there are."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from tests.inference.bases_table import COLUMNS, REPORT, WHO, Recorder, declared, in_document, rendered, table
from tests.inference.families import VARIANTS

AGAIN = "run `python -m tests.inference.bases_table`"


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return json.loads(REPORT.read_text("utf-8"))


def test_the_document_has_the_table_of_the_report(report: dict[str, Any]) -> None:
    assert in_document() == rendered(report), "run `python -m tests.inference.bases_table --render`"


def test_the_report_is_of_the_tests_and_variants_that_there_are(report: dict[str, Any]) -> None:
    shown = {tuple(cell) for cell in report["cells"]}
    assert shown - declared() == set(), f"these are shown by no test any more; {AGAIN}"
    assert declared() - shown == set(), f"these were not run; {AGAIN}"


def test_every_cell_has_a_column_somebody_and_a_variant() -> None:
    cells = declared()
    assert {column for column, _, _ in cells} == set(COLUMNS)
    assert {who for _, who, _ in cells} == set(WHO)
    assert {variant for _, _, variant in cells} == set(VARIANTS)


def test_a_cell_counts_the_variants_of_a_family_that_were_run() -> None:
    variants: dict[str, tuple[str, Any]] = {"a": ("a", {}), "a, odd": ("a", {}), "b": ("b", {})}
    cells = [("full", "torch", "a"), ("full", "torch", "a, odd"), ("full", "C++", "a"), ("engine", "engine", "b")]
    _, _, first, second = table(cells, variants).splitlines()
    assert first.startswith("| a, 2 | T2 C1 |  |")
    assert second.startswith("| b, 1 |  |")
    assert " | 1 | " in second


def test_what_fails_or_is_skipped_shows_nothing() -> None:
    recorder = Recorder()
    recorder.pytest_collection_modifyitems([item_of(variant) for variant in ("fine", "wrong", "left out")])
    for variant, when, passed in (
        *(("fine", "setup", True), ("fine", "call", True), ("fine", "teardown", True)),
        *(("wrong", "setup", True), ("wrong", "call", False), ("wrong", "teardown", True)),
        ("left out", "setup", False),
        ("of another test", "call", True),
    ):
        recorder.pytest_runtest_logreport(SimpleNamespace(nodeid=variant, when=when, passed=passed))
    assert recorder.passed == {("gptq", "torch", "fine")}
    assert recorder.failed == {("gptq", "torch", "wrong"), ("gptq", "torch", "left out")}


def item_of(variant: str) -> Any:
    """A test of a variant as pytest collects it."""
    marks = [pytest.mark.cell("{kind}", "torch").mark]
    params = {"variant": variant, "kind": "gptq"}
    return SimpleNamespace(nodeid=variant, callspec=SimpleNamespace(params=params), iter_markers=lambda _: marks)
