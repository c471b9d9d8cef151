"""On a phone, upright, on its side or with its keyboard open, the form covers nothing that it asks about."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from tests.e2e import touch
from tests.e2e.conftest import PATIENCE_MS, Site

BLANK, EXAMS = "winogrande", "mmlu"
"""Adapters with three fields and with five."""
SCREENS = {"upright": (390, 844), "keyboard": (390, 450), "on its side": (844, 390)}


@pytest.fixture(params=SCREENS.values(), ids=SCREENS)
def phone(request: pytest.FixtureRequest, browser: Browser, site: Site) -> Iterator[BrowserContext]:
    context = browser.new_context(base_url=site.url, **touch.phone(*request.param))
    context.set_default_timeout(PATIENCE_MS)
    yield context
    context.close()


def scroll_to(page: Page, wanted: Locator) -> None:
    """Swipe at the edge, where nothing scrolls in itself, until all of `wanted` is in sight."""
    finger = touch.finger(page.context)
    height = page.viewport_size["height"] if page.viewport_size else 0
    while (box := wanted.bounding_box()) and box["y"] + box["height"] > height:
        touch.drag(finger, 4, height - 10, -height // 3)
        moved = wanted.bounding_box()
        assert moved, "it is gone"
        assert moved["y"] < box["y"], "the page does not go on, and this is still out of sight"


def is_uncovered(wanted: Locator) -> bool:
    """Whether nothing lies over the middle of it."""
    return bool(
        wanted.evaluate(
            """element => {
              const { left, top, width, height } = element.getBoundingClientRect();
              return element.contains(document.elementFromPoint(left + width / 2, top + height / 2));
            }"""
        )
    )


def test_every_field_and_send_can_be_reached_by_finger(phone: BrowserContext) -> None:
    page = phone.new_page()
    page.goto(f"/chat/?adapter={BLANK}")
    for wanted in [*page.locator("[data-field]").all(), page.get_by_role("button", name="Send")]:
        scroll_to(page, wanted)
        assert is_uncovered(wanted), wanted


def test_the_form_covers_no_example(phone: BrowserContext) -> None:
    page = phone.new_page()
    page.goto(f"/chat/?adapter={EXAMS}")
    for example in page.locator(".example-card").all():
        scroll_to(page, example)
        assert is_uncovered(example), example


def test_the_answer_is_in_sight_and_stop_in_reach_while_it_streams(phone: BrowserContext) -> None:
    page = phone.new_page()
    page.goto(f"/chat/?adapter={BLANK}")
    page.locator(".example-card").first.tap()
    page.get_by_role("button", name="Send").tap()
    answer = page.locator(".turn").last.locator(".answer")
    expect(answer.locator(".answer-text")).not_to_be_empty()
    text = answer.locator(".answer-text")
    expect(text).to_be_in_viewport()
    assert is_uncovered(text)
