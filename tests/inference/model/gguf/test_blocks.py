"""Each type of block against the package gguf, which ggml's authors publish."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from inference.model.gguf.blocks import BLOCKS, name_of

QUANTISED = [kind for kind, block in BLOCKS.items() if block.groups]
HALVES = {"Q4_1": 2, "Q5_1": 2, "Q4_K": 2, "Q5_K": 2}
"""How many float16 begin a block, where it is not one."""


def random_blocks(kind: int, rows: int = 7, blocks: int = 3) -> np.ndarray:
    """Rows of random bytes whose scales are finite."""
    block, draw = BLOCKS[kind], np.random.default_rng(kind)
    raw = draw.integers(0, 256, (rows, blocks, block.num_bytes), dtype=np.uint8)
    count = HALVES.get(block.name, 1)
    scales = draw.normal(size=(rows, blocks, count)).astype(np.float16).view(np.uint8)
    at = block.num_bytes - 2 if block.name == "Q6_K" else 0
    raw[..., at : at + 2 * count] = scales
    return raw.reshape(rows, -1)


@pytest.mark.parametrize("kind", QUANTISED, ids=name_of)
def test_random_blocks_are_the_numbers_that_ggml_reads(kind: int) -> None:
    raw = random_blocks(kind)
    theirs = gguf.dequantize(raw, GGMLQuantizationType(kind))
    ours = BLOCKS[kind].dequantize(raw)
    assert ours.shape == (7, 3 * BLOCKS[kind].width)
    assert len(np.unique(ours)) > 100
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_blocks_that_ggml_writes_come_back_as_it_reads_them(name: str) -> None:
    kind = GGMLQuantizationType[name]
    values = np.random.default_rng(1).normal(size=(5, 96)).astype(np.float32)
    raw = gguf.quantize(values, kind).view(np.uint8)
    np.testing.assert_array_equal(BLOCKS[kind].dequantize(raw), gguf.dequantize(gguf.quantize(values, kind), kind))


def test_float32_is_read_as_it_is() -> None:
    values = np.random.default_rng(1).normal(size=(5, 32)).astype(np.float32)
    np.testing.assert_array_equal(BLOCKS[0].dequantize(values.view(np.uint8)), values)


@pytest.mark.parametrize(
    "kind", [kind for kind in GGMLQuantizationType if kind not in BLOCKS], ids=lambda kind: kind.name
)
def test_names_are_those_of_ggml(kind: GGMLQuantizationType) -> None:
    assert name_of(kind) in (kind.name, f"number {kind.value}")


@pytest.mark.parametrize("kind", BLOCKS, ids=name_of)
def test_sizes_are_those_of_ggml(kind: int) -> None:
    block = BLOCKS[kind]
    assert (block.width, block.num_bytes) == gguf.GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    assert block.name == GGMLQuantizationType(kind).name
