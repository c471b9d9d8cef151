"""Tiny random models, made once, and a store for adapters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
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
def one_thread() -> Iterator[None]:
    """Torch computes in one thread. At a tiny model several wait for each other longer than they compute, most so on a
    busy machine; they are for what tells that no bit depends on them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """An empty store of adapters."""
    directory = tmp_path / "adapters"
    directory.mkdir()
    return directory
