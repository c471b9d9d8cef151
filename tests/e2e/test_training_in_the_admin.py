"""An owner uploads rows, is told what training on them may gain, trains, watches, publishes, and a visitor chats."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Site, enter

pytestmark = pytest.mark.timeout(3600)

MOODS = {"a delight": "joy", "a disgrace": "anger"}
THINGS = ("train", "meal", "film", "letter", "garden", "meeting", "holiday", "storm", "game", "song")
PATIENT = 25 * 60_000
"""A training yields to everything else on the machine: whatever waits for it waits long. In ms."""


def rows(day: str) -> list[str]:
    """Forty rows whose answer is in the text; another `day` makes another data set."""
    pairs = [(thing, words) for thing in THINGS for words in MOODS for _ in range(2)]
    return [
        json.dumps({"inputs": {"note": f"The {thing} of {day} {n} was {words}."}, "target": MOODS[words]})
        for n, (thing, words) in enumerate(pairs)
    ]


@pytest.fixture
def teacher(page: Page, site: Site) -> Page:
    """The admin, entered by an owner."""
    enter(page, site, "/admin/evals/dataset/add/", "teacher")
    return page


def plan(page: Page, name: str, day: str, steps: int) -> None:
    """Upload rows under `name` and begin a training of `steps` small steps on them."""
    page.goto("/admin/evals/dataset/add/")
    page.get_by_label("Name").fill(name)
    file = {"name": "rows.jsonl", "mimeType": "application/json", "buffer": "\n".join(rows(day)).encode()}
    page.get_by_label("JSON lines").set_input_files(file)
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_role("link", name=name).first.click()
    expect(page.locator(".field-forecast")).to_contain_text("points, 95 % from")
    page.get_by_role("link", name="Train from this").click()
    page.get_by_role("link", name=re.compile("Quick")).click()
    expect(page.locator(".ticket[aria-current]").filter(has_text="Quick")).to_be_visible()
    page.get_by_text("The numbers").click()
    expect(page.get_by_label("Steps")).to_have_value("60")
    page.get_by_label("Steps").fill(str(steps))
    page.get_by_label("Rows a step").fill("4")
    page.get_by_label("Rows a step").blur()
    # The answer to the last change must have come: a request that the next click cuts off is an error in the console.
    expect(page.locator("#estimate")).to_contain_text(f"{steps} steps, each row {steps * 4 / 26:.1f} times")
    page.get_by_role("button", name="Start training").click()
    expect(page.locator("#progress")).to_be_visible()


def hurry(page: Page) -> None:
    """Give what trains a full share, unless it is through: else it computes only when nobody else would."""
    button = page.locator("#hurry")
    later = page.locator(", ".join(f"[data-state={state}]" for state in ("examining", "measuring", "done")))
    expect(button.or_(later)).to_be_visible(timeout=PATIENT)
    if button.is_visible():
        button.click()


def test_a_data_set_becomes_a_measured_adapter_that_answers(teacher: Page) -> None:
    page = teacher
    plan(page, "Diary moods", "day", steps=24)
    hurry(page)
    expect(page.get_by_role("status")).to_contain_text("Step", timeout=PATIENT)
    expect(page.locator(".loss-smooth")).to_be_attached(timeout=PATIENT)
    expect(page.locator("#progress")).to_have_attribute("data-state", re.compile("done|failed"), timeout=PATIENT)
    expect(page.get_by_role("heading", name=re.compile("gain", re.IGNORECASE)).first).to_be_visible()
    expect(page.locator(".measure-note")).to_contain_text("on 8 held-out rows")
    assert "Diary moods" not in page.request.get("/leaderboard/").text()
    page.get_by_role("button", name="Publish").click()
    expect(page.get_by_role("heading", name="Published")).to_be_visible()
    assert "Diary moods" in page.request.get("/leaderboard/").text()
    page.get_by_role("link", name="Chat with it").click()
    page.locator(".example-card").first.click()
    page.get_by_role("button", name="Send").click()
    answer = page.locator(".turn").last.locator(".answer:not([hidden])")
    expect(answer).to_have_attribute("data-state", re.compile("done|length"))
    assert answer.locator(".answer-text").inner_text().strip()


def test_a_training_is_cancelled_by_its_owner_and_the_page_fits_a_phone(teacher: Page) -> None:
    page = teacher
    plan(page, "Never ready", "evening", steps=5000)
    hurry(page)
    expect(page.get_by_role("heading", name=re.compile("Step [1-9]"))).to_be_visible(timeout=PATIENT)
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#progress")).to_have_attribute("data-state", "cancelled", timeout=PATIENT)
    expect(page.get_by_role("status")).to_contain_text("of 5000 steps")
    page.get_by_role("link", name="Train again").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(page.get_by_label("Steps")).to_have_value("5000")
