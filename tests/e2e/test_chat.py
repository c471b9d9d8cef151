"""The main job: pick an adapter, send an example, watch it stream, lose nothing."""

from __future__ import annotations

import os
import re
import signal

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.e2e.conftest import ENDED, Site, until

WRITER = "viggo"
"""An adapter whose answers are sentences, so that they take a while."""

STORY = "Tell me a long story about a lighthouse, in every detail."

DIGEST = re.compile(r"^[0-9a-f]{8,}$")

WATCH = """
window.snapshots = [];
new MutationObserver(() => {
  const text = document.querySelector('.turn:last-of-type .answer:not([hidden]) .answer-text');
  if (text && text.textContent !== window.snapshots.at(-1)) window.snapshots.push(text.textContent);
}).observe(document, {subtree: true, childList: true, characterData: true});
"""


def open_chat(page: Page, slug: str) -> None:
    """From the catalogue to the chat, as a visitor clicks."""
    page.goto("/")
    page.locator(f'main a[href="/adapters/{slug}/"]').first.click()
    page.locator("main").get_by_role("link", name="Chat", exact=True).click()
    expect(page.locator("#composer")).to_be_visible()


def send_example(page: Page, number: int = 0) -> Locator:
    page.locator(".example-card").nth(number).click()
    page.get_by_role("button", name="Send").click()
    return page.locator(".turn").last.locator(".answer:not([hidden])")


def begin(page: Page) -> None:
    """Ask for an answer that takes seconds and is always the same, until its first words are there."""
    page.goto("/chat/?adapter=base")
    page.locator("details.sampling summary").click()
    page.locator("#sampling-temperature").fill("0")
    page.locator("#sampling-max_tokens").fill("300")
    page.locator("[data-field]").fill(STORY)
    page.get_by_role("button", name="Send").click()
    until(page, "document.querySelector('.answer:not([hidden]) .answer-text')?.textContent.trim()")


def ended(page: Page) -> str:
    """The last answer, whole."""
    answer = page.locator(".turn").last.locator(".answer:not([hidden])")
    expect(answer).to_have_attribute("data-state", ENDED)
    return answer.locator(".answer-text").inner_text()


def told(page: Page) -> str:
    begin(page)
    return ended(page)


def worker_of(site: Site) -> int:
    return site.child("inference")


def test_a_visitor_picks_an_adapter_and_watches_its_answer_grow(page: Page) -> None:
    page.add_init_script(WATCH)
    open_chat(page, WRITER)
    answer = send_example(page)
    expect(answer).to_have_attribute("data-state", "done")
    seen = page.evaluate("window.snapshots")
    final = answer.locator(".answer-text").inner_text().strip()
    growing = [text for text in seen if text.strip() and len(text.strip()) < len(final)]
    assert len(growing) >= 5, seen
    assert all(final.startswith(text.strip()) for text in growing), seen
    stats = answer.locator(".stats")
    expect(stats).to_contain_text("first token")
    expect(stats).to_contain_text("tokens/s")
    expect(stats.locator("code")).to_have_text(DIGEST)


def test_a_reload_in_mid_answer_shows_the_same_answer_complete(page: Page, site: Site) -> None:
    undisturbed = told(page)
    worker = worker_of(site)
    begin(page)
    os.kill(worker, signal.SIGSTOP)
    try:
        page.reload()
        answer = page.locator(".turn").last.locator(".answer:not([hidden])")
        expect(answer.locator(".answer-text")).not_to_be_empty()
        assert answer.get_attribute("data-state") == "streaming"
    finally:
        os.kill(worker, signal.SIGCONT)
    assert ended(page) == undisturbed


@pytest.mark.kills_server
def test_a_killed_web_process_loses_nothing(page: Page, site: Site) -> None:
    undisturbed = told(page)
    web = site.child("loraland.web")
    begin(page)
    os.kill(web, signal.SIGKILL)
    assert ended(page) == undisturbed
    site.wait_until_ready()


def test_stop_ends_the_answer_and_says_so(page: Page) -> None:
    page.goto("/chat/?adapter=base")
    page.locator("[data-field]").fill(STORY)
    page.get_by_role("button", name="Send").click()
    answer = page.locator(".turn").last.locator(".answer:not([hidden])")
    expect(answer.locator(".answer-text")).not_to_be_empty()
    page.keyboard.press("Escape")
    expect(answer).to_have_attribute("data-state", "stopped")
    expect(answer).to_contain_text("You stopped this answer.")


def test_an_example_fills_the_fields_and_does_not_send(page: Page) -> None:
    page.goto(f"/chat/?adapter={WRITER}&example=0")
    expect(page.locator("[data-field]").first).not_to_have_value("")
    expect(page.locator(".turn")).to_have_count(0)
