"""Triton's interpreter, made to spend its time on kernels: nothing that it computes or checks is another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from math import prod
from typing import Any

import pytest


@contextmanager
def hastened() -> Iterator[None]:
    """Kernels are interpreted in less than half of the time. Raises ImportError where Triton is not there."""
    from triton.language import core
    from triton.runtime import interpreter

    builder = interpreter.interpreter_builder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter.InterpretedFunction, "__call__", _patching_once(interpreter))
        # It computes whether whole numbers overflow, and looks at what came of it where it debugs alone.
        patch.setattr(builder, "options", replace(builder.options, sanitize_overflow=builder.options.debug))
        # What types have in common is made anew for every number.
        patch.setattr(interpreter, "_get_np_dtype", _once_a_name(interpreter._get_np_dtype))
        patch.setattr(core.block_type, "with_element_ty", _once_a_name(core.block_type.with_element_ty))
        patch.setattr(core.tensor, "__init__", _with_known_shapes(core))
        yield


def _patching_once(interpreter: Any) -> Any:
    """A function that a kernel calls patches the language anew at each call, which is most of what it takes. Here only
    the first one of each module does: the kernel itself has patched it for the launch."""
    patched: set[str] = set()

    def call(self: Any, *given: Any, **named: Any) -> Any:
        if self.fn.__module__ not in patched:
            patched.add(self.fn.__module__)
            interpreter._patch_lang(self.fn)
        return self.rewrite()(*given, **named)

    return call


def _once_a_name(make: Callable[..., Any]) -> Callable[..., Any]:
    """What `make` makes of types, which are what their names say."""
    made: dict[tuple[str, ...], Any] = {}

    def known(*types: Any) -> Any:
        names = tuple(type.name for type in types)
        if names not in made:
            made[names] = make(*types)
        return made[names]

    return known


def _with_known_shapes(core: Any) -> Any:
    """`tensor.__init__`, whose shapes and sizes are made once."""

    @cache
    def measured(shape: tuple[int, ...]) -> tuple[Any, Any]:
        return core.tuple([core.constexpr(size) for size in shape]), core.constexpr(prod(shape))

    def begin(self: Any, handle: Any, type: Any) -> None:
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.shape, self.numel = measured(tuple(type.shape) if type.is_block() else ())

    return begin
