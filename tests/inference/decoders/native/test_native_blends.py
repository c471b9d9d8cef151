"""Blends on the native decoder: beside torch, beside a part that alone speaks, and beside the company they keep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from blends import flow_gate, ramole_gate, ref_of
from checkpoints import load_base, make_adapter, make_model
from passes import Chunk, Passes
from torch import Tensor

from inference.adapters.identity import composed_digest
from inference.adapters.slots import LoraSlots
from inference.adapters.store import AdapterCache, AdapterStore
from inference.adapters.stored_gate import StoredGate
from inference.decoders.native.bank import NativeBank
from inference.decoders.native.build import library_path, missing_feature
from inference.decoders.native.decoder import NativeDecoder
from inference.decoders.native.library import open_library, units_of
from inference.decoders.torch.decoder import TorchDecoder
from inference.decoders.torch.lora import LoraBank
from inference.model.architecture import TARGETS, read_architecture
from inference.model.weights import load_weights
from inference.wire.protocol import Component, GateRef

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(missing_feature() is not None, reason=f"not here: {missing_feature()}"),
    pytest.mark.slow,
]

SHAPE = {
    "hidden_size": 96,
    "intermediate_size": 160,
    "head_dim": 32,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "num_hidden_layers": 2,
}
ALL = list(TARGETS)
OPTIONS: list[dict[str, Any]] = [
    {"r": 3, "target_modules": ALL},
    {"r": 8, "target_modules": ALL, "lora_alpha": 20},
    {"r": 6, "target_modules": ["q_proj", "v_proj", "down_proj"], "layers_to_transform": [1]},
    {"r": 4, "target_modules": ALL, "use_dora": True},
]
BLOCK_SIZE = 32
HERE = units_of(open_library(library_path())) if missing_feature() is None else []
FLOW, RAMOLE = GateRef("flow", digest="9" * 64), GateRef("ramole", digest="8" * 64)
STILL, BEGUN = GateRef("ramole", digest="7" * 64), GateRef("flow", digest="6" * 64)


class World:
    """A tiny model with adapters of several ranks and extents, and gates."""

    def __init__(self, home: Path) -> None:
        self.model = make_model(home / "tiny", **SHAPE)
        self.store = home / "adapters"
        self.store.mkdir()
        self.digests = [make_adapter(self.model, self.store, 500 + at, **options) for at, options in enumerate(OPTIONS)]
        self.architecture = arch = read_architecture(self.model / "config.json")
        ramole = ramole_gate({target: arch.target_shape(target) for target in TARGETS}, arch.num_layers)
        still = {name: tensor * (not name.endswith("A_r")) for name, tensor in ramole.tensors.items()}
        begun = flow_gate([], 0, 0).tensors
        for layer in range(arch.num_layers):
            begun[f"layers.{layer}.weight"] = torch.zeros(2, arch.hidden_size)
            begun[f"layers.{layer}.bias"] = torch.tensor([-0.5, 0.5])
        flow = flow_gate(self.digests[:3], arch.num_layers, arch.hidden_size)
        gates = (flow, ramole, StoredGate("ramole", still), StoredGate("flow", begun))
        self.gates = dict(zip((ref.digest for ref in (FLOW, RAMOLE, STILL, BEGUN)), gates, strict=True))

    def native(self, unit: str, dtype: torch.dtype = torch.bfloat16) -> Bench:
        weights = load_weights(self.model, self.architecture, dtype)
        options = (library_path(), BLOCK_SIZE, 2, unit)
        return Bench(self, NativeDecoder(self.architecture, weights, NativeBank(16), *options), dtype)

    def torch(self, dtype: torch.dtype = torch.float32) -> Bench:
        weights = load_weights(self.model, self.architecture, dtype)
        return Bench(self, TorchDecoder(self.architecture, weights, LoraBank()), dtype)


class Bench:
    """One decoder of a world, and what is in its slots."""

    def __init__(self, world: World, decoder: Any, dtype: torch.dtype) -> None:
        self.world, self.decoder, self.dtype = world, decoder, dtype
        base = replace(load_base(world.model, dtype), is_packed=decoder.bank.is_packed)
        load = AdapterStore(world.store, base).load
        self.cache = AdapterCache(load, 2**30, 64, decoder.bank.prepare, world.gates.__getitem__)
        self.slots = LoraSlots(16, self.cache.load, decoder.bank)

    def slot(self, parts: list[int], gate: GateRef | None = None) -> int:
        digests = [self.world.digests[part] for part in parts]
        return self._placed(self.cache.load(*ref_of(digests, gate)).digest if gate else digests[0])

    def sum(self, weights: dict[int, float]) -> int:
        components = tuple(Component(self.world.digests[part], weight) for part, weight in weights.items())
        digest = composed_digest((part.digest, part.weight) for part in components)
        return self._placed(self.cache.load(digest, components).digest)

    def _placed(self, digest: str) -> int:
        slot = self.slots.acquire(digest)
        assert slot is not None
        return slot

    def answer(self, slots: list[int], split: int = 40) -> list[Tensor]:
        """Logits of each row's tokens: a prompt in tiles, then the rest one by one, all rows in the same passes."""
        passes = Passes(self.decoder, block_size=BLOCK_SIZE, dtype=self.dtype)
        known = [passes.sequence(slot) for slot in slots]
        texts = [tokens(46, at) for at in range(len(slots))]
        tiles = [Chunk(one, text[:split]) for one, text in zip(known, texts, strict=True) if split]
        steps = [passes.run(*tiles)] if tiles else []
        for at in range(split, 46):
            steps.append(passes.run(*(Chunk(one, [text[at]], False) for one, text in zip(known, texts, strict=True))))
        return [torch.cat(rows) for rows in zip(*steps, strict=True)]

    def alone(self, slot: int, row: int, split: int = 40) -> Tensor:
        """What the row `row` of `answer` is when nobody else is there."""
        passes = Passes(self.decoder, block_size=BLOCK_SIZE, dtype=self.dtype)
        one, text = passes.sequence(slot), tokens(46, row)
        steps = passes.run(Chunk(one, text[:split])) if split else []
        return torch.cat([*steps, *(passes.run(Chunk(one, [token], False))[0] for token in text[split:])])


