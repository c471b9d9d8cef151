"""The paper's Table 12, and what follows from it."""

from __future__ import annotations

import pytest

from loraland.paper.averages import PRINTED, headline, summaries
from loraland.paper.table import MODELS, table, tasks


def test_the_table_has_31_tasks_of_ten_models_with_scores_from_0_to_1() -> None:
    assert len(table()) == len(tasks()) == 31
    for task in table():
        assert set(task.cells) == set(MODELS)
        scores = [task.gpt35, task.gpt4, *(score for cell in task.cells.values() for score in (cell.base, cell.tuned))]
        assert all(0 <= score <= 1 for score in scores)


def test_a_cell_is_the_printed_one() -> None:
    cell = tasks()["viggo"].cells["mistral-7b"]
    assert (cell.base, cell.tuned, tasks()["viggo"].gpt4) == (0.044, 0.483, 0.374)


def test_the_averages_over_bases_and_gpt_4_are_those_that_the_paper_prints() -> None:
    found = headline()
    assert (found.base, found.gpt4) == pytest.approx((0.301, 0.661), abs=0.0005)
    assert {summary.model for summary in summaries() if abs(summary.base - summary.printed.base) > 0.001} == set()


def test_two_fine_tuned_averages_and_every_count_above_gpt_4_do_not_follow_from_the_table() -> None:
    assert {summary.model for summary in summaries() if not summary.tuned_follows} == {"gemma-7b", "gemma-7b-instruct"}
    assert all(
        summary.wins + summary.ties < PRINTED[summary.model].wins for summary in summaries() if summary.model != "phi-2"
    )
    found = headline()
    assert (found.improved, found.wins, found.ties, found.pairs) == (301, 194, 10, 310)


def test_ten_points_over_gpt_4_follow_and_34_over_the_base_do_not() -> None:
    found = headline()
    assert round(100 * found.over_gpt4) == 10
    assert round(100 * found.lift) == 38
    assert round(100 * found.best_lift) == 25
