"""An owner uploads blends in the admin, the worker proves them, and a visitor reads their pages and chats with one."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.e2e.test_admin_upload import status_after_validation
from tests.loraland.gate_files import flow_gate, gate_bytes, write_gate

ADD = "/admin/catalogue/adapterversion/add/?kind=blend"
PARTS = ("tweet_emotion", "viggo")


@pytest.fixture
def context(owner: BrowserContext) -> BrowserContext:
    return owner


@pytest.fixture
def admin(page: Page) -> Page:
    page.goto(ADD)
    return page


def digest_of(page: Page, slug: str) -> str:
    page.goto(f"/adapters/{slug}/")
    return page.locator("#digest").inner_text().strip()


def ask(page: Page) -> str:
    """Chat with the adapter or blend whose page is open; the end of its answer."""
    page.locator("main").get_by_role("link", name="Chat", exact=True).click()
    page.get_by_role("textbox").first.fill("What a day, I could sing!")
    page.get_by_role("button", name="Send").click()
    answer = page.locator(".turn").last.locator(".answer:not([hidden])")
    expect(answer).to_have_attribute("data-state", "done", timeout=60_000)
    return answer.locator(".answer-text").inner_text()


def test_a_blend_by_arrow_is_proven_shown_with_its_parts_and_answers(admin: Page) -> None:
    for at, slug in enumerate(PARTS, 1):
        admin.locator(f"#id_parts_{at}").fill(slug)
    admin.locator("#id_top_k").fill("1")
    admin.locator("#id_name").fill("Moods and games")
    admin.locator("#id_summary").fill("Two at once.")
    admin.get_by_role("button", name="Upload", exact=True).click()
    assert status_after_validation(admin) == "published"

    admin.goto("/")
    admin.get_by_role("group", name="Show").get_by_text("Blends").click()
    expect(admin.locator("#results .card")).to_have_count(1)
    expect(admin.locator("#results")).to_contain_text("Blend of 2")
    admin.get_by_role("link", name="Moods and games").click()
    expect(admin.locator(".blend-parts li")).to_have_count(2)
    expect(admin.get_by_text("1 of 2", exact=True)).to_be_visible()
    expect(admin.get_by_role("link", name="arXiv 2405.11157")).to_be_visible()
    assert ask(admin)

    admin.goto("/adapters/viggo/")
    expect(admin.locator("aside")).to_contain_text("Moods and games")


def test_a_trained_gate_finds_its_parts_and_the_blend_answers(admin: Page, tmp_path: Path) -> None:
    digests = [digest_of(admin, slug) for slug in PARTS]
    gate = write_gate(tmp_path, gate_bytes(flow_gate(digests), parts=digests))
    admin.goto(ADD)
    admin.locator("#id_gate_file").set_input_files(gate)
    admin.locator("#id_name").fill("Moods and games by a gate")
    admin.get_by_role("button", name="Upload", exact=True).click()
    assert status_after_validation(admin) == "published"
    admin.goto("/adapters/moods-and-games-by-a-gate/")
    expect(admin.get_by_role("heading", name="What weighs them: LoRA-Flow")).to_be_visible()
    assert ask(admin)


def test_a_gate_for_adapters_that_are_not_here_names_them_by_their_digests(admin: Page, tmp_path: Path) -> None:
    strange = ["5" * 64, "6" * 64]
    admin.locator("#id_gate_file").set_input_files(write_gate(tmp_path, gate_bytes(flow_gate(strange), parts=strange)))
    admin.locator("#id_name").fill("Of strangers")
    admin.get_by_role("button", name="Upload", exact=True).click()
    for digest in strange:
        expect(admin.get_by_text(f"No adapter here has the digest {digest}")).to_be_visible()
