"""Two bases in one site, SmolLM2 and a tiny random Mistral of a long name: the catalogue, a chat with each, both side
by side and in two tabs, a finger on a phone, a training for the second, and one whose worker is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.e2e import touch
from tests.e2e.conftest import PATIENCE_MS, Site, enter, running_site, until
from tests.e2e.test_training_in_the_admin import hurry, rows
from tests.inference.checkpoints import make_adapter, make_model

TINY = "Tiny-Mistral-of-random-numbers-with-a-name-as-long-as-some-publishers-write-them-2410-preview-v0.1"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
"""Where a model's own template lies depends on who wrote its directory."""
WIDE = {"hidden_size": 128, "intermediate_size": 192}
"""Heads of 32 numbers, as the C++ decoder takes them."""
PATIENT = 10 * 60_000
"""A training yields to everything else on the machine. In ms."""
LONG = "Count from one to two hundred in words, and write each number on a line of its own."


@pytest.fixture(scope="module")
def tiny(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of random numbers that reads and writes the tokens of SmolLM2."""
    own = json.loads((model_dir / "config.json").read_text())
    directory = tmp_path_factory.mktemp("bases") / TINY
    ids = {name: own[name] for name in ("bos_token_id", "eos_token_id")}
    make_model(directory, "mistral", vocab_size=own["vocab_size"], max_position_embeddings=2048, **WIDE, **ids)
    for path in filter(Path.is_file, (model_dir / name for name in TOKENIZER)):
        shutil.copy(path, directory)
    return directory


@pytest.fixture(scope="module")
def site(model_dir: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site of both, with the shipped adapters and a random one of the tiny base."""
    names = f"{model_dir.name},{TINY}"
    with running_site([model_dir, tiny], BASE_MODELS=names, THREADS=f"0,{TINY}=1") as running:
        folder = tmp_path_factory.mktemp("adapters")
        babbler = folder / make_adapter(tiny, folder)
        running.manage("import_adapter", str(babbler), "--slug", "babbler")
        yield running


def report(site: Site) -> dict[str, bool]:
    """Which base is up, as /readyz tells it."""
    with urllib.request.urlopen(f"{site.url}/readyz") as response:
        return {each["base"]: each["worker"] for each in json.loads(response.read())["bases"]}


def worker_of(site: Site, base: str) -> int:
    """The process id of the worker of `base`."""
    children = Path(f"/proc/{site.process.pid}/task/{site.process.pid}/children").read_text().split()
    meant = f"BASE_MODEL={base}".encode()
    return next(
        int(child) for child in children if meant in told(child, "environ") and b"inference" in told(child, "cmdline")
    )


def told(process: str, name: str) -> list[bytes]:
    """What Linux tells of a process under `name`; nothing of one that has ended meanwhile."""
    try:
        return Path(f"/proc/{process}/{name}").read_bytes().split(b"\0")
    except OSError:
        return []


def ask(page: Page, text: str) -> None:
    page.locator("#composer textarea").first.fill(text)
    page.get_by_role("button", name="Send").click()


def test_the_catalogue_shows_both_bases_and_is_filtered_by_one(page: Page, site: Site, model_dir: Path) -> None:
    assert report(site) == {model_dir.name: True, TINY: True}
    page.goto("/")
    for base in (model_dir.name, TINY):
        plate = page.locator(".base-plate").filter(has=page.get_by_role("heading", name=base, exact=True))
        expect(plate.locator(".lamp.ready")).to_be_visible()
    page.locator(".finder-bases .chip").filter(has_text=TINY).click()
    expect(page.locator(".card")).to_have_count(1)
    expect(page.locator(".card")).to_contain_text(TINY)
    until(page, f"location.search.includes('base={TINY}')")


@pytest.mark.parametrize(("name", "title"), [(f"base:{TINY}", TINY), ("babbler", "Babbler")], ids=["base", "adapter"])
def test_one_chats_with_the_other_base_and_with_its_adapter(page: Page, name: str, title: str) -> None:
    page.goto(f"/chat/?adapter={name}")
    expect(page.locator("#chat-title")).to_have_text(title)
    expect(page.locator(".chat-who")).to_contain_text(TINY)
    ask(page, "Hello there")
    expect(page.locator(".answer .stats")).to_be_visible()
    assert page.locator(".answer .answer-text").inner_text().strip()
    page.reload()
    expect(page.locator("#chat-title")).to_have_text(title)
    expect(page.locator(".answer .stats")).to_be_visible()


def test_columns_of_both_bases_answer_one_prompt(page: Page) -> None:
    page.goto(f"/compare/?columns=tweet_emotion,babbler,base,base:{TINY}")
    page.locator("#composer .chip").first.click()
    page.get_by_role("button", name="Run").click()
    answers = page.locator(".column .answer")
    for number in range(4):
        expect(answers.nth(number).locator(".stats")).to_be_visible()
    assert len(set(answers.locator(".answer-text").all_inner_texts())) >= 3


PAGES = (
    "/",
    f"/?base={TINY}",
    "/chat/adapters/",
    "/chat/?adapter=babbler",
    "/compare/?columns=babbler,base",
    "/workers/",
)


def test_a_finger_finds_the_other_base_and_chats_with_it_and_no_page_is_wider_than_a_phone(
    browser: Browser, site: Site
) -> None:
    context = browser.new_context(base_url=site.url, **touch.phone(390, 844))
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.goto("/")
    page.locator(".finder-bases .chip").filter(has_text=TINY).tap()
    expect(page.locator(".card")).to_have_count(1)
    page.locator(".card").get_by_role("link", name="Babbler").tap()
    page.get_by_role("link", name="Chat", exact=True).last.tap()
    page.get_by_role("link", name="Change adapter").tap()
    page.locator("#picker-list .pick").filter(has_text=TINY).first.tap()
    expect(page.locator("#chat-title")).to_have_text(TINY)
    page.locator("#composer textarea").first.fill("Hello there")
    page.get_by_role("button", name="Send").tap()
    expect(page.locator(".answer .stats")).to_be_visible()
    for address in PAGES:
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, address
    context.close()


def test_two_tabs_ask_two_bases_at_one_time(page: Page, context: BrowserContext, model_dir: Path) -> None:
    other = context.new_page()
    page.goto("/chat/?adapter=base")
    other.goto(f"/chat/?adapter=base:{TINY}")
    ask(page, "Name a colour.")
    ask(other, "Hello there")
    for tab, title in ((page, model_dir.name), (other, TINY)):
        expect(tab.locator(".answer .stats")).to_be_visible()
        tab.reload()
        expect(tab.locator("#chat-title")).to_have_text(title)
        expect(tab.locator(".answer")).to_have_count(1)
    other.close()


def test_an_adapter_is_trained_for_the_other_base_proven_by_its_worker_and_published(page: Page, site: Site) -> None:
    enter(page, site, "/admin/evals/dataset/add/")
    page.get_by_label("Name").fill("Moods of days")
    file = {"name": "rows.jsonl", "mimeType": "application/json", "buffer": "\n".join(rows("day")).encode()}
    page.get_by_label("JSON lines").set_input_files(file)
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_role("link", name="Moods of days").first.click()
    page.get_by_role("link", name="Train from this").click()
    page.locator(".ticket").filter(has_text=TINY).click()
    expect(page.locator(".expect .base-name")).to_have_text(TINY)
    page.get_by_text("The numbers").click()
    page.get_by_label("Steps").fill("3")
    page.get_by_label("Steps").blur()
    expect(page.locator("#estimate")).to_contain_text("3 steps")
    page.get_by_role("button", name="Start training").click()
    hurry(page)
    page.get_by_role("button", name="Publish").click(timeout=PATIENT)
    expect(page.get_by_role("heading", name="Published")).to_be_visible()
    page.goto(f"/?base={TINY}")
    expect(page.locator(".card").filter(has_text="Moods of days")).to_contain_text(TINY)
    page.goto("/leaderboard/")
    row = page.locator(".board tbody tr").filter(has_text="Moods of days")
    expect(row.locator(".base-name")).to_have_text(TINY)


def test_a_killed_worker_of_one_base_leaves_the_other_s_answer_alone_and_comes_back(
    page: Page, site: Site, model_dir: Path
) -> None:
    ours, theirs = worker_of(site, model_dir.name), worker_of(site, TINY)
    page.goto("/chat/?adapter=base")
    page.locator("details.sampling summary").click()
    page.locator("#sampling-temperature").fill("0")
    page.locator("#sampling-max_tokens").fill("300")
    ask(page, LONG)
    until(page, "document.querySelector('.answer .answer-text')?.textContent.length > 20")
    os.kill(theirs, signal.SIGKILL)
    expect(page.locator(".answer .stats")).to_be_visible()
    expect(page.locator(".answer")).not_to_contain_text("Try again")
    assert worker_of(site, model_dir.name) == ours
    page.goto("/chat/?adapter=babbler")
    ask(page, "Are you back?")
    expect(page.locator(".answer .stats")).to_be_visible()
    assert worker_of(site, TINY) != theirs
