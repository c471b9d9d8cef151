"""An owner uploads rows, is told what is wrong with them, and then what training on them is likely to gain."""

from __future__ import annotations

import json

from playwright.sync_api import Page, expect

from tests.e2e.conftest import Site, enter

ROWS = [json.dumps({"inputs": {"text": f"The {n}th day was fine"}, "target": "good"}) for n in range(30)]


def upload(page: Page, lines: list[str]) -> None:
    page.goto("/admin/evals/dataset/add/")
    page.get_by_label("Name").fill("Days")
    file = {"name": "rows.jsonl", "mimeType": "application/json", "buffer": "\n".join(lines).encode()}
    page.get_by_label("JSON lines").set_input_files(file)
    page.get_by_role("button", name="Save", exact=True).click()


def test_rows_are_uploaded_examined_and_their_gain_forecast(page: Page, site: Site) -> None:
    enter(page, site, "/admin/", "trainer")
    upload(page, [*ROWS, "good"])
    expect(page.locator(".errorlist").last).to_contain_text("Line 31 is not")
    upload(page, ROWS)
    page.get_by_role("link", name="Days").first.click()
    expect(page.locator(".field-forecast")).to_contain_text("points, 95 % from")
    page.get_by_role("link", name="How").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Can you tell beforehand?")
