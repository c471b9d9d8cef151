"""One long word and one long line of code, stored wherever the site shows what others wrote, widen no page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import BrowserContext, Page

from tests.e2e.conftest import Site

PUBLIC = ["/", "/?sort=gain", "/chat/", "/chat/adapters/", "/leaderboard/", "/paper/", "/paper/complexity/"]


@dataclass(frozen=True)
class Planted:
    """The pages that show foreign text, and the session of the one who may see them all."""

    pages: list[str]
    session: str


@pytest.fixture(scope="module")
def planted(site: Site) -> Iterator[Planted]:
    told = json.loads(_run(site, "plant()").splitlines()[-1])
    yield Planted([*told["pages"], *PUBLIC], told["session"])
    _run(site, "uproot()")


def _run(site: Site, call: str) -> str:
    return site.manage("shell", "-c", f"from tests.e2e.foreign_text import plant, uproot; {call}").stdout


@pytest.fixture
def reader(context: BrowserContext, page: Page, planted: Planted, site: Site) -> Page:
    context.add_cookies([{"name": "sessionid", "value": planted.session, "url": site.url}])
    return page


@pytest.mark.parametrize("width", [1440, 390, 320])
def test_no_page_is_wider_than_the_window(reader: Page, planted: Planted, width: int) -> None:
    reader.set_viewport_size({"width": width, "height": 844})
    widths = {}
    for address in planted.pages:
        response = reader.goto(address)
        assert response is not None
        assert response.ok, address
        widths[address] = reader.evaluate("document.documentElement.scrollWidth")
    assert {address: wide for address, wide in widths.items() if wide > width} == {}


def test_a_long_line_of_code_scrolls_in_its_own_box_and_the_message_stays_in_sight(
    reader: Page, planted: Planted
) -> None:
    reader.set_viewport_size({"width": 390, "height": 844})
    chats = [address for address in planted.pages if address.startswith(("/chat/", "/compare/")) and "?" not in address]
    for address in [chat for chat in chats if chat not in PUBLIC]:
        reader.goto(address)
        code = reader.locator("pre:has(code)").last
        assert code.evaluate("box => box.scrollWidth > box.clientWidth"), address
        code.evaluate("box => box.scrollTo(200, 0)")
        assert code.evaluate("box => box.scrollLeft") == 200
    reader.goto(next(address for address in chats if address.startswith("/chat/")))
    message = reader.locator(".said").last.bounding_box()
    assert message is not None
    assert message["x"] >= 0
    assert message["x"] + message["width"] <= 390
