"""A network that goes away in silence is told within seconds, and the answer is caught up when it is back."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from tests.e2e.cable import Cable
from tests.e2e.conftest import PATIENCE_MS, Site, until
from tests.e2e.test_scrolling import ask, await_growth


@pytest.fixture
def cable(site: Site) -> Iterator[Cable]:
    cable = Cable(urlsplit(site.url).port or 80)
    yield cable
    cable.close()


@pytest.fixture
def behind(browser: Browser, cable: Cable) -> Iterator[BrowserContext]:
    """A visitor whose every byte goes through the cable."""
    context = browser.new_context(base_url=cable.url, viewport={"width": 1440, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    yield context
    cable.mend()
    context.close()


def test_a_strip_says_that_the_network_is_gone_and_goes_when_the_answer_is_caught_up(
    behind: BrowserContext, cable: Cable, site: Site
) -> None:
    page = behind.new_page()
    ask(page)
    strip, text = page.locator("#connection"), page.locator(".answer-text")
    await_growth(page)
    cable.cut()
    expect(strip).to_be_visible()
    expect(strip).to_contain_text("Answers go on")
    before = text.text_content() or ""
    page.wait_for_timeout(9_000)  # until the connection is given up, and a new one hangs as well
    assert text.text_content() == before
    expect(strip).to_be_visible()
    cable.mend()
    expect(strip).to_be_hidden()
    until(page, f"document.querySelector('.answer-text').textContent.length > {len(before) + 80}")
    page.keyboard.press("Escape")
    expect(page.locator(".answer")).to_have_attribute("aria-busy", "false")
    shown = text.text_content() or ""
    assert shown.startswith(before)
    page.goto(site.url + urlsplit(page.url).path)  # past the cable: its old connections stay dead
    assert page.locator(".answer-text").text_content() == shown


def test_a_browser_that_calls_itself_offline_is_not_believed_where_the_site_still_answers(
    behind: BrowserContext,
) -> None:
    page = behind.new_page()
    ask(page)
    await_growth(page)
    page.evaluate("dispatchEvent(new Event('offline'))")  # as a laptop without wireless, at a site of its own
    page.wait_for_timeout(5_000)
    expect(page.locator("#connection")).to_be_hidden()
