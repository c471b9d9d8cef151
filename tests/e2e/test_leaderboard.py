"""Reading the measurements: sorting and narrowing the leaderboard, and walking through the paper's table."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect


def test_a_click_on_a_header_sorts_and_a_category_narrows_and_the_address_keeps_both(page: Page) -> None:
    page.goto("/leaderboard/")
    rows = page.locator(".board tbody tr")
    everything = rows.count()
    page.get_by_role("link", name="Base").click()
    expect(page.locator("[aria-sort=descending]")).to_contain_text("Base")
    expect(page).to_have_url("/leaderboard/?sort=base")
    bases = [float(text) for text in rows.locator(".board-base").all_inner_texts()]
    assert len(set(bases)) > 1
    assert bases == sorted(bases, reverse=True)
    page.get_by_role("radio", name="Knowledge").check(force=True)
    expect(page.get_by_role("status")).to_contain_text(f"of {everything} measured")
    expect(page).to_have_url("/leaderboard/?category=knowledge&sort=base")
    page.reload()
    assert 0 < rows.count() < everything
    expect(page.locator("[aria-sort=descending]")).to_contain_text("Base")


def test_answers_and_the_task_are_one_click_away(page: Page) -> None:
    page.goto("/leaderboard/?q=dbpedia")
    page.get_by_role("link", name="Answers of").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Answers of dbpedia@")
    page.get_by_role("link", name="Encyclopedia topics").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Encyclopedia topics")


def test_the_papers_table_is_walked_through_by_model_and_by_task(page: Page) -> None:
    page.goto("/paper/")
    rows = page.locator(".paper-board tbody tr")
    expect(rows).to_have_count(31)
    page.get_by_label("Task").select_option("viggo")
    expect(rows).to_have_count(11)  # ten models, and ours
    expect(page).to_have_url("/paper/?task=viggo")
    page.get_by_label("Task").select_option("")
    page.get_by_label("Base model").select_option("all")
    expect(page.locator(".matrix tbody tr")).to_have_count(31)


@pytest.mark.parametrize("path", ["/leaderboard/", "/leaderboard/viggo/", "/paper/", "/paper/?model=all"])
def test_a_phone_scrolls_down_only(page: Page, path: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(path)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
