"""The log of the site: what strangers send takes a line of it, and no traceback."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
from django.test import Client


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the site's own handler writes."""
    console = next(handler for handler in logging.getLogger().handlers if type(handler) is logging.StreamHandler)
    written = io.StringIO()
    before = console.setStream(written)
    yield written
    if before:
        console.setStream(before)


@pytest.mark.parametrize(
    ("path", "host"), [("/healthz", "elsewhere.example"), ("/adapters/" + "a" * 20_000, "localhost")]
)
def test_a_suspicious_request_takes_one_line(log: io.StringIO, path: str, host: str) -> None:
    assert Client().get(path, headers={"host": host}).status_code == 400
    lines = log.getvalue().splitlines()
    assert "ERROR django.security." in lines[0]
    assert len(lines) == 1


def test_a_fault_of_ours_keeps_its_traceback(log: io.StringIO) -> None:
    try:
        raise RuntimeError("ours")
    except RuntimeError:
        logging.getLogger("loraland").exception("failed")
    assert "Traceback" in log.getvalue()
