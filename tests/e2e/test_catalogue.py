"""Finding an adapter, with the keyboard, in both colours and on a phone."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect


def test_typing_and_choosing_a_category_narrow_the_cards_and_the_address(page: Page) -> None:
    page.goto("/")
    everything = page.locator(".card").count()
    page.get_by_role("searchbox").press_sequentially("banking77")
    expect(page.locator(".card")).to_have_count(1)
    expect(page.get_by_role("status")).to_contain_text(f"1 of {everything}")
    expect(page).to_have_url("/?q=banking77")
    page.reload()
    expect(page.locator(".card")).to_have_count(1)
    page.get_by_role("searchbox").fill("no such thing")
    page.get_by_role("link", name="Show all").click()
    expect(page.locator(".card")).to_have_count(everything)


def test_a_slow_press_on_what_was_found_leads_there_though_the_words_are_left_by_it(page: Page) -> None:
    page.goto("/")
    page.get_by_role("searchbox").fill("no such thing")
    page.get_by_role("link", name="Show all").hover()
    page.mouse.down()
    page.wait_for_timeout(1000)
    page.mouse.up()
    expect(page).to_have_url("/")
    expect(page.locator(".card").first).to_be_visible()


def test_the_lamp_says_that_the_worker_is_ready(page: Page) -> None:
    page.goto("/")
    expect(page.locator(".lamp.ready")).to_be_visible()


def test_the_chosen_colours_stay_after_a_reload(page: Page) -> None:
    page.emulate_media(color_scheme="light")
    page.goto("/")
    day = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    page.get_by_role("button", name="Switch to the dark colours").click()
    night = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    page.reload()
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == night != day


def test_the_first_tab_offers_to_skip_to_the_content(page: Page) -> None:
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()


@pytest.mark.parametrize("path", ["/", "/adapters/viggo/", "/accounts/signup/", "/chat/", "/compare/"])
def test_a_phone_scrolls_down_only(page: Page, path: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(path)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
