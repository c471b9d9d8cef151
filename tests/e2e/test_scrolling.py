"""A reader who turns back while an answer streams is let go at once, by finger, trackpad or key."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.e2e import touch
from tests.e2e.conftest import PATIENCE_MS, Site, until
from tests.e2e.touch import drag

POEM = "Write a very long poem about the sea.\n\nIt has a hundred verses." + "\n." * 13
"""What the base goes on with to its limit, greedily; itself it is higher than the box of a message."""

DRAG = 232
"""Pixels of one drag of a finger, as a reader makes it."""


@pytest.fixture
def phone(browser: Browser, site: Site) -> Iterator[BrowserContext]:
    context = browser.new_context(base_url=site.url, **touch.phone(390, 600))
    context.set_default_timeout(PATIENCE_MS)
    yield context
    context.close()


def ask(page: Page) -> None:
    page.goto("/chat/?adapter=base")
    page.locator(".sampling summary").click()
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Longest answer").fill("4096")  # no processor is through before the test is
    page.locator("[data-field]").fill(POEM)
    page.get_by_role("button", name="Send").click()


def stream(page: Page) -> None:
    """Ask for more than a screen, and wait until the page has scrolled along with it."""
    ask(page)
    until(page, "scrollY > 400")


def await_growth(page: Page, characters: int = 40) -> None:
    """Until the answer has grown by so much: time enough for a page that does not let go to jump back."""
    length = "document.querySelector('.answer-text').textContent.length"
    until(page, f"{length} > {page.evaluate(length) + characters}")


def left_below(page: Page) -> float:
    return float(page.evaluate("document.documentElement.scrollHeight - innerHeight - scrollY"))


def test_a_finger_scrolls_up_while_the_answer_streams_and_gets_all_of_its_way(phone: BrowserContext) -> None:
    page = phone.new_page()
    stream(page)
    drag(touch.finger(phone), 195, 150, DRAG)
    await_growth(page)
    assert left_below(page) >= DRAG - touch.SLOP
    expect(page.locator("#latest")).to_be_visible()
    there = page.evaluate("scrollY")  # or somewhat higher, once the page has come to rest
    await_growth(page)
    assert page.evaluate("scrollY") <= there


def test_the_button_brings_the_reader_back_and_the_page_goes_along_again(phone: BrowserContext) -> None:
    page = phone.new_page()
    stream(page)
    drag(touch.finger(phone), 195, 150, DRAG)
    await_growth(page)
    page.locator("#latest").tap()
    expect(page.locator("#latest")).to_be_hidden()
    await_growth(page)
    assert left_below(page) <= 2


def test_a_finger_that_reaches_the_end_takes_it_up_again(phone: BrowserContext) -> None:
    page = phone.new_page()
    stream(page)
    finger = touch.finger(phone)
    drag(finger, 195, 150, 120)
    await_growth(page)
    expect(page.locator("#latest")).to_be_visible()
    while page.locator("#latest").is_visible():  # the end moves on meanwhile; a finger is faster
        drag(finger, 195, 470, -320)
    await_growth(page)
    assert left_below(page) <= 2


def test_a_trackpad_lets_go_with_its_first_small_step(page: Page) -> None:
    page.set_viewport_size({"width": 1440, "height": 600})
    stream(page)
    page.mouse.move(720, 250)
    for _ in range(4):
        page.mouse.wheel(0, -4)
    await_growth(page)
    there = page.evaluate("scrollY")
    await_growth(page, 120)
    assert page.evaluate("scrollY") == there
    expect(page.locator("#latest")).to_be_visible()


def test_a_message_that_scrolls_itself_does_not_let_go(page: Page) -> None:
    page.set_viewport_size({"width": 1440, "height": 3000})  # so high that the answer does not push the message out
    ask(page)
    await_growth(page, 10)
    message = page.locator(".said-text").first
    message.evaluate("box => box.scrollTo(0, 60)")
    message.hover()
    page.mouse.wheel(0, -40)
    until(page, "document.querySelector('.said-text').scrollTop < 60")
    await_growth(page)
    expect(page.locator("#latest")).to_be_hidden()
