"""Tiny random models, made once, and a store for adapters."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoints import make_adapter, make_model

__all__ = ["make_adapter", "make_model"]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with grouped heads, in float32."""
    return make_model(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="session")
def tiny_mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Mistral whose window is shorter than the prompts of the tests."""
    return make_model(tmp_path_factory.mktemp("tiny-mistral"), "mistral", sliding_window=20)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """An empty store of adapters."""
    directory = tmp_path / "adapters"
    directory.mkdir()
    return directory
