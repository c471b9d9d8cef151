"""The decoder for a GPU against the decoder of `inference.decoders.torch.decoder`, in Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import VeraConfig
from torch import Tensor

pytest.importorskip("triton", reason="the kernels need the package triton")

from inference.decoders.gpu import decoder, step
from inference.decoders.gpu.target_modules import TargetModules
from inference.model.linear import PlainLinear
from inference.tile import TILE
from tests.inference.adapters.methods import make_method
from tests.inference.checkpoints import make_model
from tests.inference.decoders.gpu.worlds import (
    MODELS,
    World,
    by_kernels,
    by_torch,
    make_passes,
    make_torch_passes,
    make_world,
    tokens,
)
from tests.inference.passes import Chunk, Passes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        torch.cuda.is_available(), reason="the kernels are compiled here; test_on_a_device.py tests them"
    ),
]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    return {kind: make_world(tmp_path_factory.mktemp(kind), kind) for kind in MODELS}


def test_padding_leaves_no_keys_and_values(worlds: dict[str, World]) -> None:
    passes, _ = make_passes(worlds["llama"], "cpu")
    # Three tiles are padded to four, one decode row to sixteen.
    passes.run(Chunk(passes.sequence(-1), tokens(70, 1)), Chunk(passes.sequence(-1), tokens(1, 2), False))
    for blocks in passes.cache.keys + passes.cache.values:
        assert blocks.isfinite().all(-1).all(-1).sum() == 70 + 1


@pytest.mark.parametrize("kind", MODELS)
def test_mixed_adapters_and_the_base_equal_the_torch_decoder(worlds: dict[str, World], kind: str) -> None:
    for one, other in zip(by_kernels(worlds[kind], "cpu"), by_torch(worlds[kind]), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_a_method_of_rank_256_equals_the_torch_decoder(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", num_hidden_layers=1)
    digest = make_method(model, tmp_path, VeraConfig(target_modules=["q_proj", "down_proj"]), size=0.1)
    world, told = World(model, tmp_path, [digest], max_rank=256), []
    for passes, slots in (make_passes(world, "cpu"), make_torch_passes(world)):
        prompt, row, base = (passes.sequence(slot) for slot in (slots[1], slots[1], -1))
        told.append(
            passes.run(Chunk(prompt, tokens(20, 1)), Chunk(row, tokens(1, 2), False), Chunk(base, tokens(5, 3)))
        )
    for one, other in zip(*told, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


@pytest.mark.parametrize("is_deterministic", [False, True])
def test_hidden_states_equal_those_of_the_torch_decoder(
    worlds: dict[str, World], is_deterministic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_panels_small(monkeypatch)
    told = []
    for passes, slots in (make_passes(worlds["llama"], "cpu", is_deterministic), make_torch_passes(worlds["llama"])):
        chunks = (Chunk(passes.sequence(slots[1]), tokens(40, 1)), Chunk(passes.sequence(-1), tokens(1, 2), False))
        batch, _ = passes.batch(*chunks)
        wanted = replace(batch, sample_rows=torch.tensor([40, 39]), hidden_rows=torch.arange(40))
        told.append((passes.decoder.forward(wanted, passes.cache).clone(), passes.decoder.hidden.clone()))
    assert told[0][1].shape == (40, 64)
    for one, other in zip(*told, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_leaving_out_the_kernels_of_what_nobody_changes_changes_no_bit(
    worlds: dict[str, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, slots = make_passes(worlds["llama"], "cpu")
    sequences = [passes.sequence(slot) for slot in slots[:2]]
    passes.run(*(Chunk(sequence, tokens(9, 1)) for sequence in sequences))
    batch, _ = passes.batch(*(Chunk(sequence, tokens(1, 2), False) for sequence in sequences))
    least = passes.decoder.forward(batch, passes.cache).clone()
    monkeypatch.setattr(passes.decoder.bank, "targets", lambda slots: TargetModules.ALL)
    assert torch.equal(least, passes.decoder.forward(batch, passes.cache))


def test_every_product_of_the_base_has_one_panel_of_rows_where_asked(
    worlds: dict[str, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = prompt_and_row(make_torch_passes(worlds["llama"])[0])
    make_panels_small(monkeypatch)
    heights: set[int] = set()
    product = PlainLinear.__call__
    monkeypatch.setattr(PlainLinear, "__call__", lambda self, rows: (heights.add(len(rows)), product(self, rows))[1])
    fixed = prompt_and_row(make_passes(worlds["llama"], "cpu", is_deterministic=True)[0])
    assert heights == {TILE}
    for one, other in zip(fixed, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def prompt_and_row(passes: Passes) -> list[Tensor]:
    """The base's logits of a prompt of two tiles, and of another one's token beside it."""
    return passes.run(Chunk(passes.sequence(), tokens(40, 1)), Chunk(passes.sequence(), tokens(1, 2), False))


def make_panels_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes long for rows of padding."""
    for module in (step, decoder):
        monkeypatch.setattr(module, "PANEL", TILE)
