"""Adapters of methods besides LoRA through the admin's form: the worker expands each, proves it and it is published."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.e2e.test_admin_upload import status_after_validation
from tests.loraland.adapter_files import write_adapter
from tests.loraland.catalogue.upload.test_methods_upload import UPLOADS, config_of


@pytest.fixture
def context(owner: BrowserContext) -> BrowserContext:
    return owner


@pytest.mark.parametrize("method", UPLOADS)
def test_an_adapter_of_each_method_is_proven_and_named(method: str, page: Page, tmp_path: Path) -> None:
    changes, tensors, rank = UPLOADS[method]
    files = write_adapter(tmp_path, config=config_of(changes), tensors=tensors)
    page.goto("/admin/catalogue/adapterversion/add/")
    page.locator("#id_config_file").set_input_files(files / "adapter_config.json")
    page.locator("#id_weights_file").set_input_files(files / "adapter_model.safetensors")
    page.locator("#id_name").fill(f"By {method}")
    page.locator("#id_chats_freely").check()
    page.get_by_role("button", name="Upload", exact=True).click()
    assert status_after_validation(page) == "published"
    page.goto(f"/adapters/by-{method.lower()}/")
    told = re.compile(rf"Method\s*{method}\s*Rank\s*{rank}")
    expect(page.get_by_role("complementary")).to_contain_text(told)
