"""An owner uploads blends in the admin, the worker proves them, and a visitor reads their pages and chats with one."""

from __future__ import annotations

import re
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
    expect(answer).to_have_attribute("data-state", "done")
    return answer.locator(".answer-text").inner_text()


def strip_of(page: Page) -> list[tuple[str, float, float]]:
    """The tokens of the last answer and what both parts weighed, as the table tells them; the bars tell the same."""
    strip = page.locator(".turn").last.locator(".answer:not([hidden]) .strip")
    expect(strip.locator(".strip-legend li")).to_have_text([re.compile(rf"^{part} \d\.\d\d$") for part in PARTS])
    strip.get_by_text("The numbers as a table").click()
    rows = strip.locator("tbody tr")
    told = [(row.locator("code").inner_text(), *map(float, row.locator("td").all_inner_texts())) for row in rows.all()]
    assert all(abs(first + second - 1) < 0.02 for _, first, second in told)
    bars = strip.locator(".strip-token")
    assert bars.count() == len(told)
    heights = [float(str(rect.get_attribute("height"))) for rect in bars.first.locator("rect").all()]
    assert heights == pytest.approx([100 * weight for weight in told[0][1:]], abs=0.6)
    return [(text.replace("␣", " ").replace("↵", "\n"), *weights) for text, *weights in told]


def check_on_a_phone(page: Page) -> None:
    """Whoever taps a token sees its numbers, in the light and in the dark, and nothing sticks out."""
    page.set_viewport_size({"width": 390, "height": 844})
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        token = page.locator(".strip-token").first
        expect(token.locator(".strip-told")).to_be_hidden()
        token.click()
        expect(token.locator(".strip-told")).to_be_visible()
        page.locator(".strip-token").last.click()
        expect(page.locator(".strip-told").last).to_be_in_viewport()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        colors = page.locator(".strip-key rect").evaluate_all("rects => rects.map(each => getComputedStyle(each).fill)")
        assert len({*colors}) == len(PARTS)
        page.mouse.move(0, 0)
        token.evaluate("each => each.blur()")


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
    admin.locator("#results").get_by_role("link", name="Moods and games").click()
    expect(admin.locator(".blend-parts li")).to_have_count(2)
    expect(admin.get_by_text("1 of 2", exact=True)).to_be_visible()
    expect(admin.get_by_role("link", name="arXiv 2405.11157")).to_be_visible()
    answer = ask(admin)
    assert answer
    told = strip_of(admin)
    assert "".join(text for text, *_ in told).strip() == answer
    admin.reload()
    assert strip_of(admin) == told, "as it was measured"
    check_on_a_phone(admin)

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