def tokens(count: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 131, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("native-blends"))


def rows_of(bench: Bench) -> list[int]:
    """One of each kind, and blends whose parts come in other orders."""
    return [
        bench.slot([0, 1, 2], GateRef("arrow")),
        bench.slot([2, 1, 0], GateRef("arrow", 2, 0.5)),
        bench.slot([0, 1, 2], FLOW),
        bench.slot([1, 2, 0], RAMOLE),
        bench.slot([1]),
        -1,
        bench.slot([3]),
        bench.sum({0: 0.5, 1: 1.5}),
        bench.slot([0, 1, 2], FLOW),
        bench.slot([0, 1, 2], GateRef("arrow", 1)),
    ]


@pytest.mark.parametrize("unit", HERE)
def test_blends_equal_torch_in_float32_on_every_unit(world: World, unit: str) -> None:
    native, slow = world.native(unit, torch.float32), world.torch()
    for found, expected in zip(native.answer(rows_of(native)), slow.answer(rows_of(slow)), strict=True):
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


def test_in_bfloat16_they_are_as_near_to_float32_as_torch_is(world: World) -> None:
    native, slow, truth = world.native("auto"), world.torch(torch.bfloat16), world.torch()
    answers = [bench.answer(rows_of(bench)) for bench in (native, slow, truth)]
    for kind, (fast, other, true) in enumerate(zip(*answers, strict=True)):
        off, allowed = ((each - true).pow(2).mean().sqrt() for each in (fast, other))
        assert off < 1.3 * allowed, f"row {kind}"


@pytest.mark.parametrize("unit", HERE)
def test_each_row_has_the_bits_that_it_has_alone_in_tiles_and_as_decode_rows(world: World, unit: str) -> None:
    bench = world.native(unit)
    slots = rows_of(bench)
    together = bench.answer(slots)
    for row, slot in enumerate(slots):
        assert torch.equal(together[row], bench.alone(slot, row)), f"row {row}"
    assert all(torch.equal(one, other) for one, other in zip(together, bench.answer(slots, split=32), strict=True))
    assert torch.equal(together[2], bench.alone(slots[2], 2, split=0))


@pytest.mark.parametrize("unit", HERE)
def test_a_part_that_alone_speaks_has_its_adapters_bits(world: World, unit: str) -> None:
    bench = world.native(unit)
    for part, parts, gate in (
        (1, [0, 1], BEGUN),
        (0, [1, 0], BEGUN),
        (0, [0], GateRef("arrow")),
        (1, [1], GateRef("ramole", digest=RAMOLE.digest)),
    ):
        assert torch.equal(bench.alone(bench.slot(parts, gate), 0), bench.alone(bench.slot([part]), 0))


def test_equal_keys_have_the_bits_of_the_uniform_sum(world: World) -> None:
    bench = world.native("auto")
    assert torch.equal(bench.alone(bench.slot([1, 2], STILL), 0), bench.alone(bench.sum({1: 0.5, 2: 0.5}), 0))
