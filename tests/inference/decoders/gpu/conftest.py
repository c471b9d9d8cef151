"""Triton's interpreter, made to spend its time on kernels."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="session", autouse=True)
def _patched_once() -> Any:
    """A function that a kernel calls patches the language anew at each call, which is most of what it takes. Here only
    the first one of each module does: the kernel itself has patched it for the launch."""
    interpreter = pytest.importorskip("triton.runtime.interpreter", reason="the kernels need the package triton")
    patched: set[str] = set()

    def call(self: Any, *given: Any, **named: Any) -> Any:
        if self.fn.__module__ not in patched:
            patched.add(self.fn.__module__)
            interpreter._patch_lang(self.fn)
        return self.rewrite()(*given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter.InterpretedFunction, "__call__", call)
        yield
