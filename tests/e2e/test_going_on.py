"""Where a list goes on, who reads it by the keyboard goes on too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import django_htmx
import pytest
from django.template.loader import render_to_string
from playwright.sync_api import Browser, Page, Route, expect

FILES = {
    "/htmx.js": Path(django_htmx.__file__).parent / "static" / "django_htmx" / "htmx-2.min.js",
    "/more.js": Path(__file__).parents[2] / "static" / "js" / "more.js",
}
MORE = {"address": "/list", "more": "?after=a", "label": "Show more"}
FIRST = '<ul><li><a href="/a">A</a></li></ul>'
NEXT = '<svg hidden></svg><ul><li><a href="/b">B</a></li><li><a href="/c">C</a></li></ul>'


def answer(route: Route) -> None:
    """A list of one that goes on far below, by the site's own link and scripts."""
    path = "/" + route.request.url.split("/", 3)[3]
    scripts = '<script src="/htmx.js" defer></script><script type="module" src="/more.js"></script>'
    spacer = '<div style="height: 3000px"></div>'
    pages = {
        "/": f"<!doctype html>{scripts}{spacer}<main>{FIRST}{render_to_string('includes/more.html', MORE)}</main>",
        "/list?after=a": NEXT,
    }
    if path in FILES:
        return route.fulfill(path=FILES[path], content_type="text/javascript")
    return route.fulfill(body=pages.get(path, ""), content_type="text/html")


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(base_url="http://land.test")
    page.route("**/*", answer)
    page.goto("/")
    yield page
    page.close()


def test_who_stands_on_the_link_stands_on_the_first_of_what_comes(page: Page) -> None:
    page.get_by_role("link", name="Show more").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="B")).to_be_focused()


def test_who_scrolls_there_stays_where_they_were(page: Page) -> None:
    page.get_by_role("link", name="A").focus()
    page.evaluate("scrollTo(0, 9999)")
    expect(page.get_by_role("link", name="C")).to_be_visible()
    expect(page.get_by_role("link", name="A")).to_be_focused()
