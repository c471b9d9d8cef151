"""One box without a choice of adapter: ask, see who answered and why, let another answer."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.e2e.conftest import ENDED

QUESTION = "My new card has still not arrived. How long does that take?"
CHOSEN = "banking77"


def ask(page: Page) -> None:
    page.goto("/")
    page.get_by_label("Ask the land").fill(QUESTION)
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page).to_have_url(re.compile(r"/chat/[0-9a-f-]{36}/$"))


def test_the_adapter_that_fits_answers_says_why_and_can_be_changed(page: Page) -> None:
    ask(page)
    expect(page.locator(f'#chat[data-adapter="{CHOSEN}"]')).to_be_visible()
    expect(page.locator(".said-text")).to_have_text(QUESTION)
    answer = page.locator(".turn").last.locator(".answer:not([hidden])")
    expect(answer).to_have_attribute("data-state", ENDED)
    expect(page.locator(".chosen-why")).to_contain_text("The nearest to what you wrote.")
    expect(page.locator(".chosen-score")).to_have_text(re.compile(r"^0\.\d\d$"))

    page.locator(".chosen").get_by_role("button", name="The plain base").click()
    expect(page.locator('#chat[data-adapter=""]')).to_be_visible()
    expect(page.locator(".chosen-why")).to_have_text("You chose this one yourself.")
    expect(page.locator(".turn").last.locator(".answer:not([hidden])")).to_have_attribute("data-state", ENDED)
    expect(page.locator(".answer-number").last).to_have_text("2 of 2")
    expect(page.locator(f'[data-reroute="{CHOSEN}"]')).to_be_visible()


def test_the_choice_stays_for_the_chat(page: Page) -> None:
    ask(page)
    expect(page.locator(".answer").first).to_have_attribute("data-state", ENDED)
    page.locator("[data-field]").fill("inform(name[Portal 2], genres[puzzle], rating[good])")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".turn")).to_have_count(2)
    expect(page.locator(".answer").last).to_have_attribute("data-state", ENDED)
    expect(page.locator(f'#chat[data-adapter="{CHOSEN}"]')).to_be_visible()


def test_an_address_fills_the_box_and_sends_nothing(page: Page) -> None:
    page.goto("/chat/?adapter=auto&text=Send+nothing")
    expect(page.locator("[data-field]")).to_have_value("Send nothing")
    expect(page.get_by_role("button", name="Send")).to_be_enabled()
    expect(page.locator(".turn")).to_have_count(0)


def test_the_picker_offers_it_first(page: Page) -> None:
    page.goto("/chat/")
    page.get_by_role("link", name="Change adapter").click()
    expect(page.locator("#picker-list .pick").first).to_contain_text("Ask the land")
