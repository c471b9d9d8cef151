"""What holds for every page: how narrow it may get, how much it sends, and that no link leads to nothing."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.e2e.conftest import Site

PUBLIC = (
    "/",
    "/?q=no+such+thing",
    "/adapters/viggo/",
    "/chat/",
    "/chat/?adapter=viggo",
    "/chat/?adapter=auto",
    "/compare/",
    "/compare/?columns=viggo,base",
    "/leaderboard/",
    "/leaderboard/viggo/",
    "/paper/",
    "/paper/?model=all",
    "/paper/blends/",
    "/paper/complexity/",
    "/workers/",
    "/accounts/login/",
    "/accounts/signup/",
)
MOST_BYTES = 150_000


@pytest.mark.parametrize("path", PUBLIC)
def test_at_320_pixels_a_page_scrolls_down_only(page: Page, path: str) -> None:
    page.set_viewport_size({"width": 320, "height": 700})
    page.goto(path)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    for link in page.get_by_role("navigation", name="Main").get_by_role("link").all():
        box = link.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 320


@pytest.mark.parametrize(
    "path", ["/", "/adapters/viggo/", "/chat/", "/compare/", "/leaderboard/", "/leaderboard/dbpedia/", "/paper/"]
)
def test_a_first_visit_sends_at_most_150_kilobytes(context: BrowserContext, site: Site, path: str) -> None:
    page = context.new_page()
    received: list[float] = []
    network = context.new_cdp_session(page)
    network.send("Network.enable")
    network.on("Network.loadingFinished", lambda event: received.append(event["encodedDataLength"]))
    page.goto(path, wait_until="networkidle")
    assert 0 < sum(received) <= MOST_BYTES


def test_the_lamp_draws_its_emblems_once_and_asks_for_little(page: Page) -> None:
    sizes: list[int] = []

    def weigh(response: object) -> None:
        if "/workers/lamp/" in response.url and response.status == 200:  # type: ignore[attr-defined]
            sizes.append(len(response.body()))  # type: ignore[attr-defined]

    page.on("response", weigh)
    page.goto("/")
    expect(page.locator(".lamp.ready")).to_be_visible()
    emblem = page.locator(".card .emblem").first  # out of the page's sprite
    expect(emblem).to_be_visible()
    colours = emblem.evaluate(
        """node => {
          const shape = document.querySelector(node.querySelector("use").getAttribute("href")).firstElementChild;
          return [shape.tagName, getComputedStyle(node).getPropertyValue("--category")];
        }"""
    )
    assert colours[0] == "circle"
    assert colours[1]
    held = page.locator(".resident a").count()
    with page.expect_response(re.compile(r"/workers/lamp/\?shown=[0-9a-f]{16}$")):
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    assert 0 < sizes[-1] < 1_500
    expect(page.locator(".resident a")).to_have_count(held)


def test_the_workers_page_is_a_page_of_the_site_and_goes_on_telling(page: Page) -> None:
    page.goto("/workers/")
    expect(page.get_by_role("navigation", name="Main")).to_be_visible()
    expect(page.locator(".lamp.ready")).to_be_visible()
    with page.expect_response(re.compile(r"/workers/lamp/\?shown=")):
        page.reload()
    expect(page.locator(".lamp.ready")).to_be_visible()


def test_the_catalogue_opens_with_the_largest_gain_and_keeps_what_did_not_help_apart(page: Page) -> None:
    page.goto("/")
    first = page.locator(".card h3").all_inner_texts()[:4]
    page.goto("/?sort=gain")
    assert page.locator(".card h3").all_inner_texts()[:4] == first
    assert first[0] == "Encyclopedia topics"
    unhelped = page.get_by_role("region", name="Where fine-tuning did not help")
    expect(unhelped.get_by_role("link", name="Who is meant?")).to_be_visible()
    expect(unhelped.locator(".card", has_text="Yes or no from a passage")).to_contain_text("Always answering “yes”")
    weights = unhelped.locator(".card.fell .card-score strong").first.evaluate(
        "node => getComputedStyle(node).fontWeight"
    )
    assert weights == "400"


def test_every_link_to_answers_leads_to_answers_beside_those_of_the_base(page: Page) -> None:
    page.goto("/leaderboard/")
    links = page.get_by_role("link", name=re.compile("^Answers of"))
    addresses = [link.get_attribute("href") or "" for link in links.all()]
    assert len(addresses) >= 7
    for address in addresses:
        page.goto(address)
        expect(page.locator(".sample").first).to_be_visible()
        expect(page.get_by_text("drawn by seed 0")).to_be_visible()
        expect(page.locator(".sample-base").first).to_be_visible()
