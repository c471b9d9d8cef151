"""The compiled row functions of training against their twins in torch, which compute in float32."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from inference.decoders.native.build import library_path, missing_feature
from inference.decoders.native.elementwise import NativeElementwise, native_elementwise
from inference.decoders.native.library import open_library, units_of
from inference.training.elementwise import TORCH, Elementwise, elementwise

Run = Callable[[Elementwise, list[Tensor]], Tensor | tuple[Tensor, ...]]
HERE = units_of(open_library(library_path())) if missing_feature() is None else []
ROWS, WIDTH, HEADS, DIM, LENGTH = 150, 100, 3, 40, 21


@pytest.fixture(scope="module")
def native() -> NativeElementwise:
    found = native_elementwise()
    if found is None:
        pytest.skip("this processor has no native functions")
    return found


def bf16(*shape: int) -> Tensor:
    return torch.randn(shape).to(torch.bfloat16)


def angles() -> Tensor:
    """Numbers that agree in the two halves of a head, as those of angles do."""
    return bf16(ROWS, 1, DIM // 2).repeat(1, 1, 2)


def probabilities() -> Tensor:
    return TORCH.softmax(torch.randn(4, 2 * LENGTH, LENGTH), 0.3).to(torch.bfloat16)


FUNCTIONS: dict[str, tuple[Run, Callable[[], list[Tensor]]]] = {
    "rms_norm": (lambda on, x: on.rms_norm(*x, 1e-5), lambda: [bf16(ROWS, WIDTH), bf16(WIDTH)]),
    "rms_norm_backward": (
        lambda on, x: on.rms_norm_backward(*x[:3], x[3].float().abs()),
        lambda: [bf16(ROWS, WIDTH), bf16(ROWS, WIDTH), bf16(WIDTH), bf16(ROWS)],
    ),
    "swiglu": (lambda on, x: on.swiglu(*x), lambda: [bf16(ROWS, 2 * WIDTH)]),
    "swiglu_backward": (lambda on, x: on.swiglu_backward(*x), lambda: [bf16(ROWS, WIDTH), bf16(ROWS, 2 * WIDTH)]),
    "rope": (
        lambda on, x: on.rope(x[0][:, : HEADS * DIM].unflatten(1, (HEADS, DIM)), *x[1:]),
        lambda: [bf16(ROWS, 5 * DIM), angles(), angles()],
    ),
    "rope back": (
        lambda on, x: on.rope(*x, is_back=True),
        lambda: [bf16(ROWS, HEADS, DIM), angles(), angles()],
    ),
    "softmax": (lambda on, x: on.softmax(x[0].clone(), 0.3), lambda: [bf16(4, 2 * LENGTH, LENGTH)]),
    "softmax_backward": (
        lambda on, x: on.softmax_backward(x[0].clone(), x[1], 0.3),
        lambda: [bf16(4, 2 * LENGTH, LENGTH), probabilities()],
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_compiled_function_equals_its_twin(native: NativeElementwise, name: str, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_equals_its_twin(native, name)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("unit", HERE)
def test_each_unit_computes_what_its_twin_does(unit: str, name: str) -> None:
    assert_equals_its_twin(NativeElementwise(library_path(), unit), name)


def assert_equals_its_twin(native: NativeElementwise, name: str) -> None:
    torch.manual_seed(1)
    run, make = FUNCTIONS[name]
    given = make()
    found = run(native, given)
    wanted = run(TORCH, [tensor.float() for tensor in given])
    pairs = zip(found, wanted, strict=True) if isinstance(found, tuple) else [(found, wanted)]
    for ours, truth in pairs:
        torch.testing.assert_close(ours.float(), truth.float(), rtol=1e-2, atol=1e-3)  # type: ignore[union-attr]


def test_only_bfloat16_on_a_cpu_is_compiled(native: NativeElementwise) -> None:
    assert elementwise(bf16(2, 2)) is native
    assert elementwise(torch.zeros(2, 2)) is TORCH
