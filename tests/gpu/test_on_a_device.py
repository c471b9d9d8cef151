"""The equalities of tests/inference/kernels and tests/inference/gpu, on a real GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need the package triton")

from tests.inference.gpu.worlds import MODELS, by_kernels, by_torch, make_world
from tests.inference.kernels import equalities

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
types = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


@types
def test_rows_are_computed_as_the_twins_do(dtype: torch.dtype) -> None:
    equalities.check_norm(dtype, "cuda", has_update=True)
    equalities.check_norm(dtype, "cuda", has_update=False)
    equalities.check_swiglu(dtype, "cuda")
    equalities.check_rope(dtype, "cuda")


@types
@pytest.mark.parametrize("window", [None, 20, 600])
def test_attention_is_computed_as_the_twin_does(dtype: torch.dtype, window: int | None) -> None:
    equalities.check_decode_attention(dtype, "cuda", window)
    equalities.check_tile_attention(dtype, "cuda", window)
    equalities.check_splits(dtype, "cuda")


@types
@pytest.mark.parametrize("is_int8", [False, True])
@pytest.mark.parametrize("name", ["qkv", "o", "gate_up", "down", "head"])
def test_updates_are_computed_as_the_twin_does(dtype: torch.dtype, name: str, is_int8: bool) -> None:
    equalities.check_lora(dtype, "cuda", name, is_int8)
    equalities.check_embedding(dtype, "cuda", is_int8)


@pytest.mark.parametrize("is_deterministic", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_graphs_and_tiles_equal_the_torch_decoder(tmp_path: Path, kind: str, is_deterministic: bool) -> None:
    world = make_world(tmp_path, kind)
    computed = by_kernels(world, "cuda", is_deterministic=is_deterministic)
    for one, other in zip(computed, by_torch(world), strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=0)
