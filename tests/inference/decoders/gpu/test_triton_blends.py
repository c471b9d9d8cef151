"""Blends on the decoder for a GPU against the decoder of torch, in Triton's interpreter or on a GPU."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need the package triton")

from inference.adapters.slots import LoraSlots
from inference.adapters.store import AdapterCache, AdapterStore
from inference.decoders.gpu.bank import SlotBank
from inference.decoders.gpu.decoder import TritonDecoder
from inference.decoders.kv_tensors import KVCache
from inference.decoders.torch.decoder import TorchDecoder
from inference.decoders.torch.lora import LoraBank
from inference.model.architecture import TARGETS, read_architecture
from inference.model.weights import load_weights
from inference.wire.protocol import GateRef
from tests.inference.blends import flow_gate, ramole_gate, ref_of
from tests.inference.checkpoints import load_base, make_adapter, make_model
from tests.inference.decoders.gpu.worlds import tokens
from tests.inference.passes import Chunk, Passes

pytestmark = pytest.mark.slow
interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels are compiled here")
OPTIONS: list[dict[str, Any]] = [
    {"r": 3, "target_modules": list(TARGETS)},
    {"r": 6, "target_modules": ["q_proj", "v_proj", "down_proj"]},
    {"r": 8, "target_modules": list(TARGETS), "use_dora": True},
]
CHOOSING = 3
"""The row of the blend that chooses."""


class World:
    """A tiny model, adapters and gates, and what each decoder makes of them."""

    def __init__(self, home: Path) -> None:
        self.model, self.store = make_model(home / "model", num_hidden_layers=2), home / "adapters"
        self.store.mkdir()
        self.digests = [make_adapter(self.model, self.store, 700 + at, **lora) for at, lora in enumerate(OPTIONS)]
        self.architecture = arch = read_architecture(self.model / "config.json").within(128)
        shapes = {target: arch.target_shape(target) for target in TARGETS}
        self.gates = {
            "9" * 64: flow_gate(self.digests[:2], arch.num_layers, arch.hidden_size),
            "8" * 64: ramole_gate(shapes, arch.num_layers),
        }

    def by_kernels(self, is_int8: bool = False, device: str = "cpu") -> list[torch.Tensor]:
        """Logits of each chunk, and behind them of each pass what is told of its gates."""
        place = torch.device(device)
        weights, bank = (
            load_weights(self.model, self.architecture, torch.float32, place),
            SlotBank(8, 64, place, is_int8),
        )
        return [rows.cpu() for rows in self._traffic(TritonDecoder(self.architecture, weights, bank, 8))]

    def by_torch(self) -> list[torch.Tensor]:
        """The same."""
        weights = load_weights(self.model, self.architecture, torch.float32)
        return self._traffic(TorchDecoder(self.architecture, weights, LoraBank()))

    def _traffic(self, decoder: Any) -> list[torch.Tensor]:
        """Prompts of the base, a DoRA, an adapter and blends of each kind, and a token more of each."""
        load = AdapterStore(self.store, load_base(self.model)).load
        cache = AdapterCache(load, 2**30, 64, decoder.bank.prepare, self.gates.__getitem__)
        slots, rows = LoraSlots(8, cache.load, decoder.bank), [-1]
        rows += [placed(slots, digest) for digest in (self.digests[2], self.digests[1])]
        kinds = (GateRef("arrow", 1), GateRef("arrow", temperature=0.5), GateRef("flow", digest="9" * 64))
        for gate in (*kinds, GateRef("ramole", digest="8" * 64)):
            rows.append(placed(slots, cache.load(*ref_of(self.digests[:2], gate)).digest))
        passes = Passes(decoder)
        passes.cache = KVCache(self.architecture, 96, 16, torch.float32, decoder.weights.device)
        known = [passes.sequence(slot, 64) for slot in rows]
        found, told = passes.run(*(Chunk(one, tokens(20 + at, at)) for at, one in enumerate(known))), []
        told.append(decoder.coefficients)
        found += passes.run(*(Chunk(one, tokens(1, 30 + at), False) for at, one in enumerate(known)))
        return [*found, *told, decoder.coefficients]


def placed(slots: LoraSlots, digest: str) -> int:
    """The slot of `digest`, once it is there."""
    while (slot := slots.acquire(digest)) is None:
        time.sleep(0.001)
    return slot


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("triton-blends"))


def check(world: World, device: str) -> None:
    for row, (one, other) in enumerate(zip(world.by_kernels(device=device), world.by_torch(), strict=True)):
        name = f"row {row}"
        torch.testing.assert_close(
            one, other, atol=3e-4, rtol=0, equal_nan=True, msg=lambda text, name=name: f"{name}: {text}"
        )


@interpreted
def test_blends_of_every_kind_beside_others_equal_the_torch_decoder(world: World) -> None:
    check(world, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_on_a_device_they_equal_it_too(world: World) -> None:
    check(world, "cuda")


@interpreted
def test_in_int8_they_are_near_where_no_part_is_chosen(world: World) -> None:
    """Fewer bits may choose another part, after which all differs."""
    found = list(zip(world.by_kernels(is_int8=True)[:-2], world.by_torch()[:-2], strict=True))
    for row in set(range(len(found))) - {CHOOSING, CHOOSING + len(found) // 2}:
        one, other = found[row]
        assert (one - other).pow(2).mean().sqrt() < 0.3 * other.std(), f"row {row}"
