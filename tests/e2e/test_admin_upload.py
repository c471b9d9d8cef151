"""An owner uploads an adapter in the admin, the worker proves it, and a visitor chats with it."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import REPO, Site, enter
from tests.patience import PATIENCE

SHIPPED = REPO / "adapters" / "tweet_emotion"


@pytest.fixture
def admin(page: Page, site: Site) -> Page:
    enter(page, site, "/admin/catalogue/adapterversion/add/")
    return page


def stronger(tmp_path: Path) -> tuple[Path, Path]:
    """The shipped adapter with another `lora_alpha`: other arithmetic, so another digest."""
    config = json.loads((SHIPPED / "adapter_config.json").read_text())
    config["lora_alpha"] += 1
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").write_bytes((SHIPPED / "adapter_model.safetensors").read_bytes())
    return tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors"


def upload(page: Page, config: Path, weights: Path, name: str) -> None:
    page.locator("#id_config_file").set_input_files(config)
    page.locator("#id_weights_file").set_input_files(weights)
    page.locator("#id_name").fill(name)
    page.locator("#id_category").fill("Classic NLP")
    page.locator("#id_template").fill("Tweet: {tweet}\nEmotion:")
    page.locator("#id_example_lines").fill('{"tweet": "What a day, I could sing!", "expected": "joy"}')
    page.get_by_role("button", name="Upload", exact=True).click()


def status_after_validation(page: Page) -> str:
    deadline = time.monotonic() + PATIENCE
    while True:
        status = page.locator(".field-status .readonly").inner_text().strip().lower()
        if status not in {"uploaded", "validating"}:
            return status
        assert time.monotonic() < deadline, f"still {status}"
        time.sleep(0.5)
        page.reload()


def test_an_upload_is_proved_published_and_answers(admin: Page, tmp_path: Path) -> None:
    upload(admin, *stronger(tmp_path), "Moods of my own")
    assert status_after_validation(admin) == "published"
    admin.goto("/adapters/moods-of-my-own/")
    admin.locator("main").get_by_role("link", name="Chat", exact=True).click()
    admin.locator(".example-card").first.click()
    admin.get_by_role("button", name="Send").click()
    answer = admin.locator(".turn").last.locator(".answer:not([hidden])")
    expect(answer).to_have_attribute("data-state", "done")
    assert answer.locator(".answer-text").inner_text().strip() in {"anger", "joy", "optimism", "sadness"}


def test_a_damaged_upload_is_rejected_with_its_reasons(admin: Page, tmp_path: Path) -> None:
    config, weights = stronger(tmp_path)
    weights.write_bytes(weights.read_bytes()[:-100])
    upload(admin, config, weights, "Cut short")
    assert status_after_validation(admin) == "rejected"
    expect(admin.locator(".field-all_reasons")).to_contain_text(re.compile("bytes"))
    assert admin.request.get("/adapters/cut-short/").status == 404


def test_a_shipped_adapter_zipped_with_its_folder_is_taken_at_once(admin: Page, tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "viggo"), "zip", REPO / "adapters", "viggo"))
    admin.locator("#id_archive").set_input_files(archive)
    admin.get_by_role("button", name="Upload", exact=True).click()
    expect(admin.get_by_text("Received. It is examined now")).to_be_visible()
    expect(admin.get_by_text("have exactly these weights already: Video game talk from data")).to_be_visible()
    assert status_after_validation(admin) == "published"
    expect(admin.locator("#id_template")).to_have_value("Meaning: {representation}\nLine:")
    admin.goto("/adapters/video-game-talk-from-data/")
    expect(admin.get_by_text("Stardew Valley").first).to_be_visible()


def test_a_refused_form_keeps_its_files_and_asks_for_the_prompt(admin: Page, tmp_path: Path) -> None:
    config, weights = stronger(tmp_path)
    settings = json.loads(config.read_text())
    config.write_text(json.dumps({**settings, "lora_alpha": settings["lora_alpha"] + 1}))
    admin.locator("#id_config_file").set_input_files(config)
    admin.locator("#id_weights_file").set_input_files(weights)
    admin.locator("#id_name").fill("Without a prompt")
    admin.get_by_role("button", name="Upload", exact=True).click()
    expect(admin.get_by_text("it would be published as a free chat")).to_be_visible()
    expect(admin.get_by_text("Your files are here")).to_be_visible()
    admin.get_by_label("Publish when ready").uncheck()
    admin.get_by_role("button", name="Upload", exact=True).click()
    assert status_after_validation(admin) == "ready"
    admin.locator("#id_template").fill("Tweet: {tweet}\nEmotion:")
    admin.get_by_role("button", name="Save", exact=True).click()
    expect(admin.get_by_text("was changed successfully")).to_be_visible()
