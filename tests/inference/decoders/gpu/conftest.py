"""Triton's interpreter, made to spend its time on kernels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.inference.decoders.gpu.interpreter import hastened


@pytest.fixture(scope="session", autouse=True)
def _hastened() -> Iterator[None]:
    pytest.importorskip("triton", reason="the kernels need the package triton")
    with hastened():
        yield
