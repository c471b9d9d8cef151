"""Where a list goes on, who reads it by the keyboard goes on too; and what does not come is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import django_htmx
import pytest
from django.template.loader import render_to_string
from playwright.sync_api import Browser, Locator, Page, Route, expect

FILES = {
    "/htmx.js": Path(django_htmx.__file__).parent / "static" / "django_htmx" / "htmx-2.min.js",
    **{f"/{name}": Path(__file__).parents[2] / "static" / "js" / name for name in ("more.js", "picker.js")},
}
MORE = {"address": "/list", "more": "?after=a", "label": "Show more"}
FIRST = '<ul><li><a href="/a">A</a></li></ul>'
PICKS = '<ul class="picks"><li><a href="/a">A</a></li><li><a href="/b">B</a></li><li><a href="/c">C</a></li></ul>'
OPENS = 'import { openPicker } from "/picker.js"; addEventListener("load", () => openPicker(document.body));'
NEXT = '<svg hidden></svg><ul><li><a href="/b">B</a></li><li><a href="/c">C</a></li></ul>'


def answer(route: Route) -> None:
    """A list of one that goes on far below, by the site's own link and scripts."""
    path = "/" + route.request.url.split("/", 3)[3]
    scripts = '<script src="/htmx.js" defer></script><script type="module" src="/more.js"></script>'
    spacer = '<div style="height: 3000px"></div>'
    pages = {
        "/": f"<!doctype html>{scripts}{spacer}<main>{FIRST}{render_to_string('includes/more.html', MORE)}</main>",
        "/list?after=a": NEXT,
        "/choice": f'<!doctype html><script src="/htmx.js"></script>{dialog()}<script type="module">{OPENS}</script>',
        "/chat/adapters/?q=&category=": PICKS,
    }
    if path in FILES:
        return route.fulfill(path=FILES[path], content_type="text/javascript")
    return route.fulfill(body=pages.get(path, ""), content_type="text/html; charset=utf-8")


def dialog() -> str:
    return render_to_string("playground/_picker.html", {"title": "Choose an adapter"})


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


def test_what_does_not_come_is_told_where_it_was_to_appear_and_may_be_asked_for_again(page: Page) -> None:
    page.route("**/list?after=a", lambda route: route.fulfill(status=503, body="no"))
    link = page.get_by_role("link", name="Show more")
    link.click()
    expect(page.get_by_role("alert")).to_have_text("The site did not answer. Try again in a moment.")
    page.unroute("**/list?after=a")
    page.route("**/list?after=a", answer)
    link.click()
    expect(page.get_by_role("link", name="C")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_the_keys_walk_through_the_choice_and_its_ends(page: Page) -> None:
    page.goto("/choice")
    search = page.get_by_role("searchbox")
    expect(page.get_by_role("link", name="C")).to_be_visible()
    expect(search).to_be_focused()

    def stands_after(key: str, where: Locator) -> None:
        page.keyboard.press(key)
        expect(where).to_be_focused()

    first, last = page.get_by_role("link", name="A"), page.get_by_role("link", name="C")
    for key, where in (("End", search), ("ArrowDown", first), ("End", last), ("ArrowDown", last), ("Home", first)):
        stands_after(key, where)
    stands_after("ArrowUp", search)
    page.keyboard.press("Escape")
    expect(search).to_be_hidden()


def test_a_choice_that_does_not_come_is_told_instead_of_being_looked_for(page: Page) -> None:
    page.route("**/chat/adapters/*", lambda route: route.abort())
    page.goto("/choice")
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.get_by_text("Looking…")).to_have_count(0)
